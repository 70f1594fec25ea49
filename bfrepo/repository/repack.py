"""Copying what is needed out of packs that are to go.

Each pack is read by one thread, front to back; its own directory says what is in it. A frame that is needed as a whole
is sealed again, because every pack has a key of its own, but not compressed again; of others the blobs that are needed
join new frames. Every blob is checked against its ID on the way (INV-4); where it is damaged, another copy of it is
copied. A pack counts as copied only when all that is needed of it is durable, and the index that names it as well.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from bfrepo.core.errors import (
    DamagedObject,
    Interrupted,
    StorageFull,
    StorageObjectArchived,
    StorageObjectMissing,
    UnsupportedFormat,
)
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB
from bfrepo.index.marks import Marks
from bfrepo.index.table import BlobTable
from bfrepo.pack.format import PackDirectory
from bfrepo.pack.reader import read_directory
from bfrepo.repository.loader import Loader
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import Saver, SaverOptions
from bfrepo.repository.weighing import PackUse

_WORTH_KEEPING: Final = 256 * KIB
"""Bytes of plaintext from which on a frame stays what it is; smaller ones are joined with others."""

_UNREADABLE: Final = (DamagedObject, StorageObjectMissing, UnsupportedFormat)
_STAYS: Final = (*_UNREADABLE, StorageObjectArchived)
"""Why nothing comes out of a pack, or not now."""


@dataclass(slots=True)
class Repacked:
    """What was done: the packs all of whose needed blobs have durable copies, and why the others have not.

    `bytes_written` is what the copies take, `packs` is where they are. If there was no room, `full` says so: then
    nothing counts as copied, and `packs` are of use only where an index object names them.
    """

    copied: list[bytes] = field(default_factory=list)
    problems: list[tuple[bytes, Exception]] = field(default_factory=list)
    bytes_written: int = 0
    packs: set[bytes] = field(default_factory=set)
    full: StorageFull | None = None


class Repacker:
    """Copies packs. `frame_used` says how many bytes of each frame are needed at the place that the table uses."""

    def __init__(
        self,
        repository: Repository,
        loader: Loader,
        marks: Marks,
        frame_used: array[int],
        progress: Progress,
        cancelled: Callable[[], bool],
        *,
        workers: int,
    ) -> None:
        self._repository = repository
        self._loader = loader
        self._marks = marks
        self._frame_used = frame_used
        self._progress = progress
        self._cancelled = cancelled
        self._workers = workers
        self._lock = threading.Lock()

    def copy(self, packs: Sequence[PackUse]) -> Repacked:
        """Copy what is needed of some packs.

        Raises StorageError, but for StorageFull, and Interrupted; what was copied until then is there twice.
        """
        config, repository = self._repository.config, self._repository
        options = SaverOptions(config.compression, config.pack_size, self._workers)
        written = BlobTable()
        saver = Saver(
            repository.backend, written, repository.objects, repository.blob_hash, repository.keys.pack_key,
            repository.id, repository.clock, options,
        )  # fmt: skip
        done = Repacked()
        try:
            self._copy_all(saver, packs, done)
            saver.flush()
        except StorageFull as error:
            done.full, done.copied = error, []
        finally:
            saver.close()
        if self._cancelled():
            raise Interrupted("stopped while packs were copied", hint="the next prune uses what was copied")
        done.packs = {pack.id for pack in written.packs()}
        done.bytes_written = saver.stats.bytes_stored
        return done

    def _copy_all(self, saver: Saver, packs: Sequence[PackUse], done: Repacked) -> None:
        todo = iter(packs)
        workers = min(self._workers, len(packs))
        if workers < 2:
            self._copy_next(saver, todo, done)
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="repack") as pool:
            for result in [pool.submit(self._copy_next, saver, todo, done) for _ in range(workers)]:
                result.result()

    def _copy_next(self, saver: Saver, todo: Iterator[PackUse], done: Repacked) -> None:
        """One thread's work: pack after pack until none is left."""
        while not self._cancelled():
            with self._lock:
                pack = next(todo, None)
            if pack is None:
                return
            try:
                self._copy_pack(saver, pack)
            except _STAYS as error:
                with self._lock:
                    done.problems.append((pack.id, error))
            else:
                with self._lock:
                    done.copied.append(pack.id)

    def _copy_pack(self, saver: Saver, pack: PackUse) -> None:
        """Raises DamagedObject when a blob that is needed cannot be had; then the pack has to stay."""
        repository = self._repository
        _, directory = read_directory(
            repository.backend, pack.id.hex(), pack.size, repository.keys.pack_key, repository.id
        )
        if self._loader.table.frame_sizes(pack.frames) != (directory.stored_sizes, directory.plain_sizes):
            raise DamagedObject(f"pack {pack.id.hex()[:8]}: the index describes it wrongly")
        for frame, blob_ids, sizes in _frames(pack, directory):
            if self._frame_used[frame]:
                self._copy_frame(saver, pack.kind, frame, blob_ids, sizes)
            if self._cancelled():
                return

    def _copy_frame(
        self, saver: Saver, kind: BlobKind, frame: int, blob_ids: Sequence[bytes], sizes: Sequence[int]
    ) -> None:
        table, marks = self._loader.table, self._marks
        wanted = [marks.is_needed(blob_id) and table.place(blob_id).frame == frame for blob_id in blob_ids]
        try:
            packed = self._loader.open_packed(frame)
        except _UNREADABLE:
            self._copy_others(saver, kind, [blob_id for blob_id, want in zip(blob_ids, wanted, strict=True) if want])
            return
        damaged: list[bytes] = []
        for start, ids, lengths in self._good_runs(packed.plain, blob_ids, sizes, wanted, damaged):
            if len(ids) == len(blob_ids) and len(packed.plain) >= _WORTH_KEEPING:
                saver.save_frame(kind, packed, ids, lengths)
            else:
                saver.save_hashed(kind, packed.plain[start : start + sum(lengths)], ids, lengths)
            self._progress.bytes_done += sum(lengths)
        self._copy_others(saver, kind, damaged)

    def _good_runs(
        self,
        plain: memoryview,
        blob_ids: Sequence[bytes],
        sizes: Sequence[int],
        wanted: Sequence[bool],
        damaged: list[bytes],
    ) -> Iterator[tuple[int, list[bytes], list[int]]]:
        """Wanted blobs that are whole and lie together: where they begin, IDs and sizes. The others are `damaged`."""
        hash_blob = self._repository.blob_hash
        at = 0
        ids: list[bytes] = []
        lengths: list[int] = []
        for blob_id, size, want in zip(blob_ids, sizes, wanted, strict=True):
            good = want and hash_blob(plain[at : at + size]) == blob_id
            if want and not good:
                damaged.append(blob_id)
            if good:
                ids.append(blob_id)
                lengths.append(size)
            elif ids:
                yield at - sum(lengths), ids, lengths
                ids, lengths = [], []
            at += size
        if ids:
            yield at - sum(lengths), ids, lengths

    def _copy_others(self, saver: Saver, kind: BlobKind, blob_ids: Iterable[bytes]) -> None:
        """Copy blobs from wherever they are whole. Raises DamagedObject."""
        for blob_id in blob_ids:
            data = self._loader.load(kind, blob_id)
            self._progress.bytes_done += len(data)
            saver.save(kind, data)


