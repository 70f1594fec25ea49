"""Packs that no index object names: left by a backup that died, or being written by one that runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.damage import run_check
from tests.support.faulty import FaultyBackend
from tests.support.real_pruning import run_prune
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item

KEPT: dict[str, Item | bytes] = {"data/kept": incompressible(1, 30_000)}
LOST: dict[str, Item | bytes] = {"data/lost": incompressible(2, 60_000)}


@pytest.fixture(params=["none", "aes-256-gcm"])
def disk(request: pytest.FixtureRequest) -> MemoryBackend:
    """One snapshot."""
    backend = MemoryBackend()
    run_backup(make_repository(backend, encryption=request.param), KEPT)
    return backend


def dies(disk: MemoryBackend) -> set[str]:
    """A backup dies between its packs and its index; the packs it leaves."""
    faulty = FaultyBackend(disk)
    faulty.fail("save", kind=ObjectKind.INDEX, error=KeyboardInterrupt())
    before = names(disk, ObjectKind.PACK)
    with pytest.raises(KeyboardInterrupt):
        run_backup(reopen(faulty), LOST)
    return names(disk, ObjectKind.PACK) - before


def test_what_a_crash_left_goes_at_once_without_grace(disk: MemoryBackend) -> None:
    """They are garbage like any other."""
    left = dies(disk)
    assert len(left) == 2
    assert run_prune(disk).deleted == 2
    assert not left & names(disk, ObjectKind.PACK)
    assert list(restored_snapshots(reopen(disk)).values()) == [expected(KEPT)]


def test_what_a_crash_left_goes_after_the_grace_time(disk: MemoryBackend) -> None:
    """They are condemned by a flag that names the pack alone, and wait like others."""
    left, clock = dies(disk), FakeClock()
    assert run_prune(disk, clock=clock, grace_h=24).condemned == 2
    clock.advance(23 * 3600)
    assert run_prune(disk, clock=clock, grace_h=24).deleted == 0
    assert left <= names(disk, ObjectKind.PACK)
    clock.advance(3600)
    assert run_prune(disk, clock=clock, grace_h=24).deleted == 2
    assert not left & names(disk, ObjectKind.PACK)


class Meanwhile(FaultyBackend):
    """Something happens just before a backup writes its first index object, claim or snapshot."""

    def __init__(self, disk: MemoryBackend, kind: ObjectKind, happens: Callable[[], object]) -> None:
        super().__init__(disk)
        self._kind, self._happens = kind, [happens]

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """The call that waits for it."""
        if kind is self._kind and self._happens:
            self._happens.pop()()
        super().save(kind, name, data)


@pytest.mark.parametrize("kind", [ObjectKind.INDEX, ObjectKind.CLAIM, ObjectKind.SNAPSHOT])
@pytest.mark.parametrize("prunes", [1, 2, 3])
def test_a_running_backup_loses_its_packs(disk: MemoryBackend, kind: ObjectKind, prunes: int) -> None:
    """INV-8: prunes without grace time delete what a backup has stored: it notices, and stores it again."""

    def prune() -> None:
        for _ in range(prunes):
            run_prune(disk)

    run_backup(reopen(Meanwhile(disk, kind, prune)), LOST)

    check_both(disk)
    run_prune(disk)
    check_both(disk)


def test_a_running_backup_whose_packs_are_condemned(disk: MemoryBackend) -> None:
    """INV-8: condemned packs are good enough for the backup that wrote them, and the next prune takes it back."""
    backend = Meanwhile(disk, ObjectKind.INDEX, lambda: run_prune(disk, grace_h=24))
    run_backup(reopen(backend), LOST)
    check_both(disk)
    clock = FakeClock()
    clock.advance(25 * 3600)
    assert run_prune(disk, clock=clock, grace_h=24).revived == 2
    check_both(disk)


@pytest.mark.parametrize("days", [1, 40])
def test_a_backup_names_packs_that_were_deleted_long_ago(disk: MemoryBackend, days: int) -> None:
    """INV-8: a backup that writes its index after its packs were deleted notices, also if nothing else recalls them."""

    def prune() -> None:
        clock = FakeClock()
        run_prune(disk, clock=clock)
        clock.advance(days * 24 * 3600)
        for number in range(20):  # so many that the index is joined
            run_backup(reopen(disk), {f"data/{number}": bytes([number]) * 100})
        run_prune(disk, clock=clock)
        assert bool(reopen(disk).index.flags) == (days < 30)

    run_backup(reopen(Meanwhile(disk, ObjectKind.INDEX, prune)), LOST)
    assert expected(LOST) in restored_snapshots(reopen(disk)).values()


def check_both(disk: Backend) -> None:
    """Both snapshots restore, and nothing is wrong."""
    found = restored_snapshots(reopen(disk)).values()
    assert sorted(map(list, found)) == sorted(map(list, (expected(KEPT), expected(LOST))))
    assert all(each in (expected(KEPT), expected(LOST)) for each in found)
    assert [finding.message for finding in run_check(disk).findings if finding.severity == "error"] == []
