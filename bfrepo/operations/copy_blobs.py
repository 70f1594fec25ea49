"""Blobs on their way to another repository: what is wanted, by frame, and each frame read and opened once.

    want     note blobs by the frame that holds them, 40 bytes each and nothing twice
    fetch    frames in the order of packs, by several threads: read, open, check every blob against its ID (INV-4), hash
             it with the key of the target, store it
    new IDs  what each blob is called in the target: 64 bytes and a share of a hash table

A frame whose blobs are all new to the target stays compressed as it is, if both repositories compress alike.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Final

from borghash import HashTable

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import BackupForgeError, Interrupted, MissingBlob, StorageError, StorageObjectArchived
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.progress import Reporter
from bfrepo.pack.format import PackedFrame
from bfrepo.repository.loader import Loader
from bfrepo.repository.repository import Repository, read_head
from bfrepo.repository.salvage import refresh_for_reading
from bfrepo.repository.saver import Saver

NO_ID: Final = bytes(ID_SIZE)
"""In place of a new ID, of what was met and is not in the target yet."""

_MOST_WANTED: Final = 1_000_000
"""Blobs that are noted before they are fetched: 40 MB."""


class CopySource:
    """The repository that is read. Its index is read anew when something is not where it was."""

    def __init__(self, repository: Repository, reporter: Reporter) -> None:
        self.repository = repository
        self._reporter = reporter
        self._names: set[str] = set()
        self.look_again()

    @property
    def loader(self) -> Loader:
        """Gives blobs, by the index as it is now."""
        return self.repository.loader

    def look_again(self) -> bool:
        """Read the index again if it has changed: a prune may have moved what was not where it had been."""
        names = self.repository.index_names()
        if names == self._names:
            return False
        refresh_for_reading(self.repository, lambda message: self._reporter.warn(b"", message))
        self._names = names
        return True

    def must_answer(self, error: BackupForgeError) -> None:
        """Raise `error` if it is the storage as a whole that fails, or an archive that has to be asked first."""
        if isinstance(error, StorageObjectArchived):
            raise error
        if isinstance(error, StorageError):
            try:
                read_head(self.repository.backend)
            except BackupForgeError:
                raise error from None


@dataclass(slots=True)
class _Wanted:
    """Blobs in one frame."""

    ids: bytearray = field(default_factory=bytearray)
    offsets: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("I"))

    def in_order(self) -> list[tuple[int, int, bytes]]:
        """Offset, size and ID of each, from the front of the frame to its end."""
        ids = (bytes(self.ids[at : at + ID_SIZE]) for at in range(0, len(self.ids), ID_SIZE))
        return sorted(zip(self.offsets, self.sizes, ids, strict=True), key=itemgetter(0))


class BlobCopier:
    """Copies blobs as they are. Used by one thread, which also asks for what it has copied."""

    def __init__(
        self,
        source: CopySource,
        target: Repository,
        saver: Saver,
        reporter: Reporter,
        cancelled: Callable[[], bool],
    ) -> None:
        config = source.repository.config
        self.same_ids = source.repository.keys.blob_id_key == target.keys.blob_id_key
        self.lost: dict[bytes, str] = {}
        """What could not be read, and why."""
        self._source = source
        self._loader = source.loader  # by whose index blobs are noted
        self._saver = saver
        self._cancelled = cancelled
        self._progress = reporter.progress
        self._old_hash = source.repository.blob_hash
        self._new_hash = source.repository.blob_hash if self.same_ids else target.blob_hash
        self._same_compression = config.compression == target.config.compression
        self._new_ids = HashTable(key_size=ID_SIZE, value_size=ID_SIZE)
        self._wanted: dict[int, _Wanted] = {}
        self._count = 0
        self._unread: list[tuple[BlobKind, bytes, str]] = []
        self._lock = threading.Lock()

    def want(self, blob_ids: Iterable[bytes]) -> None:
        """Note what the target needs, unless it is known to have it. Fetches when much has been noted."""
        known, table = self._new_ids, self._loader.table
        holds = self._saver.holds if self.same_ids else None
        size = 0
        for blob_id in blob_ids:
            if blob_id in known or (holds is not None and holds(blob_id)):
                continue
            known[blob_id] = NO_ID
            try:
                place = table.place(blob_id)
            except MissingBlob as error:
                self.lost[blob_id] = str(error)
                continue
            wanted = self._wanted.get(place.frame)
            if wanted is None:
                wanted = self._wanted[place.frame] = _Wanted()
            wanted.ids += blob_id
            wanted.offsets.append(place.offset)
            wanted.sizes.append(place.size)
            size += place.size
            self._count += 1
        self._progress.bytes_total = (self._progress.bytes_total or 0) + size
        if self._count >= _MOST_WANTED:
            self.fetch()

    def is_known(self, blob_id: bytes) -> bool:
        """Whether it was met before: it has a new ID, is noted, or is lost."""
        return blob_id in self._new_ids

    def learn(self, old_ids: Sequence[bytes], new_ids: Sequence[bytes]) -> None:
        """Blobs are in the target already, under these IDs."""
        known, holds = self._new_ids, self._saver.holds
        for old, new in zip(old_ids, new_ids, strict=True):
            if old not in known and holds(new):
                known[old] = new

    def new_ids(self, old_ids: bytes) -> bytes:
        """See NewIds."""
        get = self._new_ids.get
        parts = [old_ids[at : at + ID_SIZE] for at in range(0, len(old_ids), ID_SIZE)]
        found = [get(part, NO_ID) for part in parts]
        if NO_ID in found:
            raise MissingBlob(f"blob {short_id(parts[found.index(NO_ID)])} was not copied")
        return b"".join(found)

    def fetch(self) -> None:
        """Copy what was noted. What cannot be read is in `lost` then. Raises Interrupted, StorageError."""
        left = deque(sorted(self._wanted.items()))
        self._wanted, self._count = {}, 0
        stopped = threading.Event()

        def work() -> None:
            try:
                while not stopped.is_set() and (job := _take(left)):
                    if self._cancelled():
                        raise Interrupted("stopped while copying")
                    self._copy_frame(*job)
            except BaseException:
                stopped.set()
                raise

        with ThreadPoolExecutor(native_threads(), thread_name_prefix="copy") as pool:
            running = [pool.submit(work) for _ in range(native_threads())]
        for thread in running:
            thread.result()
        self._try_again()

    def _copy_frame(self, number: int, wanted: _Wanted) -> None:
        kind, blobs = self._loader.table.kind_of(number), wanted.in_order()
        try:
            frame = self._loader.open_packed(number)
        except BackupForgeError as error:
            self._source.must_answer(error)
            damaged, why = blobs, str(error)
        else:
            damaged, why = self._store(kind, frame, blobs), "it does not hash to its ID"
        for _, _, blob_id in damaged:
            if len(self._loader.table.copies(blob_id)) < 2 or not self._copy_alone(kind, blob_id):
                self._unread.append((kind, blob_id, f"blob {short_id(blob_id)}: {why}"))
        with self._lock:
            self._progress.bytes_done += sum(wanted.sizes)

    def _store(
        self, kind: BlobKind, frame: PackedFrame, blobs: list[tuple[int, int, bytes]]
    ) -> list[tuple[int, int, bytes]]:
        """Check the blobs and store what is right of them; what is not."""
        plain, old_hash, new_hash, same = frame.plain, self._old_hash, self._new_hash, self.same_ids
        good, new, damaged = [], [], []
        for each in blobs:
            blob = plain[each[0] : each[0] + each[1]]
            if old_hash(blob) != each[2]:
                damaged.append(each)
                continue
            good.append(each)
            new.append(each[2] if same else new_hash(blob))
        for first, last in _runs(good):
            start, end = good[first][0], good[last - 1][0] + good[last - 1][1]
            ids, sizes = new[first:last], [size for _, size, _ in good[first:last]]
            if end - start == len(plain) and self._same_compression:
                self._saver.save_frame(kind, frame, ids, sizes)
            else:
                self._saver.save_hashed(kind, plain[start:end], ids, sizes)
        for (_, _, old_id), new_id in zip(good, new, strict=True):
            self._new_ids[old_id] = new_id
        return damaged

    def _copy_alone(self, kind: BlobKind, blob_id: bytes) -> bool:
        """Copy a blob from wherever it can be read. Whether it can be."""
        try:
            data = self._loader.load(kind, blob_id)
        except BackupForgeError as error:
            self._source.must_answer(error)
            return False
        new_id = self._new_hash(data)
        self._saver.save_hashed(kind, memoryview(data), [new_id], [len(data)])
        self._new_ids[blob_id] = new_id
        return True

    def _try_again(self) -> None:
        """Look where what was not read is now."""
        unread, self._unread = self._unread, []
        before = {blob_id: self._packs(blob_id) for _, blob_id, _ in unread}
        if unread:
            self._source.look_again()
        self._loader = self._source.loader
        for kind, blob_id, why in unread:
            if self._packs(blob_id) <= before[blob_id] or not self._copy_alone(kind, blob_id):
                self.lost[blob_id] = why

    def _packs(self, blob_id: bytes) -> set[bytes]:
        table = self._loader.table
        return {table.pack_of(copy.frame) for copy in table.copies(blob_id)}


def _take(jobs: deque[tuple[int, _Wanted]]) -> tuple[int, _Wanted] | None:
    try:
        return jobs.popleft()
    except IndexError:
        return None


def _runs(blobs: Sequence[tuple[int, int, bytes]]) -> Iterator[tuple[int, int]]:
    """The stretches of blobs, by number, that lie one directly after the other."""
    start = 0
    for at in range(1, len(blobs) + 1):
        if at == len(blobs) or blobs[at][0] != blobs[at - 1][0] + blobs[at - 1][1]:
            yield start, at
            start = at
