"""Marks are exactly what a walk of every tree finds, whatever is in the trees, and however few of them are read."""

from __future__ import annotations

import pytest

from bfrepo.core.errors import DamagedObject, Interrupted, MissingBlob
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Progress
from bfrepo.data import records
from bfrepo.data.references import reachable, walk_trees
from bfrepo.data.tree import decode_tree
from bfrepo.index.marks import BY_CLAIM, BY_SNAPSHOT, Marks
from bfrepo.operations.marking import Marker
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.faulty import FaultyBackend
from tests.support.repositories import make_repository, reopen
from tests.support.sources import Item, sparse

HOLES = [(number * 8192 + 4096, 4096) for number in range(1200)]
TREE: dict[str, Item | bytes] = {
    **{f"data/many/{number:05}": b"%d" % (number % 7) for number in range(5000)},  # a directory in parts
    **{f"data/deep/{'/'.join('abcdefgh')}/{number}": b"deep %d" % number for number in range(20)},
    "data/large": incompressible(1, 9_000_000),  # so many chunks that their list has blobs of its own
    "data/holes": sparse(b"".join(bytes([each % 251]) * 4096 + bytes(4096) for each in range(1200)), *HOLES),
    "data/link": Item(type="symlink", target=b"large"),
    "data/empty": b"",
}


@pytest.fixture(scope="module")
def disk() -> MemoryBackend:
    """Three snapshots that share nearly everything, in many packs."""
    backend = MemoryBackend()
    repository = make_repository(backend, pack_size=200_000)
    for number in range(3):
        run_backup(repository, {**TREE, "data/changes": b"%d" % number})
    return backend


def roots(repository: Repository) -> list[bytes]:
    """The trees of all snapshots."""
    return [snapshot.tree for snapshot in load_snapshots(repository).values()]


def marker(repository: Repository, *, threads: int = 1) -> Marker:
    """One that has marked nothing."""
    marks = Marks(repository.index.table)
    return Marker(marks, repository.loader, repository.blob_hash, Progress(), never, threads=threads)


def marked(marks: Marks) -> set[bytes]:
    """The blobs that are needed."""
    return {marks.table.at(position)[0] for position in marks.needed()}


@pytest.mark.parametrize("threads", [1, 3])
def test_all_that_is_reachable(disk: MemoryBackend, threads: int) -> None:
    """Marked is what restoring any of the snapshots needs, and nothing else; each tree is read once."""
    repository = reopen(disk)
    run_backup(repository, {"data/other": b"of another snapshot"})
    repository = reopen(disk)
    trees = roots(repository)[:3]
    expected = {blob_id for tree in trees for _, blob_id in reachable(repository.loader, tree)}
    assert any(decode_tree(b, repository.loader.load(BlobKind.TREE, b))[1] for b in _directories(repository, trees))

    work = marker(repository, threads=threads)
    work.mark(trees, BY_SNAPSHOT)

    assert marked(work.marks) == expected


def _directories(repository: Repository, trees: list[bytes]) -> set[bytes]:
    seen: set[bytes] = set()
    for tree in trees:
        list(walk_trees(repository.loader, tree, seen))
    return seen


def test_long_lists_are_there(disk: MemoryBackend) -> None:
    """The tests above mean something: lists of blobs and of holes are kept in blobs of their own."""
    repository = reopen(disk)
    nodes = [node for tree in walk_trees(repository.loader, roots(repository)[0], set()) for node in tree.nodes]
    assert {node.name for node in nodes if node.content_depth} == {b"large", b"holes"}
    assert {node.name for node in nodes if node.holes_depth} == {b"holes"}
    assert records.INLINE_LIMIT == 8192


def test_a_snapshot_after_a_claim(disk: MemoryBackend) -> None:
    """What a claim needs, and then a snapshot as well, counts as needed by a snapshot, all the way down."""
    repository = reopen(disk)
    tree = roots(repository)[0]
    work = marker(repository)
    work.mark([tree], BY_CLAIM)
    assert {work.marks.why(blob_id) for blob_id in marked(work.marks)} == {BY_CLAIM}
    work.mark([tree], BY_SNAPSHOT)
    assert {work.marks.why(blob_id) for blob_id in marked(work.marks)} == {BY_CLAIM | BY_SNAPSHOT}


def test_a_damaged_tree(disk: MemoryBackend) -> None:
    """A tree that cannot be read ends the marking for a snapshot; for a claim the rest is marked."""
    repository = reopen(disk)
    tree = roots(repository)[0]
    whole = {blob_id for _, blob_id in reachable(repository.loader, tree)}
    walk = walk_trees(repository.loader, tree, set())
    deep = next(each.tree_id for each in walk if each.path == b"/data/deep")
    place = repository.index.table.frame(repository.index.table.place(deep).frame)
    faulty = FaultyBackend(disk)
    faulty.flip_byte(ObjectKind.PACK, place.pack, place.offset + 5)
    repository = reopen(faulty)

    with pytest.raises(DamagedObject):
        marker(repository).mark([tree], BY_SNAPSHOT)
    work = marker(repository)
    work.mark([tree], BY_CLAIM)
    assert marked(work.marks) < whole


def test_a_blob_that_is_missing(disk: MemoryBackend) -> None:
    """A blob that the index does not know ends the marking for a snapshot, not for a claim."""
    repository = reopen(disk)
    with pytest.raises(MissingBlob):
        marker(repository).mark([b"?" * 32], BY_SNAPSHOT)
    work = marker(repository)
    work.mark([b"?" * 32], BY_CLAIM)
    assert marked(work.marks) == set()


def test_it_can_be_stopped(disk: MemoryBackend) -> None:
    """Whoever asks it to stop is heard."""
    repository = reopen(disk)
    work = Marker(Marks(repository.index.table), repository.loader, repository.blob_hash, Progress(), lambda: True)
    with pytest.raises(Interrupted):
        work.mark(roots(repository), BY_SNAPSHOT)
