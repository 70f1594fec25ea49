"""Storing blobs: what is known already is done at once, the rest joins a frame, and workers turn frames into packs.

    save(blob) -> ID; known? done : copied into the open frame of its kind
    open frame full (1 MiB), or a chunk of 256 KiB or more: queued as a frame
    worker: compress, seal, open again and compare, append to a pack that nobody else is writing
    pack full: committed to storage -> named in the index; every few packs, or once a minute, an index object is written

The order is the safety (INV-1, INV-2): a pack is durable before an index object names it, and `flush` returns only when
both are, so that a snapshot written afterwards is restorable. A crash leaves packs that the last index object does not
name: garbage, and the work since then is repeated.

Memory is bounded by the frame pool: when every frame is full and waiting, `save` waits too.
"""

from __future__ import annotations

import queue
import threading
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from bfrepo.compression import Compression, Compressor
from bfrepo.core.clock import Clock
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB
from bfrepo.index.table import BlobTable
from bfrepo.pack.format import FRAME_SIZE, PackedFrame
from bfrepo.pack.writer import FrameSealer, PackWriter
from bfrepo.repository.objects import ObjectStore
from bfrepo.repository.packing import PackPool, SaverStats
from bfrepo.storage.base import Backend

LARGE_BLOB: Final = 256 * KIB
"""A blob of this size or more has a frame to itself."""

_FRAMES_AHEAD: Final = 8
"""Frames for each worker that may be full and waiting, 1 MiB each, so that nobody idles while the others catch up."""


@dataclass(slots=True)
class SaverOptions:
    """How to store.

    `pack_size` is bytes; `workers` compress and seal at once; `verify` re-reads each frame before it is stored.
    """

    compression: Compression
    pack_size: int
    workers: int
    verify: bool = True


@dataclass(slots=True)
class _Frame:
    kind: BlobKind
    memory: memoryview
    used: int = 0
    ids: bytearray = field(default_factory=bytearray)
    sizes: array[int] = field(default_factory=lambda: array("I"))

    def add(self, data: Buffer) -> None:
        end = self.used + len(data)
        self.memory[self.used : end] = data
        self.used = end


@dataclass(slots=True)
class _Chunk:
    data: memoryview
    release: Callable[[], None]
    result: Future[bytes]


class _OwnSealer(threading.local):
    """A sealer for each thread that stores frames."""

    def __init__(self, options: SaverOptions) -> None:
        self.sealer = FrameSealer(Compressor(options.compression), verify=options.verify)