def find_damaged(
    loader: Loader,
    hash_blob: Callable[[Buffer], bytes],
    wanted: Mapping[int, Sequence[bytes]],
    cancelled: Callable[[], bool],
    *,
    workers: int,
) -> dict[bytes, str]:
    """Read blobs where the table says they are, frame by frame; what is wrong with the packs that do not have them.

    Raises StorageError and Interrupted.
    """
    table = loader.table

    def prove(frame: int) -> tuple[bytes, str] | None:
        if cancelled():
            raise Interrupted("stopped while copies were compared")
        try:
            plain = loader.open_frame(frame)
        except _UNREADABLE as error:
            return table.pack_of(frame), str(error)
        for blob_id in wanted[frame]:
            place = table.place(blob_id)
            if hash_blob(plain[place.offset : place.offset + place.size]) != blob_id:
                return table.pack_of(frame), f"blob {short_id(blob_id)} does not hash to its ID"
        return None

    frames = sorted(wanted)
    if workers < 2 or len(frames) < 2:
        return dict(found for found in map(prove, frames) if found)
    with ThreadPoolExecutor(workers, thread_name_prefix="prove") as pool:
        return dict(found for found in pool.map(prove, frames) if found)


def _frames(pack: PackUse, directory: PackDirectory) -> Iterator[tuple[int, list[bytes], Sequence[int]]]:
    """Each frame's number in the table, and its blobs with their sizes, in order."""
    at = 0
    for frame, count in zip(pack.frames, directory.blob_counts, strict=True):
        ids = bytes(directory.blob_ids[at * ID_SIZE : (at + count) * ID_SIZE])
        blob_ids = [ids[start : start + ID_SIZE] for start in range(0, len(ids), ID_SIZE)]
        yield frame, blob_ids, directory.blob_sizes[at : at + count]
        at += count
