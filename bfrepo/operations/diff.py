"""What changed between two snapshots, or between two places in snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from bfrepo.core.errors import UsageError
from bfrepo.core.ids import BlobKind
from bfrepo.data.difference import AFTER, BEFORE, Change, Comparison, DifferenceSummary
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter, find_node, find_snapshot, split_path
from bfrepo.index.table import BlobTable
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository

_ONLY: Final = {side: bytes(value == side for value in range(256)) for side in (BEFORE, AFTER)}


@dataclass(frozen=True, slots=True)
class ComparedPlace:
    """One side: a snapshot, the raw path in it (empty for all of it), and what is there."""

    snapshot_id: bytes
    path: bytes
    node: Node


@dataclass(frozen=True, slots=True)
class BlobSum:
    """Blobs that one side has and the other does not, and the bytes of their plaintext."""

    data_blobs: int
    tree_blobs: int
    size: int


class Diff:
    """A comparison that is about to be made; used once, by one thread.

    `summary`, `added_blobs` and `removed_blobs` are complete when `changes` has ended. Blobs are told from what was
    read: one that is also in a directory that both sides have in common counts as if it were not there.
    """

    def __init__(
        self,
        repository: Repository,
        before: ComparedPlace,
        after: ComparedPlace,
        *,
        metadata: bool,
        on_error: Callable[[bytes, str], None],
    ) -> None:
        self.before = before
        self.after = after
        self._blobs = _BlobSides(repository.index.table)
        self._comparison = Comparison(
            repository.loader, metadata=metadata, on_error=on_error, on_blobs=self._blobs.mark
        )

    @property
    def summary(self) -> DifferenceSummary:
        """The counts so far."""
        return self._comparison.summary

    def changes(self) -> Iterator[Change]:
        """What differs, sorted by name, a directory before what is in it."""
        return self._comparison.changes(self.before.node, self.after.node)

    def added_blobs(self) -> BlobSum:
        """Those that only the later side has."""
        return self._blobs.only(AFTER)

    def removed_blobs(self) -> BlobSum:
        """Those that only the earlier side has."""
        return self._blobs.only(BEFORE)


def diff(
    repository: Repository,
    before: str,
    after: str,
    chosen: SnapshotFilter,
    *,
    metadata: bool,
    on_error: Callable[[bytes, str], None],
) -> Diff:
    """Prepare to compare "SNAPSHOT[:PATH]" with another; see Comparison for `metadata` and `on_error`.

    `chosen` narrows down what "latest" means. Raises ObjectNotFound, AmbiguousPrefix or InvalidValue when it is not
    clear what is meant, UsageError when only one of them is a directory.
    """
    snapshots = load_snapshots(repository, on_error=lambda name, error: None)
    named = [split_path(text) for text in (before, after)]
    found = [(find_snapshot(name, snapshots, chosen), path) for name, path in named]
    repository.refresh_index()
    one, other = (
        ComparedPlace(snapshot_id, path, find_node(repository.loader, snapshots[snapshot_id].tree, path))
        for snapshot_id, path in found
    )
    if (one.node.type == "dir") != (other.node.type == "dir"):
        raise UsageError("a directory can only be compared with a directory")
    return Diff(repository, one, other, metadata=metadata, on_error=on_error)


class _BlobSides:
    """Which side has which blob: a byte for each blob of the repository."""

    def __init__(self, table: BlobTable) -> None:
        self._table = table
        self._sides = bytearray(len(table))

    def mark(self, packed_ids: bytes, side: int) -> None:
        """Blobs that a side has. One that is missing from the repository is left out."""
        self._table.mark(packed_ids, self._sides, side)  # check tells what is missing; here it has no size

    def only(self, side: int) -> BlobSum:
        """The sum of what only this side has."""
        count, size = [0, 0], 0
        kind_of = self._table.kind_of
        for frame, blob_size in self._table.places_at(self._positions(side)):
            count[kind_of(frame)] += 1
            size += blob_size
        return BlobSum(count[BlobKind.DATA], count[BlobKind.TREE], size)

    def _positions(self, side: int) -> Iterator[int]:
        found, at = self._sides.translate(_ONLY[side]), -1
        while (at := found.find(1, at + 1)) >= 0:
            yield at
