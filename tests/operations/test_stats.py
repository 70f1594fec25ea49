"""Adding up: what each snapshot costs, and all of them together."""

from __future__ import annotations

import pytest

from bfrepo.core.errors import Interrupted
from bfrepo.core.progress import Quiet
from bfrepo.core.units import KIB
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.stats import StatsResult, content_stats, stats
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.repositories import make_repository, reopen
from tests.support.sources import Item, sparse

FIRST = incompressible(1, 50 * KIB)
SECOND = incompressible(2, 30 * KIB)


def add_up(repository: Repository, reporter: Quiet | None = None) -> StatsResult:
    """The statistics of all snapshots."""
    return stats(repository, load_snapshots(repository), reporter or Quiet(), never)


def test_equal_files_count_once_in_unique() -> None:
    """A snapshot that holds the same content twice restores twice as much as it has."""
    repository = make_repository()
    run_backup(repository, {"/data/a": FIRST, "/data/b": FIRST})

    (sizes,) = add_up(repository).snapshots.values()

    assert (sizes.files, sizes.restore_size) == (2, 2 * len(FIRST))
    assert len(FIRST) < sizes.unique < len(FIRST) + 2 * KIB
    assert len(FIRST) < sizes.stored < len(FIRST) + 3 * KIB


def test_snapshots_share_what_they_have_in_common() -> None:
    """Together, files add up and blobs count once."""
    repository = make_repository()
    run_backup(repository, {"/data/a": FIRST})
    run_backup(repository, {"/data/a": FIRST, "/data/b": SECOND})

    result = add_up(repository)
    first, second = result.snapshots.values()

    assert result.total.files == 3
    assert result.total.restore_size == first.restore_size + second.restore_size
    assert len(FIRST) + len(SECOND) < result.total.unique < first.unique + second.unique
    assert result.total.stored <= result.repository_size


def test_stored_bytes_are_shared_out_completely() -> None:
    """When a snapshot needs all there is, its share of the packs is all their frames."""
    repository = make_repository()
    run_backup(repository, {"/data/a": b"text " * 10_000, "/data/b": FIRST, "/data/c/d": SECOND})
    table = repository.refresh_index().table
    frames = [table.frame(number) for pack in table.packs() for number in pack.frames]

    result = add_up(repository)

    assert result.total.stored == sum(frame.stored_size for frame in frames)
    assert result.total.unique == sum(frame.plain_size for frame in frames)
    assert result.packs == len(list(table.packs()))


def test_a_directory_that_occurs_twice_counts_twice_in_the_restore_size() -> None:
    """Two equal directories are one tree and two places to restore to."""
    repository = make_repository()
    run_backup(repository, {"/data/x/a": Item(content=FIRST, inode=5), "/data/y/a": Item(content=FIRST, inode=5)})

    (sizes,) = add_up(repository).snapshots.values()

    assert (sizes.files, sizes.restore_size) == (2, 2 * len(FIRST))


def test_names_of_one_file_count_once_in_the_restore_size() -> None:
    """Hard links are restored as such, so their content is written once."""
    repository = make_repository()
    linked = Item(content=FIRST, inode=5, links=2)
    run_backup(repository, {"/data/a": linked, "/data/sub/b": linked})

    (sizes,) = add_up(repository).snapshots.values()

    assert (sizes.files, sizes.restore_size) == (2, len(FIRST))


def test_ways_of_counting_contents() -> None:
    """Equal files count once, but chunks that different files share count for each of them."""
    repository = make_repository()
    run_backup(repository, {"/data/a": FIRST, "/data/b": FIRST, "/data/c": FIRST + SECOND})

    found = content_stats(repository, load_snapshots(repository).values(), Quiet(), never)

    assert (found.files, found.size) == (2, 2 * len(FIRST) + len(SECOND))
    assert found.blob_size == found.size
    assert found.blobs > 2


def test_holes_cost_nothing() -> None:
    """A sparse file restores to its size, and only its data is unique."""
    repository = make_repository()
    run_backup(repository, {"/data/disk": sparse(FIRST + bytes(200 * KIB), (len(FIRST), 200 * KIB))})

    (sizes,) = add_up(repository).snapshots.values()

    assert sizes.restore_size == len(FIRST) + 200 * KIB
    assert sizes.unique < len(FIRST) + 2 * KIB


def test_what_is_missing_is_reported_and_not_counted() -> None:
    """A lost pack of trees is a problem for each snapshot that needs it, and the sum goes on."""
    backend = MemoryBackend()
    repository = make_repository(backend)
    run_backup(repository, {"/data/a": FIRST})
    trees = [pack.id.hex() for pack in repository.refresh_index().table.packs() if pack.kind == 1]
    for name in trees:
        backend.delete(ObjectKind.PACK, name)
    reporter = Quiet()

    result = add_up(reopen(backend), reporter)

    assert reporter.progress.errors > 0
    assert result.total.files == 0


def test_it_can_be_stopped() -> None:
    """Whoever presses Ctrl-C does not wait for the end."""
    repository = make_repository()
    run_backup(repository, {"/data/a": FIRST})

    with pytest.raises(Interrupted):
        stats(repository, load_snapshots(repository), Quiet(), lambda: True)


def test_nothing_adds_up_to_nothing() -> None:
    """A repository without snapshots has sizes of zero."""
    total = add_up(make_repository()).total

    assert (total.files, total.restore_size, total.blobs, total.unique, total.stored) == (0, 0, 0, 0, 0)
