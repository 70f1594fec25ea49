"""A backend that reads what it can from a cache on this machine, and puts there what it had to fetch or has stored."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeAlias

from bfrepo.core.errors import DamagedObject, Interrupted, StorageError
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import MIB
from bfrepo.storage.base import Backend, ObjectKind, Upload
from bfrepo.storage.cache import ObjectCache
from bfrepo.storage.forwarding import ForwardingBackend

SizeOfTrees: TypeAlias = Callable[[str], int | None]
"""The size in bytes of a pack, by its name, if the index says that it holds trees; else None."""

_PIECE: Final = 8 * MIB
"""Bytes of a pack that are fetched by one request: nearly always the whole of a pack of trees."""


def _of_none(name: str) -> int | None:
    return None


class CachingBackend(ForwardingBackend):
    """Passes on to `inner` what the cache does not have. Thread rule and errors are those of `inner`.

    It stands outside of retries and limits: what is at hand waits for neither, and what is fetched is tried again.
    Ranges of packs are only looked for in the cache by the backends that `knowing` gives.
    """

    def __init__(self, inner: Backend, cache: ObjectCache) -> None:
        super().__init__(inner)
        self._cache = cache
        self._fetching = _Fetching()
        self._size_of_trees: SizeOfTrees = _of_none

    def knowing(self, size_of_trees: SizeOfTrees) -> CachingBackend:
        """The same, for a reader who knows which packs hold trees. A pack of trees is fetched whole at its first use:
        the directories that are read together stand together."""
        other = CachingBackend(self._inner, self._cache)
        other._fetching, other._size_of_trees = self._fetching, size_of_trees
        return other

    def fetch(self, packs: Mapping[str, int], cancelled: Callable[[], bool]) -> None:
        """Bring packs of trees here that are not here yet, as many at once as the storage likes.

        `packs` are sizes in bytes by name. For whoever is about to read all of them: one after the other, as one
        directory leads to the next, each would be waited for. If they are too much for the cache nothing is done.
        What cannot be fetched is left to whoever reads it. Raises Interrupted.
        """
        if not self._cache.takes(max(packs.values(), default=0)) or sum(packs.values()) > self._cache.limit:
            return

        def fetch(name: str) -> None:
            if not (cancelled() or self._cache.has(ObjectKind.PACK, name)):
                with suppress(StorageError), self._fetching.lock_of(name):
                    self._fetch(name, packs[name])

        with ThreadPoolExecutor(max(self.connections, 1), thread_name_prefix="fetch") as pool:
            for _ in pool.map(fetch, packs):
                if cancelled():
                    raise Interrupted("stopped while directories were fetched")

    def doubt(self) -> None:
        """See `ObjectCache.doubt`."""
        self._cache.doubt()

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        if kind is not ObjectKind.SNAPSHOT:
            return self._inner.load(kind, name)
        data = self._cache.load(kind, name)
        if data is None:
            data = self._inner.load(kind, name)
            self._cache.save(kind, name, data)
        return data

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        if self._kept_size(kind, name, offset, length) is None:
            return self._inner.read(kind, name, offset, length)
        buffer = bytearray(length)
        self.read_into(kind, name, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        size = self._kept_size(kind, name, offset, buffer.nbytes)
        if size is None or not self._read_kept(name, size, offset, buffer):
            self._inner.read_into(kind, name, offset, buffer)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        self._inner.save(kind, name, data)
        if kind is ObjectKind.SNAPSHOT:
            self._cache.save(kind, name, data)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`. A pack that is not cold holds trees, which the next backup will read."""
        upload = self._inner.upload(kind, cold=cold)
        if kind is not ObjectKind.PACK or cold or not self._cache.usable:
            return upload
        return _CachingUpload(upload, self._cache)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        if kind in (ObjectKind.SNAPSHOT, ObjectKind.PACK):
            self._cache.drop(kind, name)
        self._inner.delete(kind, name)

    def take(self, kind: ObjectKind, name: str) -> bool:
        """See `Taker`."""
        if kind in (ObjectKind.SNAPSHOT, ObjectKind.PACK):
            self._cache.drop(kind, name)
        return super().take(kind, name)

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        """See `BatchDeleter`."""
        if kind in (ObjectKind.SNAPSHOT, ObjectKind.PACK):
            for name in names:
                self._cache.drop(kind, name)
        super().delete_many(kind, names)

    def close(self) -> None:
        """Closes the inner backend and the cache."""
        self._cache.close()
        self._inner.close()

    def _kept_size(self, kind: ObjectKind, name: str, offset: int, length: int) -> int | None:
        """The size of the pack if this range of it is to come from the cache."""
        if kind is not ObjectKind.PACK:
            return None
        size = self._size_of_trees(name)
        if size is None or offset + length > size or not self._cache.takes(size) or name in self._fetching.failed:
            return None
        return size

    def _read_kept(self, name: str, size: int, offset: int, buffer: memoryview) -> bool:
        """Read from the cache, where the pack is brought to first if need be; False if it cannot be."""
        if self._cache.read_into(ObjectKind.PACK, name, offset, buffer):
            return True
        with self._fetching.lock_of(name):
            if self._cache.read_into(ObjectKind.PACK, name, offset, buffer):  # another thread has fetched it
                return True
            if not self._fetch(name, size):
                return False
        return self._cache.read_into(ObjectKind.PACK, name, offset, buffer)

    def _fetch(self, name: str, size: int) -> bool:
        """Bring a whole pack into the cache; False if the disk, or the pack, is not fit for it."""
        kept = self._copy(name, size)
        if not kept:
            self._fetching.failed.add(name)
        return kept

    def _copy(self, name: str, size: int) -> bool:
        piece = memoryview(bytearray(min(size, _PIECE)))
        with self._cache.begin(ObjectKind.PACK) as file:
            for offset in range(0, size, _PIECE):
                part = piece[: size - offset]
                try:
                    self._inner.read_into(ObjectKind.PACK, name, offset, part)
                except DamagedObject:  # shorter than the index says: whoever reads the range in question is told
                    return False
                file.write(part)
                if not self._cache.usable:
                    return False
            return file.keep_as(name)


class _Fetching:
    """Who is fetching what: each pack is fetched by one thread, while others wait for it.

    `failed` are packs that could not be kept: their ranges come from the storage, and so does what is wrong with them.
    """

    def __init__(self) -> None:
        self.failed: set[str] = set()
        self._lock = threading.Lock()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def lock_of(self, name: str) -> threading.Lock:
        with self._lock:
            return self._locks[name]


class _CachingUpload:
    """An upload that is also written to the cache, and kept there when the storage has it."""

    __slots__ = ("_file", "_inner")

    def __init__(self, inner: Upload, cache: ObjectCache) -> None:
        self._inner = inner
        self._file = cache.begin(ObjectKind.PACK)

    def write(self, data: Buffer) -> None:
        self._inner.write(data)
        self._file.write(data)

    def commit(self, name: str) -> None:
        with self._file:
            self._inner.commit(name)
            self._file.keep_as(name)

    def abort(self) -> None:
        self._inner.abort()
        self._file.discard()
