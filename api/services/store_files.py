"""What clients send, as files: one folder for each store, in the layout of restic's rest-server.

    config                      of the store; the only object that no hash names
    data/<2 hex>/<64 hex>       packs
    keys index snapshots locks  /<64 hex> each
    tmp/<32 hex>                an upload under way, as large as it will be, and locked while somebody sends it
    tmp/job-<32 hex>            the same of a job of the server, which locks nothing: swept by later jobs, after a week

How an object comes to be
    1. written to tmp/, hashed on the way       a crash leaves a nameless file, which is swept away
    2. its hash is its name                     SHA-256, as restic names objects, or BLAKE3, as we do
    3. fsync of the file                        its bytes are on the disk
    4. link                                     it is seen whole or not at all, and never replaces anything
    5. fsync of the directory                   its name is on the disk too
Every method blocks. Nothing here knows of tenants, quotas or HTTP.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from blake3 import blake3

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.protocols import Buffer
from bfrepo.storage.durable import open_private, sync, sync_directory, write_all

CONFIG: Final = "config"
LOCKS: Final = "locks"
_DATA: Final = "data"
KINDS: Final = (_DATA, "keys", LOCKS, "snapshots", "index")
"""The kinds of objects that the protocol knows beside the config."""

_TEMPORARY: Final = "tmp"
JOB_PREFIX: Final = "job-"
"""How the names of temporary files begin that jobs write to, where the store lies."""

_SHARDS: Final = tuple(f"{number:02x}" for number in range(256))
_NAME: Final = re.compile(r"[0-9a-f]{64}")
_MODE: Final = 0o700
_BLOCK: Final = 1 << 20


class Hash(Protocol):
    """SHA-256 or BLAKE3."""

    def update(self, data: Buffer, /) -> object:
        """Go on with these bytes."""
        raise NotImplementedError

    def hexdigest(self) -> str:
        """The hash of all bytes until now."""
        raise NotImplementedError


HASHES: Final[Mapping[str, Callable[[], Hash]]] = {"blake3": blake3, "sha256": hashlib.sha256}


class WrongName(BackupForgeError):
    """The bytes that were sent do not hash to the name that they were sent for."""


class Stored(NamedTuple):
    """An object of a listing, its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """Where an object is within its store: `kind` is one of KINDS or CONFIG, which alone has no name."""

    kind: str
    name: str = ""

    def __post_init__(self) -> None:
        known = not self.name if self.kind == CONFIG else self.kind in KINDS and _NAME.fullmatch(self.name)
        if not known:
            raise ValueError(f"{self.kind!r} and {self.name!r} name no object")

    def __str__(self) -> str:
        if self.kind == CONFIG:
            return CONFIG
        return f"{_DATA}/{self.name[:2]}/{self.name}" if self.kind == _DATA else f"{self.kind}/{self.name}"


