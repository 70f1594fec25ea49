"""Objects of a remote repository on this machine's disk: what is read again and again, and never changes (INV-3).

    snapshots/<name>    as stored
    packs/<name>        packs of trees, as stored; those of file data are read once, and seldom

The index has a file of its own (index/cache.py). `config`, keys and claims are always asked for: who may open a
repository, and who is using it, is for the storage to say. So is what there is: no listing and no size comes from here.

Sealed      What is kept are the stored bytes. Of a repository that is encrypted they are ciphertext, and this adds
            nothing that the storage does not know. Of one that is not they are as readable as there; files have mode
            0600, directories 0700, and names are hashes.
Believed    only when proved. A whole object is hashed when it is loaded. A pack is hashed from end to end before its
            first range is given out, and again when the file behind its name is another one than it was then. What
            a disk changes after that is caught like everything that a storage returns: a sealed frame does not open,
            a blob does not hash to its ID (INV-4). A file that is damaged is dropped, and the object fetched again.
Shared      Any number of processes may use it at once, without locks: a file gets its name when it is complete, by a
            rename, and is never altered. Who reads a file that another one removes goes on reading it.
Bound       to so many bytes. Beyond that the files go that were not used for longest. An access time is set once by
            each process that uses a file, as not every file system notes it by itself.

It can be lost at any time, and where it cannot be written to, or the disk is full, everything works without it.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from blake3 import blake3

from bfrepo.core.clock import Clock
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import GIB, MIB
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.durable import write_all
from bfrepo.storage.openfiles import OpenFile, OpenFiles

MOST_KEPT: Final = 4 * GIB
"""Bytes that are kept of one repository: the trees of some fifty million files."""

CACHED_KINDS: Final = (ObjectKind.SNAPSHOT, ObjectKind.PACK)
"""The kinds that are kept, each in a directory by its value."""

PARTIAL: Final = ".part"
"""The end of the names of files that are not complete yet."""

_MOST_OF_DISK: Final = 4
"""No more is kept than this part of the room that is left on the disk: a cache must not be what fills it."""
_MOST_OF_CACHE: Final = 4
"""An object larger than this part of the cache is not kept: it would push out too much for one."""
_LEFT_BY_CRASH_S: Final = 24 * 3600.0
_OPEN_FILES: Final = 32
_PIECE: Final = 4 * MIB

_Identity: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Kept:
    """A file, and when it was used last."""

    used_ns: int
    size: int
    path: str


class ObjectCache:
    """One repository's objects in `folder`. May be used from any thread; `close` it. Nothing raises OSError."""

    def __init__(self, folder: Path, clock: Clock, *, limit: int = MOST_KEPT) -> None:
        self._folder = folder
        self._clock = clock
        self._limit = limit
        self._files = OpenFiles(_OPEN_FILES)
        self._lock = threading.Lock()
        self._size: int | None = None
        self._proved: dict[str, _Identity] = {}
        self._doubts = False
        self._usable = True

    def takes(self, size: int) -> bool:
        """Whether an object of so many bytes is kept at all."""
        return self._usable and size <= self._limit // _MOST_OF_CACHE

    def doubt(self) -> None:
        """Believe nothing that is here by now: every object is fetched once more before it is given out.

        For whoever wants to know what the storage has.
        """
        with self._lock:
            self._doubts = True
            self._proved.clear()

    @property
    def limit(self) -> int:
        """Bytes that may be kept."""
        return self._limit

    def has(self, kind: ObjectKind, name: str) -> bool:
        """Whether an object seems to be here, and is not doubted; it may yet turn out to be damaged."""
        path = self._path(kind, name)
        return self._may_believe(path) and os.path.exists(path)

    def load(self, kind: ObjectKind, name: str) -> bytes | None:
        """A whole object, if it is here and intact."""
        path = self._path(kind, name)
        if not self._may_believe(path):
            return None
        try:
            with open(path, "rb", buffering=0) as file:
                data = file.readall()
        except OSError:
            return None
        if blake3(data).hexdigest() != name:
            self.drop(kind, name)
            return None
        self._note_use(path)
        return data

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> bool:
        """Fill `buffer` from an object, if it is here and intact; otherwise what is in it then means nothing."""
        path = self._path(kind, name)
        if not self._may_believe(path):
            return False
        try:
            with self._files.borrow(path) as file:
                proved = self._is_proved(path, name, file)
                if proved and _read(file, offset, buffer):
                    return True
        except OSError:
            return False
        self.drop(kind, name)
        return False

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """Keep an object, if it is what its name says."""
        with self.begin(kind) as file:
            file.write(data)
            file.keep_as(name)

    def begin(self, kind: ObjectKind) -> CacheFile:
        """A file for an object whose bytes come one after the other."""
        return CacheFile(self, kind, self._folder / kind.value)

    def drop(self, kind: ObjectKind, name: str) -> None:
        """Remove an object."""
        path = self._path(kind, name)
        self._files.forget(path)
        with self._lock:
            self._proved.pop(path, None)
        with suppress(OSError):
            size = os.stat(path).st_size
            os.unlink(path)
            with self._lock:
                self._size = self._size - size if self._size is not None else None

    def close(self) -> None:
        """Close files. May be called again."""
        self._files.close()

    def adopt(self, partial: str, kind: ObjectKind, name: str) -> None:
        """Give a complete file of `CacheFile`, whose bytes hash to the name, its place. Raises OSError."""
        path = self._path(kind, name)
        found = os.stat(partial)
        os.replace(partial, path)
        self._files.forget(path)
        with self._lock:
            self._proved[path] = _identity(found)
            self._size = self._measure() if self._size is None else self._size + found.st_size
            full = self._size > self._limit
        if full:
            self._make_room()

    def give_up(self) -> None:
        """Keep nothing from now on: the disk is full, or not ours to write to."""
        self._usable = False

    @property
    def usable(self) -> bool:
        """Whether anything is kept."""
        return self._usable

    def _path(self, kind: ObjectKind, name: str) -> str:
        return f"{self._folder}/{kind.value}/{name}"

    def _may_believe(self, path: str) -> bool:
        return not self._doubts or path in self._proved

    def _is_proved(self, path: str, name: str, file: OpenFile) -> bool:
        """Whether the file's bytes hash to its name, found out once for each file."""
        found = os.fstat(file.descriptor)
        if self._proved.get(path) == _identity(found):
            return True
        hasher, offset = blake3(), 0
        while piece := os.pread(file.descriptor, _PIECE, offset):
            hasher.update(piece)
            offset += len(piece)
        if hasher.hexdigest() != name:
            return False
        with self._lock:
            self._proved[path] = _identity(found)
        self._note_use(path)
        return True

    def _note_use(self, path: str) -> None:
        with suppress(OSError):
            now = int(self._clock.now().timestamp() * 1e9)
            os.utime(path, ns=(now, os.stat(path).st_mtime_ns))

    def _measure(self) -> int:
        """Bytes that are here; the first look also sets the limit by the room that the disk has."""
        size = sum(kept.size for kept in self._all_kept())
        with suppress(OSError):
            disk = os.statvfs(self._folder)
            self._limit = min(self._limit, (size + disk.f_bavail * disk.f_frsize) // _MOST_OF_DISK)
        return size

    def _make_room(self) -> None:
        """Remove what was not used for longest, and some more, so that the next object does not find it full again."""
        kept = sorted(self._all_kept(), key=lambda each: each.used_ns)
        size = sum(each.size for each in kept)
        for each in kept:
            if size <= self._limit * 3 // 4:
                break
            with suppress(OSError):
                os.unlink(each.path)
            self._files.forget(each.path)
            size -= each.size
        with self._lock:
            self._size = size

    def _all_kept(self) -> Iterator[_Kept]:
        """Every complete file. What crashes have left is removed on the way."""
        oldest = self._clock.now().timestamp() - _LEFT_BY_CRASH_S
        for kind in CACHED_KINDS:
            with suppress(OSError), os.scandir(self._folder / kind.value) as entries:
                for entry in entries:
                    with suppress(OSError):  # another process has just removed it
                        found = entry.stat(follow_symlinks=False)
                        if not entry.name.endswith(PARTIAL):
                            yield _Kept(found.st_atime_ns, found.st_size, entry.path)
                        elif found.st_mtime < oldest:
                            os.unlink(entry.path)


class CacheFile:
    """An object on its way into the cache, gone after its context unless it was kept. Used by one thread.

    Whatever goes wrong, it is simply not kept.
    """

    def __init__(self, cache: ObjectCache, kind: ObjectKind, folder: Path) -> None:
        self._cache = cache
        self._kind = kind
        self._hash = blake3()
        self._path = str(folder / f"{secrets.token_hex(16)}{PARTIAL}")
        self._descriptor = -1
        if cache.usable:
            try:
                for directory in (folder.parent, folder):  # parents that `mkdir` makes have the usual mode
                    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except OSError:
                cache.give_up()

    def __enter__(self) -> CacheFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()

    def write(self, data: Buffer) -> None:
        """Append."""
        if self._descriptor < 0:
            return
        try:
            with open(self._descriptor, "wb", buffering=0, closefd=False) as file:
                write_all(file, data)
        except OSError:
            self._cache.give_up()
            self.discard()
        else:
            self._hash.update(data)

    def keep_as(self, name: str) -> bool:
        """Make it an object of the cache, if its bytes hash to the name; whether it is one now."""
        if self._descriptor < 0 or self._hash.hexdigest() != name:
            self.discard()
            return False
        os.close(self._descriptor)
        self._descriptor = -1
        try:
            self._cache.adopt(self._path, self._kind, name)
        except OSError:
            self._cache.give_up()
            with suppress(OSError):
                os.unlink(self._path)
            return False
        return True

    def discard(self) -> None:
        """Forget it, unless it was kept. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with suppress(OSError):
                os.unlink(self._path)


def _read(file: OpenFile, offset: int, buffer: memoryview) -> bool:
    """Fill the buffer; False if the file ends before. Raises OSError."""
    rest = buffer.cast("B")
    while rest and (count := os.preadv(file.descriptor, [rest], offset)):
        rest, offset = rest[count:], offset + count
    return not rest


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
