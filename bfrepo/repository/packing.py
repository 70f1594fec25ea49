"""The packs that a backup is writing, and the index objects that name those that are finished.

Where a storage is far away, packs that are full are sent by threads of their own, as many
as it likes, while the workers go on with the next ones. No more packs wait than are being sent: whoever fills another
one then waits, too. What is being sent lies in spools (storage/retry.py), not in memory.

There, too, workers share packs, and the first three of a backup leave before they are full where the line would idle
meanwhile: sending begins when 4 MiB are there, and what is left at the end is the smaller part. A backup makes three
packs more for it at most.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Final

from bfrepo.core.clock import Clock
from bfrepo.core.ids import BlobKind
from bfrepo.core.units import MIB
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

_EARLY: Final = (4 * MIB, 8 * MIB, 16 * MIB)
"""The sizes at which the first packs of data may leave early: the first takes a fifth of a second on 20 MB/s."""
_SHARED_BY: Final = 2
"""Workers for each pack that is being filled, where a storage is far away: one compresses while another one writes."""


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
        workers: int,
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
        self._returned = threading.Condition(self._lock)
        self._idle: dict[BlobKind, list[PackWriter]] = {kind: [] for kind in BlobKind}
        self._unindexed: list[PackEntry] = []
        self._last_index = clock.monotonic()
        self._senders = _Senders(backend.connections) if is_far(backend) else None
        self._most_lent = max(1, workers // _SHARED_BY) if self._senders is not None else None
        self._lent: Counter[BlobKind] = Counter()
        self._early = deque(size for size in _EARLY if size < pack_size)

    def take(self, kind: BlobKind) -> PackWriter:
        """A pack that only the caller writes to, until it is put back or dropped. May wait for one."""
        with self._returned:
            self._returned.wait_for(lambda: self._most_lent is None or self._lent[kind] < self._most_lent)
            self._lent[kind] += 1
            if self._idle[kind]:
                return self._idle[kind].pop()
        try:
            upload = self._backend.upload(ObjectKind.PACK, cold=kind is BlobKind.DATA)
            return PackWriter(upload, self._pack_key, self._repository_id, kind)
        except BaseException:
            self._give_back(kind)
            raise

    def put_back(self, kind: BlobKind, pack: PackWriter) -> None:
        """Give a pack back, and finish it when it is full. Raises what went wrong with any that was given back."""
        leaves = pack.size >= self._pack_size or self._leaves_early(kind, pack)
        self._give_back(kind, None if leaves else pack)
        if not leaves:
            return
        if self._senders is None:
            self._finish_full(pack)
        else:
            self._senders.submit(lambda: self._finish_full(pack), pack.abort)

    def drop(self, kind: BlobKind, pack: PackWriter) -> None:
        """Give a pack up that was taken."""
        self._give_back(kind)
        pack.abort()

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
        """Make all open packs durable."""
        for packs in self._idle.values():
            while packs:
                self._finish_last(packs.pop())
        if self._senders is not None:
            self._senders.wait()

    def abort(self) -> None:
        """Give up all open packs, and wait for those that are being sent."""
        if self._senders is not None:
            self._senders.close()
        for packs in self._idle.values():
            while packs:
                packs.pop().abort()

    def write_index(self) -> None:
        """Name the packs that are durable and in no index object yet, in a new one."""
        with self._lock:
            entries, self._unindexed = self._unindexed, []
            self._last_index = self._clock.monotonic()
        if entries:
            content = IndexContent(packs=entries)
            self.index_objects.add(self._objects.save(ObjectKind.INDEX, encode_index(content)))

    def _give_back(self, kind: BlobKind, pack: PackWriter | None = None) -> None:
        """One pack less is lent; `pack` may be lent again."""
        with self._returned:
            self._lent[kind] -= 1
            if pack is not None:
                self._idle[kind].append(pack)
            self._returned.notify()

    def _leaves_early(self, kind: BlobKind, pack: PackWriter) -> bool:
        """Whether to send a pack that is not full, because the line has hardly anything to do. Trees stay together."""
        if self._senders is None or kind is not BlobKind.DATA:
            return False
        with self._lock:
            leaves = bool(self._early) and pack.size >= self._early[0] and self._senders.under_way < 2
            if leaves:
                self._early.popleft()
            return leaves

    def _finish_full(self, pack: PackWriter) -> None:
        self._finish_pack(pack)
        if self._checkpoint_due():
            self.write_index()

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


class _Senders:
    """Threads that send packs, no more of which wait than are being sent. After a failure nothing more is sent."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="send")
        self._room = threading.Semaphore(threads)
        self._threads = threads
        self._failure: BaseException | None = None
        self._counting = threading.Lock()
        self.under_way = 0
        """How many packs are being sent, or wait for that."""

    def submit(self, send: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Have a pack sent; `give_up` is called in its place after a failure. Raises what has failed by now."""
        self._room.acquire()
        try:
            self._raise_failure()
        except BaseException:
            self._room.release()
            give_up()
            raise
        self._count(1)
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
            self._count(-1)
            self._room.release()

    def _count(self, change: int) -> None:
        with self._counting:
            self.under_way += change

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def _entry(pack: FinishedPack) -> PackEntry:
    return PackEntry(id=bytes.fromhex(pack.name), size=pack.size, directory=pack.directory.encode())
