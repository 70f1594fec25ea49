"""What a prune frees and what it keeps, and when."""

from __future__ import annotations

import pytest

from bfrepo.operations.prune import UnusedLimit
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.faulty import copy_of
from tests.support.real_pruning import plan_of, run_prune
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item

PACK_SIZE = 40_000
OLD: dict[str, Item | bytes] = {"data/old": incompressible(1, 100_000), "data/both": incompressible(2, 100_000)}
NEW: dict[str, Item | bytes] = {"data/both": incompressible(2, 100_000), "data/new": incompressible(3, 30_000)}


@pytest.fixture(params=["none", "aes-256-gcm"])
def disk(request: pytest.FixtureRequest) -> MemoryBackend:
    """A repository of two backups, the first of which was forgotten."""
    backend = MemoryBackend()
    repository = make_repository(backend, encryption=request.param, pack_size=PACK_SIZE)
    first = run_backup(repository, OLD)
    run_backup(repository, NEW)
    assert first.snapshot_id is not None
    backend.delete(ObjectKind.SNAPSHOT, first.snapshot_id.hex())
    return backend


def check_whole(backend: Backend, *trees: dict[str, Item | bytes]) -> None:
    """The snapshots restore to these trees."""
    found = [sorted(each.items()) for each in restored_snapshots(reopen(backend)).values()]
    assert sorted(found) == sorted(sorted(expected(tree).items()) for tree in trees)


def test_without_grace_everything_unneeded_goes_at_once(disk: MemoryBackend) -> None:
    """What no snapshot needs is deleted, what is needed of half-used packs moves, and nothing is left to do."""
    before = plan_of(disk, pack_size=PACK_SIZE)
    assert before.unused > 90_000

    result = run_prune(disk, pack_size=PACK_SIZE)

    assert result.deleted_size - result.written >= 90_000
    after = plan_of(disk, pack_size=PACK_SIZE)
    assert (after.unused, after.changes_anything()) == (0, False)
    assert after.total_size == sum(info.size for info in disk.list(ObjectKind.PACK))
    check_whole(disk, NEW)


def test_a_plan_changes_nothing(disk: MemoryBackend) -> None:
    """Planning writes and deletes nothing."""
    before = {(kind, name) for kind in ObjectKind for name in names(disk, kind)}
    assert plan_of(disk, pack_size=PACK_SIZE).changes_anything()
    assert {(kind, name) for kind in ObjectKind for name in names(disk, kind)} == before


def test_grace(disk: MemoryBackend) -> None:
    """Condemned packs stay until the grace time is over, by the clock of whoever prunes then."""
    clock = FakeClock()
    packs = names(disk, ObjectKind.PACK)
    first = run_prune(disk, pack_size=PACK_SIZE, clock=clock, grace_h=24)
    assert first.condemned
    assert first.deleted == 0
    assert packs <= names(disk, ObjectKind.PACK)

    clock.advance(24 * 3600 - 1)
    assert run_prune(disk, pack_size=PACK_SIZE, clock=clock, grace_h=24).deleted == 0
    clock.advance(1)
    assert run_prune(disk, pack_size=PACK_SIZE, clock=clock, grace_h=24).deleted == first.condemned
    check_whole(disk, NEW)
    assert not plan_of(disk, pack_size=PACK_SIZE, clock=clock, grace_h=24).changes_anything()


def test_a_condemned_pack_that_is_needed_again_is_kept(disk: MemoryBackend) -> None:
    """A snapshot that appears within the grace time takes its packs back, and none of it is lost (INV-8)."""
    clock = FakeClock()
    copy = copy_of(disk)
    snapshot = run_backup(reopen(copy, pack_size=PACK_SIZE), OLD).snapshot_id
    assert snapshot is not None
    run_prune(disk, pack_size=PACK_SIZE, clock=clock, grace_h=24)
    for kind in (ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.SNAPSHOT):  # what a backup may still add
        for name in names(copy, kind):
            disk.save(kind, name, copy.load(kind, name))

    clock.advance(30 * 3600)
    result = run_prune(disk, pack_size=PACK_SIZE, clock=clock, grace_h=24, max_unused=UnusedLimit())

    assert (result.revived > 0, result.deleted) == (True, 0)
    check_whole(disk, OLD, NEW)
