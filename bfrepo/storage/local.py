"""Objects as files below one directory, on anything that behaves like a POSIX file system.

How a file comes to be
    1. written to `tmp/<32 hex digits>`, mode 0400    a crash leaves a nameless file that means nothing
    2. fsync of the file                              its bytes are on the disk
    3. rename to its place                            seen whole or not at all (`config`: link, which never replaces)
    4. fsync of the directory                         its name is on the disk too
The bytes are durable before the name can be, so no crash shows a name without its bytes. A deletion is an unlink and
the same fsync of the directory: after a power cut nothing may be back whose deletion came before that of what it needs.

Leftovers in `tmp/` are swept by the first write of a later run when nothing was written to them for a week. That rests
on the file system's clock and ours, but nothing worse than a failed upload can come of a clock that is wrong.

A directory of a kind that is not there is never taken for an empty one: it may be a volume that is not mounted, and
whoever decides what to delete would conclude that nothing is in use.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from bfrepo.core.clock import Clock, SystemClock
from bfrepo.core.errors import (
    DamagedObject,
    RepositoryExists,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import ObjectInfo, ObjectKind, Upload
from bfrepo.storage.durable import link_new, open_private, sync, sync_directory, write_all
from bfrepo.storage.layout import DIRECTORY_KINDS, describe, object_path, parse_object_path
from bfrepo.storage.openfiles import OpenFiles

_TEMPORARY = "tmp"
_DIRECTORY_MODE = 0o700

_SWEEP_AFTER_S = 7 * 24 * 3600
"""How long a temporary file may lie untouched: longer than any pause of a running upload, shorter than it annoys."""

_OPEN_FILES = 32
"""How many packs stay open for reading: a restore reads a few packs frame by frame, and ulimits start at 256."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_USUAL_FOLDERS: Final[Mapping[ObjectKind, str]] = MappingProxyType({kind: kind.value for kind in DIRECTORY_KINDS})

_PACK_DIRECTORY = re.compile(r"[0-9a-f]{2}")