class Saver:
    """Stores blobs in packs, in the background.

    `save` may be called from several threads; `flush` and `close` from one.
    """

    def __init__(
        self,
        backend: Backend,
        table: BlobTable,
        objects: ObjectStore,
        blob_hash: Callable[[Buffer], bytes],
        pack_key: bytes | None,
        repository_id: bytes,
        clock: Clock,
        options: SaverOptions,
    ) -> None:
        self._table = table
        self._hash = blob_hash
        self._options = options
        self._open: dict[BlobKind, _Frame] = {}
        self._filling = threading.Lock()
        self._error: BaseException | None = None
        self._own = _OwnSealer(options)
        self._packs = PackPool(
            table, backend, objects, pack_key, repository_id, clock, options.pack_size, options.workers
        )
        self._free: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        for _ in range(_FRAMES_AHEAD * options.workers):
            self._free.put(None)  # made when it is first needed
        self._jobs: queue.Queue[_Frame | _Chunk | None] = queue.Queue(_FRAMES_AHEAD * options.workers)
        self._workers = [
            threading.Thread(target=self._work, name=f"saver-{number}", daemon=True)
            for number in range(options.workers)
        ]
        for worker in self._workers:
            worker.start()

    @property
    def stats(self) -> SaverStats:
        """What was stored so far."""
        return self._packs.stats

    @property
    def index_objects(self) -> set[str]:
        """The index objects written so far."""
        return self._packs.index_objects

    def save(self, kind: BlobKind, data: Buffer) -> bytes:
        """See BlobSaver."""
        blob_id = self._hash(data)
        if not self._table.reserve(blob_id):
            self._packs.count_known(1, len(data))
            return blob_id
        with self._filling:
            self._raise_failure()
            if len(data) >= LARGE_BLOB:
                self._submit(_whole_frame(kind, blob_id, data))
            else:
                self._append(kind, blob_id, data)
        return blob_id

    def save_many(self, kind: BlobKind, data: memoryview, sizes: Sequence[int]) -> list[bytes]:
        """See BlobSaver. What is new and lies together is copied together."""
        hash_blob = self._hash
        ends = list(accumulate(sizes))
        blob_ids = [hash_blob(data[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
        self._add_new(kind, data, sizes, blob_ids, self._table.reserve_many(blob_ids))
        return blob_ids

    def save_frame(self, kind: BlobKind, frame: PackedFrame, blob_ids: Sequence[bytes], sizes: Sequence[int]) -> None:
        """Store what another repository has in one frame: blobs that lie one after the other and fill it.

        The caller has checked each blob and hashed it with the key of this repository. Where none of them is known the
        frame stays compressed as it is; it is sealed and written by the calling thread, before this returns.
        """
        self._raise_failure()
        wanted = self._table.reserve_many(blob_ids)
        if not all(wanted):
            self._add_new(kind, frame.plain, sizes, blob_ids, wanted)
            return
        sealer, ids, lengths = self._own.sealer, b"".join(blob_ids), array("I", sizes)
        try:
            self._write(kind, lambda pack: sealer.add_packed(pack, frame, ids, lengths), len(lengths), len(frame.plain))
        except BaseException as error:
            self._error = self._error or error  # others rely on these blobs by now
            raise

    def save_hashed(self, kind: BlobKind, data: memoryview, blob_ids: Sequence[bytes], sizes: Sequence[int]) -> None:
        """As `save_many`, for blobs of any size that the caller has hashed with the key of this repository."""
        self._add_new(kind, data, sizes, blob_ids, self._table.reserve_many(blob_ids))

    def holds(self, blob_id: bytes) -> bool:
        """See BlobSaver."""
        return self._table.holds(blob_id)

    def save_chunk(self, data: memoryview, release: Callable[[], None]) -> Future[bytes]:
        """See BlobSaver."""
        chunk = _Chunk(data, release, Future())
        try:
            self._raise_failure()
        except BaseException:
            release()
            raise
        self._jobs.put(chunk)
        return chunk.result

    def flush(self) -> None:
        """Wait until everything saved so far is durable: packs first, then the index objects that name them."""
        self.flush_packs()
        self.name_packs()

    def flush_packs(self) -> None:
        """Wait until everything saved so far is in packs that are durable. Some may be in no index object yet."""
        with self._filling:
            for frame in self._open.values():
                if frame.sizes:
                    self._submit(frame)
                else:
                    self._free.put(frame.memory)
            self._open.clear()
        self._jobs.join()
        self._raise_failure()
        try:
            self._packs.finish()
        except BaseException as error:
            self._error = error  # a later flush must not report as durable what this one has given up
            raise

    def name_packs(self) -> set[str]:
        """Write what is missing of the index when `flush_packs` is done; all index objects written so far."""
        self._raise_failure()
        try:
            self._packs.write_index()
        except BaseException as error:
            self._error = error
            raise
        return self.index_objects

    def close(self) -> None:
        """End the workers. What was not flushed is given up; call `flush` first to keep it. Idempotent."""
        for _ in self._workers:
            self._jobs.put(None)
        for worker in self._workers:
            worker.join()
        self._workers.clear()
        self._packs.abort()

    def _add_new(
        self, kind: BlobKind, data: memoryview, sizes: Sequence[int], blob_ids: Sequence[bytes], wanted: Sequence[bool]
    ) -> None:
        """Store the blobs that are wanted, which the caller has reserved. What lies together is copied together."""
        known = start = end = 0  # start: where what is wanted and not copied yet begins
        with self._filling:
            self._raise_failure()
            frame = self._frame(kind)
            for blob_id, size, new in zip(blob_ids, sizes, wanted, strict=True):
                begin, end = end, end + size
                large = size >= LARGE_BLOB
                if not new or large or frame.used + end - start > FRAME_SIZE:
                    frame.add(data[start:begin])
                    start = begin
                if not new or large:
                    start = end
                    if new:
                        self._submit(_whole_frame(kind, blob_id, data[begin:end]))
                    else:
                        known += size
                    continue
                if frame.used + size > FRAME_SIZE:
                    self._submit(self._open.pop(kind))
                    frame = self._frame(kind)
                frame.ids += blob_id
                frame.sizes.append(size)
            frame.add(data[start:end])
        self._packs.count_known(wanted.count(False), known)

    def _append(self, kind: BlobKind, blob_id: bytes, data: Buffer) -> None:
        frame = self._frame(kind)
        if frame.used + len(data) > FRAME_SIZE:
            self._submit(self._open.pop(kind))
            frame = self._frame(kind)
        frame.add(data)
        frame.ids += blob_id
        frame.sizes.append(len(data))

    def _frame(self, kind: BlobKind) -> _Frame:
        """The frame that is being filled."""
        frame = self._open.get(kind)
        if frame is None:
            frame = self._open[kind] = _Frame(kind, self._free.get() or memoryview(bytearray(FRAME_SIZE)))
        return frame

    def _submit(self, frame: _Frame) -> None:
        self._jobs.put(frame)

    def _raise_failure(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        sealer = self._own.sealer
        while (job := self._jobs.get()) is not None:
            try:
                if isinstance(job, _Chunk):
                    self._store_chunk(sealer, job)
                else:
                    self._store_frame(sealer, job)
            except BaseException as error:  # handed to whoever saves or flushes next
                self._error = self._error or error
            finally:
                self._jobs.task_done()

    def _store_frame(self, sealer: FrameSealer, frame: _Frame) -> None:
        try:
            if self._error is None:
                self._seal(sealer, frame.kind, frame.memory[: frame.used], frame.ids, frame.sizes)
        finally:
            if len(frame.memory) == FRAME_SIZE:
                self._free.put(frame.memory)

    def _store_chunk(self, sealer: FrameSealer, chunk: _Chunk) -> None:
        try:
            self._raise_failure()
            blob_id = self._hash(chunk.data)
            size = len(chunk.data)
            if self._table.reserve(blob_id):
                self._seal(sealer, BlobKind.DATA, chunk.data, blob_id, array("I", [size]))
            else:
                self._packs.count_known(1, size)
        except BaseException as error:
            chunk.result.set_exception(error)
            raise
        else:
            chunk.result.set_result(blob_id)
        finally:
            chunk.release()

    def _seal(self, sealer: FrameSealer, kind: BlobKind, plain: memoryview, ids: Buffer, sizes: array[int]) -> None:
        frame = sealer.compress(plain)
        self._write(kind, lambda pack: sealer.add(pack, frame, ids, sizes), len(sizes), len(plain))

    def _write(self, kind: BlobKind, add: Callable[[PackWriter], int], blobs: int, size: int) -> None:
        """Have a frame appended to a pack, and count what is in it."""
        pack = self._packs.take(kind)
        try:
            stored = add(pack)
        except BaseException:
            self._packs.drop(kind, pack)
            raise
        self._packs.put_back(kind, pack)
        self._packs.count_new(blobs, size, stored)


def _whole_frame(kind: BlobKind, blob_id: bytes, data: Buffer) -> _Frame:
    return _Frame(kind, memoryview(bytes(data)), len(data), bytearray(blob_id), array("I", [len(data)]))
