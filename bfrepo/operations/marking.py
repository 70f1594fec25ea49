"""Marking what trees reach, in repositories of millions of blobs.

A tree that several snapshots share is read once, and what is in one frame is read together: the trees that are still to
be walked wait in their frames, and the frame that was stored last is opened next. As a backup stores directories after
what is in them, that is the one whose trees nearly all wait by then. Several frames are read and opened at a time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted, MissingBlob, StorageObjectMissing
from bfrepo.core.ids import BlobKind, short_id
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import Buffer
from bfrepo.data.records import load_records, record_blobs
from bfrepo.data.references import tree_references
from bfrepo.index.marks import BY_SNAPSHOT, Marks
from bfrepo.repository.loader import Loader


class Marker:
    """Marks what roots reach. Used by one thread; `threads` read and open frames.

    What a snapshot needs has to be there: `mark` raises the first error. What only a claim needs is marked as far as it
    can be reached; a tree of a newer version, or a storage that fails, ends that too.
    """

    def __init__(
        self,
        marks: Marks,
        loader: Loader,
        blob_hash: Callable[[Buffer], bytes],
        progress: Progress,
        cancelled: Callable[[], bool],
        *,
        threads: int = 1,
    ) -> None:
        self.marks = marks
        self._loader = loader
        self._hash = blob_hash
        self._progress = progress
        self._cancelled = cancelled
        self._threads = threads
        self._waiting: dict[int, list[int]] = {}
        self._frames: list[int] = []
        self._why = BY_SNAPSHOT

    def mark(self, roots: Iterable[bytes], why: int) -> None:
        """Mark all that `roots` reach, for one reason (BY_SNAPSHOT or BY_CLAIM).

        Raises DamagedObject, UnsupportedFormat, StorageError and Interrupted.
        """
        self._why = why
        self._waiting.clear()
        self._frames.clear()
        self._add_trees(b"".join(roots))
        if self._threads < 2:
            while self._frames:
                frame = -heapq.heappop(self._frames)
                self._walk_frame(frame, self._open(frame))
            return
        with ThreadPoolExecutor(self._threads, thread_name_prefix="mark") as pool:
            while self._frames:
                frames = [-heapq.heappop(self._frames) for _ in range(min(self._threads, len(self._frames)))]
                for frame, plain in zip(frames, pool.map(self._open, frames), strict=True):
                    self._walk_frame(frame, plain)

    def _open(self, frame: int) -> bytes | None:
        """A frame's plaintext, unchecked, or None where each of its trees has to be looked for elsewhere."""
        try:
            return bytes(self._loader.open_frame(frame))
        except (DamagedObject, StorageObjectMissing):
            return None

    def _walk_frame(self, frame: int, plain: bytes | None) -> None:
        """Walk the trees that wait in a frame, with those that come to wait meanwhile."""
        waiting = self._waiting[frame]
        while waiting:
            if self._cancelled():
                raise Interrupted("stopped while finding out what is needed", hint="nothing was changed")
            tree_id, place = self.marks.table.at(waiting.pop())
            data = plain[place.offset : place.offset + place.size] if plain is not None else b""
            try:
                self._walk(tree_id, data if self._hash(data) == tree_id else self._loader.load(BlobKind.TREE, tree_id))
            except (DamagedObject, StorageObjectMissing):
                if self._why == BY_SNAPSHOT:
                    raise
        del self._waiting[frame]

    def _walk(self, tree_id: bytes, data: bytes) -> None:
        found = tree_references(tree_id, data)
        self._progress.files_done += 1
        self._expect(tree_id, self.marks.mark(found.data, self._why))
        for packed, depth, holds_data in found.lists:
            try:
                self._walk_list(tree_id, packed, depth, holds_data=holds_data)
            except (DamagedObject, StorageObjectMissing):
                if self._why == BY_SNAPSHOT:
                    raise
        self._add_trees(found.trees)

    def _walk_list(self, tree_id: bytes, packed: bytes, depth: int, *, holds_data: bool) -> None:
        """Mark the blobs that a long list is kept in, and those it lists."""
        for blob_id in record_blobs(self._loader, packed, depth):
            self._expect(tree_id, self.marks.mark(blob_id, self._why))
        if holds_data:
            self._expect(tree_id, self.marks.mark(load_records(self._loader, packed, depth), self._why))

    def _add_trees(self, packed_ids: bytes) -> None:
        """Have trees walked, those that were not walked yet."""
        positions, missing = self.marks.begin_walks(packed_ids, self._why)
        for position in positions:
            frame = self.marks.table.at(position)[1].frame
            waiting = self._waiting.get(frame)
            if waiting is None:
                self._waiting[frame] = [position]
                heapq.heappush(self._frames, -frame)
            else:
                waiting.append(position)
        self._expect(missing[0] if missing else b"", missing)

    def _expect(self, tree_id: bytes, missing: list[bytes]) -> None:
        """What is missing may be so only where a claim alone wants it."""
        if missing and self._why == BY_SNAPSHOT:
            blob = f"blob {short_id(missing[0])}, which tree {short_id(tree_id)} needs,"
            raise _missing(blob if missing[0] != tree_id else f"tree {short_id(tree_id)}")


def _missing(what: str) -> BackupForgeError:
    return MissingBlob(
        f"{what} is in no pack that the index names",
        hint="run 'backupforge check' to see what is wrong, and 'backupforge repair index' to find it again; what is "
        "nowhere is stored again by a backup of the same files, or let go of by "
        "'backupforge repair snapshots --forget'",
    )