class LocalBackend:
    """A repository in the directory `root`. Thread rule and errors are those of `Backend`."""

    connections = 2  # one call waits for the disk while the other copies

    def __init__(
        self, root: Path, *, clock: Clock | None = None, folders: Mapping[ObjectKind, str] = _USUAL_FOLDERS
    ) -> None:
        """`folders` names the directory of each kind, where that is not the usual one."""
        self._root = root.absolute()
        self._folders = {**_USUAL_FOLDERS, **folders}
        self._clock = clock or SystemClock()
        self._files = OpenFiles(_OPEN_FILES)
        self._lock = threading.Lock()
        self._swept = False
        self._ready_directories: set[str] = set()
        self._made: list[Path] = []

    @property
    def location(self) -> str:
        """The absolute path, printable whatever bytes it holds."""
        return os.fsencode(self._root).decode(errors="backslashreplace")

    def create(self) -> None:
        """See `Backend.create`. Makes missing parent directories too."""
        try:
            self._made = made = _make_directories(self._root)
            if not _is_empty_frame(self._root, self._frame()):
                raise RepositoryExists(
                    f"{self.location} is not empty", hint="choose a new or empty directory for the repository"
                )
            for name in self._frame():
                (self._root / name).mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            for directory in (self._root, *(path.parent for path in reversed(made))):
                sync_directory(directory)
        except (FileExistsError, NotADirectoryError) as error:
            raise RepositoryExists(f"{self.location} is not a directory", hint="choose another place") from error
        except OSError as error:
            raise self._failure("cannot make a repository", error) from error

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        try:
            if kind is ObjectKind.CONFIG:
                directories = [self._root]
            elif kind is ObjectKind.PACK:
                directories = _pack_directories(self._directory(kind))
            else:
                directories = [self._directory(kind)]
            for directory in directories:
                yield from _objects_in(directory, kind)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._incomplete() from error
        except OSError as error:
            raise self._failure(f"cannot list {kind.value}", error) from error

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        path = self._path(kind, name)
        with self._reading(kind, name):
            return os.stat(path).st_size

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        path = self._path(kind, name)
        with self._reading(kind, name), open(path, "rb", buffering=0) as file:
            return file.readall()

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        path = self._path(kind, name)
        with self._reading(kind, name), self._files.borrow(path) as file:
            self._check_range(kind, name, offset, length, file.size)
            data = os.pread(file.descriptor, length, offset)
            while len(data) < length:
                more = os.pread(file.descriptor, length - len(data), offset + len(data))
                self._check_progress(kind, name, len(more))
                data += more
            return data

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        path = self._path(kind, name)
        rest = buffer.cast("B")
        with self._reading(kind, name), self._files.borrow(path) as file:
            self._check_range(kind, name, offset, len(rest), file.size)
            while rest:
                count = os.preadv(file.descriptor, [rest], offset)
                self._check_progress(kind, name, count)
                rest, offset = rest[count:], offset + count

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        object_path(kind, name)  # refuses what is no name before anything is written
        upload = _LocalUpload(self, kind)
        try:
            upload.write(data)
            upload.commit(name)
        finally:
            upload.abort()

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`."""
        if kind is ObjectKind.CONFIG:
            raise ValueError("config is saved whole, never uploaded")
        return _LocalUpload(self, kind)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        path = self._path(kind, name)
        with self.writing(kind, name):
            try:
                os.unlink(path)
            except FileNotFoundError:
                if not os.path.isdir(self._directory(kind)):
                    raise
            self._files.forget(path)
            # Also when it was gone: the deletion that took it away may have failed before this line.
            if os.path.isdir(os.path.dirname(path)):
                sync_directory(os.path.dirname(path))

    def remove_place(self) -> None:
        """See `PlaceRemover`. A root that was there before `create` stays."""
        packs = self._directory(ObjectKind.PACK)
        inner = [packs / f"{number:02x}" for number in range(256)]
        for directory in (*inner, *(self._root / name for name in self._frame()), *self._made):
            with suppress(OSError):
                directory.rmdir()

    def close(self) -> None:
        """See `Backend.close`."""
        self._files.close()

    def new_temporary(self) -> Path:
        """A path in `tmp/` that nobody uses. The first call of a backend sweeps old leftovers there."""
        directory = self._root / _TEMPORARY
        with self._lock:  # no file of ours is there yet, so a clock that is ahead does not make us sweep our own
            if not self._swept:
                self._swept = True
                _sweep(directory, before_s=self._clock.now().timestamp() - _SWEEP_AFTER_S)
        return directory / secrets.token_hex(16)

    def publish(self, temporary: Path, kind: ObjectKind, name: str) -> None:
        """Give a temporary file, already on the disk, its place and name, durably. Raises OSError."""
        path = self._path(kind, name)
        directory = os.path.dirname(path)
        if kind is ObjectKind.CONFIG:
            link_new(temporary, path)
        else:
            if kind is ObjectKind.PACK:
                self._ready_directory(directory)
            os.rename(temporary, path)
            self._files.forget(path)
        sync_directory(directory)

    @contextmanager
    def writing(self, kind: ObjectKind, name: str | None) -> Iterator[None]:
        """Turns what goes wrong with a file in a change into our errors; `name` is None while it is not known."""
        subject = f"{kind.value.removesuffix('s')} being written" if name is None else describe(kind, name)
        try:
            yield
        except FileExistsError as error:
            raise StorageObjectExists(
                f"{subject} in {self.location} exists already",
                hint="there is a repository: use it, or choose another place",
            ) from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._incomplete() from error
        except OSError as error:
            raise self._failure(subject, error) from error

    @contextmanager
    def _reading(self, kind: ObjectKind, name: str) -> Iterator[None]:
        """Turns what goes wrong with a file that is read into our errors."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            if kind is ObjectKind.CONFIG or os.path.isdir(self._directory(kind)):
                raise StorageObjectMissing(f"{describe(kind, name)} is missing in {self.location}") from error
            raise self._incomplete() from error
        except OSError as error:
            self._files.forget(self._path(kind, name))  # a stale handle of a network share must not fail every retry
            raise self._failure(describe(kind, name), error) from error

    def _failure(self, subject: str, error: OSError) -> StorageError:
        reason = error.strerror or type(error).__name__
        message = f"{subject} in {self.location}: {reason[:1].lower()}{reason[1:]}"
        if error.errno in _FULL:
            return StorageFull(message, hint="make room on the volume, or raise the quota, and run it again")
        if error.errno in _DENIED:
            return StorageDenied(message, hint="check the owner and mode of the repository, and how it is mounted")
        return StorageError(message)

    def _incomplete(self) -> StorageError:
        """The error for a place without one of the directories that `create` makes."""
        if not os.path.isdir(self._root):
            return StorageError(f"the directory {self.location} is missing", hint="is the volume mounted?")
        absent = [name for name in self._frame() if not os.path.isdir(self._root / name)]
        if not absent:
            return StorageError(f"something in {self.location} vanished while it was in use")
        return StorageError(
            f"{self.location} is not a complete repository: the directory {absent[0]} is missing in it",
            hint="is the volume mounted? If a copy left out empty directories, make them again",
        )

    def _check_range(self, kind: ObjectKind, name: str, offset: int, length: int, size: int) -> None:
        if offset + length > size:
            raise DamagedObject(
                f"{describe(kind, name)} in {self.location} is too short: it ends at byte {size}, "
                f"before the {length} bytes at {offset}",
                hint="run `backupforge check` to see what depends on it",
            )

    def _check_progress(self, kind: ObjectKind, name: str, count: int) -> None:
        if not count:
            raise DamagedObject(f"{describe(kind, name)} in {self.location} became shorter while it was read")

    def _directory(self, kind: ObjectKind) -> Path:
        return self._root if kind is ObjectKind.CONFIG else self._root / self._folders[kind]

    def _path(self, kind: ObjectKind, name: str) -> str:
        path = object_path(kind, name)
        if kind is not ObjectKind.CONFIG:
            path = self._folders[kind] + path[len(kind.value) :]
        return f"{self._root}/{path}"  # text: a Path costs as much as reading a small frame

    def _frame(self) -> tuple[str, ...]:
        """What `create` makes below the root."""
        return (*self._folders.values(), _TEMPORARY)

    def _ready_directory(self, directory: str) -> None:
        """Make one of the 256 pack directories, and its name durable even if another process made it just now."""
        with self._lock:
            if directory not in self._ready_directories:
                with suppress(FileExistsError):
                    os.mkdir(directory, _DIRECTORY_MODE)
                sync_directory(os.path.dirname(directory))
                self._ready_directories.add(directory)


class _LocalUpload:
    """A temporary file that becomes an object."""

    __slots__ = ("_backend", "_file", "_kind", "_temporary")

    def __init__(self, backend: LocalBackend, kind: ObjectKind) -> None:
        self._backend = backend
        self._kind = kind
        self._temporary = backend.new_temporary()
        with backend.writing(kind, None):
            self._file = open(self._temporary, "xb", buffering=0, opener=open_private)  # noqa: SIM115

    def write(self, data: Buffer) -> None:
        with self._backend.writing(self._kind, None):
            write_all(self._file, data)

    def commit(self, name: str) -> None:
        try:
            object_path(self._kind, name)  # refuses what is no name
            with self._backend.writing(self._kind, name):
                sync(self._file.fileno())
                self._file.close()
                self._backend.publish(self._temporary, self._kind, name)
        finally:
            self.abort()

    def abort(self) -> None:
        # What cannot be removed now is swept by a later run.
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _make_directories(root: Path) -> list[Path]:
    """Make `root` and its missing parents; returns what was missing, the innermost first."""
    missing = []
    path = root
    while not path.exists():
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        each.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    return missing


def _is_empty_frame(root: Path, ours: Collection[str]) -> bool:
    """Whether nothing is there but empty directories of ours, which an interrupted `create` leaves."""
    with os.scandir(root) as entries:
        return all(entry.name in ours and entry.is_dir() and not os.listdir(entry) for entry in entries)


def _pack_directories(packs: Path) -> list[Path]:
    with os.scandir(packs) as entries:
        return [Path(entry) for entry in entries if _PACK_DIRECTORY.fullmatch(entry.name) and entry.is_dir()]


def _objects_in(directory: Path, kind: ObjectKind) -> list[ObjectInfo]:
    """The objects of `kind` right in `directory`. Raises OSError, but not for what is deleted meanwhile."""
    prefix = {ObjectKind.CONFIG: "", ObjectKind.PACK: f"{kind.value}/{directory.name}/"}.get(kind, f"{kind.value}/")
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            parsed = parse_object_path(prefix + entry.name)
            if parsed is None or parsed[0] is not kind:
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(ObjectInfo(entry.name, status.st_size))
    return found


def _sweep(directory: Path, *, before_s: float) -> None:
    """Remove temporary files that were last written before `before_s` (seconds since 1970). As good as it goes."""
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < before_s:
                    os.unlink(entry)
