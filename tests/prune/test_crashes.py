"""A prune that loses power anywhere loses nothing, and the next one finishes the work (INV-2)."""

from __future__ import annotations

import pytest

from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.damage import run_check
from tests.support.faulty import CrashPoint, crash_points
from tests.support.real_pruning import plan_of, run_prune
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import expected, misnamed, restored_snapshots
from tests.support.sources import Item

PACK_SIZE = 24_000
OLD: dict[str, Item | bytes] = {"data/old": incompressible(1, 50_000), "data/both": incompressible(2, 60_000)}
NEW: dict[str, Item | bytes] = {"data/both": incompressible(2, 60_000), "data/new": incompressible(3, 10_000)}


@pytest.fixture(params=["none", "aes-256-gcm"])
def disk(request: pytest.FixtureRequest) -> MemoryBackend:
    """Two backups, of which the first is forgotten, and a pack that a third one left when it died."""
    backend = MemoryBackend()
    repository = make_repository(backend, encryption=request.param, pack_size=PACK_SIZE)
    first = run_backup(repository, OLD).snapshot_id
    run_backup(repository, NEW)
    assert first is not None
    before = names(backend, ObjectKind.INDEX)
    run_backup(repository, {"data/lost": incompressible(4, 30_000)}, dry_run=False)
    last = names(backend, ObjectKind.INDEX) - before
    for name in last:
        backend.delete(ObjectKind.INDEX, name)
    for info in list(backend.list(ObjectKind.SNAPSHOT)):
        if info.name == first.hex() or not _is_whole(backend, info.name):
            backend.delete(ObjectKind.SNAPSHOT, info.name)
    return backend


def _is_whole(backend: MemoryBackend, name: str) -> bool:
    repository = reopen(backend)
    return load_snapshots(repository)[bytes.fromhex(name)].tree in repository.index.table


def prunes(backend: Backend, *, grace_h: int = 0, clock: FakeClock | None = None) -> object:
    """A prune by a new process."""
    return run_prune(backend, pack_size=PACK_SIZE, clock=clock, grace_h=grace_h)


def check_point(point: CrashPoint) -> None:
    """What the power cut left is whole, and nothing is wrong with it."""
    assert misnamed(point.disk) == [], point
    assert list(restored_snapshots(reopen(point.disk)).values()) == [expected(NEW)], point
    errors = [finding.message for finding in run_check(point.disk).findings if finding.severity == "error"]
    assert errors == [], point


def check_finished(disk: Backend, point: CrashPoint) -> None:
    """Nothing is left to do, the snapshot restores, and a backup of what was deleted is whole."""
    plan = plan_of(disk)
    assert (plan.unused, plan.delete, plan.rescue, plan.revive) == (0, {}, (), ()), point
    run_backup(reopen(disk, pack_size=PACK_SIZE), OLD)
    found = list(restored_snapshots(reopen(disk)).values())
    assert expected(OLD) in found, point
    assert expected(NEW) in found, point


def test_power_loss_without_grace(disk: MemoryBackend) -> None:
    """INV-2: after every change that a prune makes the repository is whole, and a second prune ends the work."""
    points = list(crash_points(prunes, disk=disk))
    kinds = {(point.call.method, point.call.kind) for point in points}
    assert {("delete", ObjectKind.PACK), ("delete", ObjectKind.INDEX), ("commit", ObjectKind.PACK)} <= kinds
    for point in points:
        check_point(point)
        prunes(point.disk)
        check_point(point)
        check_finished(point.disk, point)


def test_power_loss_with_grace(disk: MemoryBackend) -> None:
    """INV-2: the same where packs are condemned first, and deleted by a prune a day later, which is cut as well."""
    for first in crash_points(lambda backend: prunes(backend, grace_h=24), disk=disk):
        check_point(first)
    prunes(disk, grace_h=24)
    clock = FakeClock()
    clock.advance(25 * 3600)
    for point in crash_points(lambda backend: prunes(backend, grace_h=24, clock=clock), disk=disk):
        check_point(point)
        prunes(point.disk)
        check_finished(point.disk, point)