class StoreFolder:
    """The files of one store. Thread-safe, as the file system is."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self) -> None:
        """Make its directories, those that are missing. Raises OSError."""
        shards = [f"{_DATA}/{shard}" for shard in _SHARDS]
        for name in ("", *KINDS, _TEMPORARY, *shards):
            (self.root / name).mkdir(mode=_MODE, parents=True, exist_ok=True)
        for directory in (self.root / _DATA, self.root, self.root.parent, self.root.parent.parent):
            sync_directory(directory)

    def size(self, path: ObjectPath) -> int | None:
        """An object's size; None where there is none. Raises OSError."""
        try:
            return self._file(path).stat().st_size
        except FileNotFoundError:
            self._check_there()
            return None

    def open(self, path: ObjectPath) -> tuple[int, int] | None:
        """A descriptor to read an object with, and its size; None where there is none. Raises OSError."""
        try:
            descriptor = os.open(self._file(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            self._check_there()
            return None
        return descriptor, os.fstat(descriptor).st_size

    def objects(self, kind: str) -> Iterator[Stored]:
        """The objects of a kind, shard by shard in order of their names. Raises OSError."""
        directories = [self.root / kind / shard for shard in _SHARDS] if kind == _DATA else [self.root / kind]
        for directory in directories:
            yield from sorted(_objects_in(directory))

    def delete(self, path: ObjectPath) -> int:
        """Remove an object, if there is one. Returns how many bytes are free now. Raises OSError."""
        file = self._file(path)
        try:
            size = file.stat().st_size
            file.unlink()
        except FileNotFoundError:
            self._check_there()
            size = 0
        sync_directory(file.parent)
        return size

    def used(self) -> int | None:
        """How many bytes there are, with those that uploads under way will take. Sweeps leftovers. Raises OSError.

        None when an upload ended meanwhile: it would be counted twice, or not at all.
        """
        sizes = [_under_way(Path(entry)) for entry in os.scandir(self.root / _TEMPORARY)]
        under_way = set(os.listdir(self.root / _TEMPORARY))
        total = sum(each.size for kind in KINDS for each in self.objects(kind)) + (self.size(ObjectPath(CONFIG)) or 0)
        return sum(sizes) + total if under_way <= set(os.listdir(self.root / _TEMPORARY)) else None

    def hashes_to_name(self, path: ObjectPath, blocks: Iterable[bytes]) -> bool:
        """Whether the bytes are those that the name promises. A config has no hash for a name, and is always right."""
        if path.kind == CONFIG:
            return True
        hashes = [make() for make in HASHES.values()]
        for block in blocks:
            for each in hashes:
                each.update(block)
        return path.name in [each.hexdigest() for each in hashes]

    def temporary(self) -> tuple[FileIO, Path]:
        """A new file for an upload, locked as long as it is open. Raises OSError."""
        while True:
            path = self.root / _TEMPORARY / secrets.token_hex(16)
            file = open(path, "xb", buffering=0, opener=open_private)  # noqa: SIM115
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():
                return file, path
            file.close()  # somebody who sweeps was quicker with the lock

    def publish(self, temporary: Path, path: ObjectPath) -> None:
        """Give a file that is on the disk already its place. Raises FileExistsError, OSError."""
        file = self._file(path)
        os.link(temporary, file)
        temporary.unlink(missing_ok=True)
        sync_directory(file.parent)

    def _file(self, path: ObjectPath) -> Path:
        return self.root / str(path)

    def _check_there(self) -> None:
        """Raises OSError if the folder is gone: a volume that is not mounted must not look like an empty store."""
        (self.root / _TEMPORARY).stat()


class Incoming:
    """A file that is being sent. Belongs to one thread at a time; what is not committed is to be aborted."""

    def __init__(self, folder: StoreFolder, path: ObjectPath, size: int, likely: str) -> None:
        """`likely` is the hash, of HASHES, that the name probably is. Raises OSError."""
        self._folder = folder
        self._path = path
        self._size = size
        self.hash = likely
        self._hasher: Hash | None = None if path.kind == CONFIG else HASHES[likely]()
        self._written = 0
        self._file, self._temporary = folder.temporary()
        try:
            os.ftruncate(self._file.fileno(), size)  # so that whoever counts the files counts all of it
        except OSError:
            self.abort()
            raise

    def write(self, blocks: Iterable[Buffer]) -> None:
        """The next bytes. Raises OSError; ValueError when it was aborted."""
        for block in blocks:
            write_all(self._file, block)
            self._written += len(memoryview(block))
            if self._hasher is not None:
                self._hasher.update(block)

    def commit(self) -> None:
        """Give it its place. Raises WrongName, FileExistsError, OSError."""
        if self._written != self._size:
            raise WrongName(f"{self._written} bytes were sent instead of {self._size}")
        if self._hasher is not None and self._hasher.hexdigest() != self._path.name:
            self._try_other_hash()
        sync(self._file.fileno())
        self._folder.publish(self._temporary, self._path)
        self._file.close()

    def abort(self) -> None:
        """Remove what was not committed. What cannot be removed now is swept later."""
        self._file.close()
        with suppress(OSError):
            self._temporary.unlink()

    def _try_other_hash(self) -> None:
        self.hash = next(name for name in HASHES if name != self.hash)
        hasher: Hash = HASHES[self.hash]()
        with open(self._temporary, "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                hasher.update(block)
        if hasher.hexdigest() != self._path.name:
            raise WrongName("the name is neither the SHA-256 nor the BLAKE3 of what was sent")


def _objects_in(directory: Path) -> Iterator[Stored]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if not _NAME.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # deleted meanwhile
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    yield Stored(entry.name, found.st_size)


def _under_way(temporary: Path) -> int:
    """The size of an upload under way. What nobody sends any more is removed, and has none."""
    try:
        if temporary.name.startswith(JOB_PREFIX):
            return temporary.stat().st_size
        with open(temporary, "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.unlink()
    except BlockingIOError:
        return found.st_size if found.st_nlink == 1 else 0  # with two names it is counted as an object already
    except FileNotFoundError:
        pass
    return 0
