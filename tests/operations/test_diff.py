"""What changed between two snapshots."""

from __future__ import annotations

import pytest

from bfrepo.core.errors import ObjectNotFound, UsageError
from bfrepo.data.selection import SnapshotFilter
from bfrepo.operations.diff import BlobSum, Diff, diff
from bfrepo.repository.repository import Repository
from tests.support.backups import incompressible, run_backup
from tests.support.repositories import FakeClock, make_repository, reopen
from tests.support.sources import Item, written

COMMON = incompressible(1, 3000)
OLD = incompressible(2, 5000)
NEW = incompressible(3, 7000)


@pytest.fixture
def repository() -> Repository:
    """Three snapshots; what the second has new under /data/new is in the third under /data/moved."""
    clock = FakeClock()
    repository = make_repository(clock=clock)
    same: dict[str, Item | bytes] = {"/data/same/c": COMMON}
    trees: list[dict[str, Item | bytes]] = [
        {**same, "/data/f": OLD},
        {**same, "/data/f": written(NEW), "/data/new/g": NEW, "/data/new/h": COMMON},
        {**same, "/data/f": written(NEW), "/data/moved/g": NEW, "/data/moved/h": COMMON},
    ]
    for tree in trees:
        run_backup(repository, tree)
        clock.advance(60)
    return reopen(repository.backend)


def compared(repository: Repository, before: str, after: str) -> tuple[Diff, list[tuple[str, bytes]]]:
    """The comparison, and what changed."""
    found = diff(
        repository, before, after, SnapshotFilter(), metadata=False, on_error=lambda path, message: pytest.fail(message)
    )
    return found, [(change.kind, change.path) for change in found.changes()]


def test_two_snapshots(repository: Repository) -> None:
    """The earlier is named first, each as everywhere else."""
    found, changes = compared(repository, "latest~2", "latest~1")

    assert changes == [
        ("modified", b"/data/f"),
        ("added", b"/data/new"),
        ("added", b"/data/new/g"),
        ("added", b"/data/new/h"),
    ]
    assert (found.summary.size_before, found.summary.size_after) == (5000, 7000)
    assert found.before.snapshot_id != found.after.snapshot_id


def test_places_with_other_names(repository: Repository) -> None:
    """With a path behind a colon what is below it is compared, wherever it is."""
    _, changes = compared(repository, "latest~1:/data/new", "latest:/data/moved")
    assert changes == []
    _, changes = compared(repository, "latest~2:/data/f", "latest:/data/moved/g")
    assert changes == [("modified", b"/g")]


def test_blobs_of_one_side_only(repository: Repository) -> None:
    """Blobs that both sides have in what was read count for neither, wherever they are; equal content counts once."""
    found, _ = compared(repository, "latest~2", "latest~1")
    added, removed = found.added_blobs(), found.removed_blobs()
    assert (added.data_blobs, removed.data_blobs) == (2, 1)  # of the new tree, /data/same was not looked into
    assert (added.tree_blobs, removed.tree_blobs) == (3, 2)
    assert 7000 + 3000 < added.size < 7000 + 3000 + 2000
    assert 5000 < removed.size < 5000 + 1000

    found, _ = compared(repository, "latest~1", "latest")
    assert found.added_blobs() == BlobSum(0, 3, found.added_blobs().size)
    assert found.removed_blobs() == BlobSum(0, 3, found.removed_blobs().size)


def test_a_directory_and_a_file(repository: Repository) -> None:
    """They have nothing to compare."""
    with pytest.raises(UsageError, match="directory"):
        compared(repository, "latest:/data", "latest:/data/f")


def test_what_is_not_there(repository: Repository) -> None:
    """A path that a snapshot does not have is an error."""
    with pytest.raises(ObjectNotFound, match="/data/new"):
        compared(repository, "latest~2:/data/new", "latest:/data")
