"""The packs that a backup is writing, and the index objects that name those that are finished.

Where a storage is far away, packs that are full are sent by threads of their own, as many
as it likes, while the workers go on with the next ones. No more packs wait than are being sent: whoever fills another
one then waits, too. What is being sent lies in spools (storage/retry.py), not in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Final

from bfrepo.core.clock import Clock
from bfrepo.core.ids import BlobKind
from bfrepo.index.format import IndexContent, PackEntry, encode_index
from bfrepo.index.table import BlobTable
from bfrepo.pack.writer import FinishedPack, PackWriter
from bfrepo.repository.objects import ObjectStore
from bfrepo.storage.abilities import is_far
from bfrepo.storage.base import Backend, ObjectKind

_CHECKPOINT_S: Final = 60.0
_CHECKPOINT_PACKS: Final = 8
_CHECKPOINT_PACKS_MOST: Final = 64
"""An index object is written after a minute, or after 8 packs, rising to 64 as a backup grows:

what a crash can cost.
"""


@dataclass(slots=True)
class SaverStats:
    """What was stored:

    blobs and bytes of plaintext that were new, bytes written for them, and what was known already.
    """

    blobs_new: int = 0
    blobs_known: int = 0
    bytes_new: int = 0
    bytes_known: int = 0
    bytes_stored: int = 0
    packs: int = 0

    def add(self, more: SaverStats) -> None:
        """Count what another saver stored, too."""
        for each in fields(SaverStats):
            setattr(self, each.name, getattr(self, each.name) + getattr(more, each.name))


class PackPool:
    """The packs being written, lent to one worker at a time, and the index of those that are finished.

    Workers take whichever pack is free, so the storage does not learn from positions which chunks belong together.
    """

    def __init__(
        self,
        table: BlobTable,
        backend: Backend,
        objects: ObjectStore,
        pack_key: bytes | None,
        repository_id: bytes,
        clock: Clock,
        pack_size: int,
    ) -> None:
        self.stats = SaverStats()
        self.index_objects: set[str] = set()
        self._table = table
        self._backend = backend
        self._objects = objects
        self._pack_key = pack_key
        self._repository_id = repository_id
        self._clock = clock
        self._pack_size = pack_size
        self._lock = threading.Lock()
        self._idle: dict[BlobKind, list[PackWriter]] = {kind: [] for kind in BlobKind}
        self._unindexed: list[PackEntry] = []
        self._last_index = clock.monotonic()
        self._senders = _Senders(backend.connections) if is_far(backend) else None

    def take(self, kind: BlobKind) -> PackWriter:
        """A pack that only the caller writes to, until it is put back."""
        with self._lock:
            if self._idle[kind]:
                return self._idle[kind].pop()
        upload = self._backend.upload(ObjectKind.PACK, cold=kind is BlobKind.DATA)
        return PackWriter(upload, self._pack_key, self._repository_id, kind)

    def put_back(self, kind: BlobKind, pack: PackWriter) -> None:
        """Give a pack back, and finish it when it is full. Raises what went wrong with any that was given back."""
        if pack.size < self._pack_size:
            with self._lock:
                self._idle[kind].append(pack)
        elif self._senders is None:
            self._finish_full(pack)
        else:
            self._senders.submit(lambda: self._finish_full(pack), pack.abort)

    def count_new(self, blobs: int, size: int, stored: int) -> None:
        """Add blobs that were stored to the statistics."""
        with self._lock:
            self.stats.blobs_new += blobs
            self.stats.bytes_new += size
            self.stats.bytes_stored += stored

    def count_known(self, blobs: int, size: int) -> None:
        """Add blobs that were there already to the statistics."""
        with self._lock:
            self.stats.blobs_known += blobs
            self.stats.bytes_known += size

    def finish(self) -> None:
        """Make all open packs durable, then the index that names them."""
        for packs in self._idle.values():
            while packs:
                self._finish_last(packs.pop())
        if self._senders is not None:
            self._senders.wait()
        self._write_index()

    def abort(self) -> None:
        """Give up all open packs, and wait for those that are being sent."""
        if self._senders is not None:
            self._senders.close()
        for packs in self._idle.values():
            while packs:
                packs.pop().abort()

    def _finish_full(self, pack: PackWriter) -> None:
        self._finish_pack(pack)
        if self._checkpoint_due():
            self._write_index()

    def _finish_last(self, pack: PackWriter) -> None:
        if self._senders is None:
            self._finish_pack(pack)
        else:
            self._senders.submit(lambda: self._finish_pack(pack), pack.abort)

    def _finish_pack(self, pack: PackWriter) -> None:
        try:
            finished = pack.finish()
        except BaseException:
            pack.abort()
            raise
        self._table.add_pack(bytes.fromhex(finished.name), finished.size, finished.directory)
        with self._lock:
            self.stats.packs += 1
            self._unindexed.append(_entry(finished))

    def _checkpoint_due(self) -> bool:
        most = max(_CHECKPOINT_PACKS, min(_CHECKPOINT_PACKS_MOST, self.stats.packs // 8))
        waited = self._clock.monotonic() - self._last_index
        return len(self._unindexed) >= most or waited >= _CHECKPOINT_S

    def _write_index(self) -> None:
        with self._lock:
            entries, self._unindexed = self._unindexed, []
            self._last_index = self._clock.monotonic()
        if entries:
            content = IndexContent(packs=entries)
            self.index_objects.add(self._objects.save(ObjectKind.INDEX, encode_index(content)))


class _Senders:
    """Threads that send packs, no more of which wait than are being sent. After a failure nothing more is sent."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="send")
        self._room = threading.Semaphore(threads)
        self._threads = threads
        self._failure: BaseException | None = None

    def submit(self, send: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Have a pack sent; `give_up` is called in its place after a failure. Raises what has failed by now."""
        self._room.acquire()
        try:
            self._raise_failure()
        except BaseException:
            self._room.release()
            give_up()
            raise
        self._pool.submit(self._run, send, give_up)

    def wait(self) -> None:
        """Return when all is sent. Raises the first failure."""
        for _ in range(self._threads):
            self._room.acquire()
        self._room.release(self._threads)
        self._raise_failure()

    def close(self) -> None:
        """Begin nothing more, and return when nothing is being sent."""
        self._failure = self._failure or RuntimeError("closed")
        self._pool.shutdown()

    def _run(self, send: Callable[[], None], give_up: Callable[[], None]) -> None:
        try:
            if self._failure is None:
                send()
            else:
                give_up()
        except BaseException as error:  # handed to whoever gives the next pack, or waits
            self._failure = self._failure or error
        finally:
            self._room.release()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _entry(pack: FinishedPack) -> PackEntry:
    return PackEntry(id=bytes.fromhex(pack.name), size=pack.size, directory=pack.directory.encode())
