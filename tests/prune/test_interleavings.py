"""Several prunes beside backups and a forget, one call at a time in random orders, and prunes that die (INV-2, INV-8).

Every order of fewer of them is in tests/concurrency.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from bfrepo.core.errors import BackupForgeError
from bfrepo.operations.prune import UnusedLimit
from bfrepo.storage.base import Backend, ObjectKind
from tests.support.backups import run_backup
from tests.support.faulty import copy_of
from tests.support.programs import MODELS, MORE, OLD, SAME, backs_up, disk_after, forget_all, opened
from tests.support.real_pruning import run_prune
from tests.support.repositories import reopen
from tests.support.restoring import expected, restored
from tests.support.scheduler import Program, own_threads, run_in_order
from tests.support.wholeness import lost, unreferenced


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program makes the same calls after the same answers."""
    own_threads(monkeypatch)


def really_prune(backend: Backend) -> object:
    """A prune as users run it, by a new process, without a grace time."""
    return run_prune(backend, allow_remove_all=True)


def patiently_prune(backend: Backend) -> object:
    """A prune with a grace time."""
    return run_prune(backend, grace_h=24, allow_remove_all=True)


def lazily_prune(backend: Backend) -> object:
    """A prune that copies nothing."""
    return run_prune(backend, max_unused=UnusedLimit(), allow_remove_all=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_random_interleavings_of_many(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-8: two backups, two prunes and a forget, any of which may die, lose nothing, whatever the clocks say."""
    chance = random.Random(seed)
    if chance.random() < 0.5:  # dooms of packs that are gone are forgotten at once, and not after a month
        monkeypatch.setattr("bfrepo.repository.merge._TOMBSTONE_STAYS", timedelta(days=-1))
    programs: dict[str, Program] = {
        "backup-same": backs_up(SAME), "backup-more": backs_up(MORE), "forget": forget_all, "prune": really_prune,
        "other": chance.choice([really_prune, lazily_prune, patiently_prune]),
    }  # fmt: skip
    crashes = {chance.choice(list(programs)): chance.randrange(45)} if chance.random() < 0.7 else {}
    current = -1

    def in_bursts(step: int, waiting: Sequence[int]) -> int:
        nonlocal current
        if current not in waiting or chance.random() < 0.25:
            current = chance.choice(waiting)
        return current

    run = run_in_order(disk_after(OLD, forgotten=False), programs, in_bursts, crashes=crashes)

    assert lost(run.disk, MODELS) == [], "\n".join(run.steps)
    failed = [actor.error for actor in run.actors if actor.error and not isinstance(actor.error, BackupForgeError)]
    assert failed == []
    assert [actor.error for actor in run.actors if actor.error and actor.name.startswith("backup")] == []
    really_prune(run.disk)
    result = run_backup(opened(run.disk), MORE)
    assert lost(run.disk, MODELS) == []
    assert restored(reopen(run.disk).loader, result.snapshot.tree) == expected(MORE)


def test_a_dead_prune_is_finished_by_another() -> None:
    """What a prune doomed before it died is deleted by the next, or kept if it is needed by then."""
    disk = disk_after(SAME, OLD, forgotten=True)
    alone = run_in_order(disk, {"prune": really_prune}, lambda step, waiting: 0)
    for at in range(len(alone.steps)):
        died = run_in_order(disk, {"prune": really_prune}, lambda step, waiting: 0, crashes={"prune": at}).disk
        unneeded = copy_of(died)
        really_prune(unneeded)
        assert list(unneeded.list(ObjectKind.PACK)) == [], at

        run_backup(opened(died), SAME)
        assert lost(died, MODELS) == [], at
        really_prune(died)
        assert lost(died, MODELS) == [], at
        assert unreferenced(died) == set(), at
