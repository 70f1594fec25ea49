"""Backups and prunes on one repository, interleaved call by call: no snapshot ever loses a byte (INV-8)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from bfrepo.core.errors import BackupForgeError, DamagedObject
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import run_backup
from tests.support.faulty import copy_of
from tests.support.programs import MODELS, MORE, OLD, SAME, backs_up, disk_after, forget_all, opened
from tests.support.programs import prunes_by_the_book as prunes
from tests.support.pruning import Faults, Prune
from tests.support.repositories import reopen
from tests.support.restoring import expected, restored
from tests.support.scheduler import Program, Run, explore, own_threads, run_in_order


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order of calls gives the same run."""
    own_threads(monkeypatch)


def lost(disk: Backend) -> list[str]:
    """What is wrong with the snapshots there are."""
    repository = reopen(disk)
    wrong = []
    for identifier, snapshot in load_snapshots(repository).items():
        try:
            if restored(repository.loader, snapshot.tree) not in MODELS:
                wrong.append(f"{identifier.hex()[:8]} restores to something else")
        except DamagedObject as error:
            wrong.append(f"{identifier.hex()[:8]}: {error}")
    return wrong


def check(run: Run) -> None:
    """Nothing is lost, and every backup that did not crash made its snapshot."""
    assert lost(run.disk) == [], "\n".join(run.steps)
    failed = [actor for actor in run.actors if actor.error and actor.name.startswith("backup")]
    assert failed == [], "\n".join([*run.steps, *(repr(actor.error) for actor in failed)])


def bursts(seed: int, *, switch: float = 0.25) -> Callable[[int, Sequence[int]], int]:
    """A random order in which an actor usually makes several calls before another has its turn."""
    chance = random.Random(seed)
    current = -1

    def choose(step: int, waiting: Sequence[int]) -> int:
        nonlocal current
        if current not in waiting or chance.random() < switch:
            current = chance.choice(waiting)
        return current

    return choose


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_interleaving_of_a_backup_and_a_prune() -> None:
    """INV-8: whatever the order, a backup that relies on garbage which a prune is deleting makes a whole snapshot."""
    programs = {"backup": backs_up(SAME), "prune": prunes("p", merge=False)}
    situations, _ = explore(disk_after(SAME, forgotten=True), programs, check, most_runs=20_000)
    assert situations > 1000


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_interleavings_of_many(seed: int) -> None:
    """INV-8: two backups, two prunes (one repacks) and a forget, any of which may die, lose nothing; life goes on."""
    chance = random.Random(seed)
    programs = {
        "backup-same": backs_up(SAME), "backup-more": backs_up(MORE), "forget": forget_all,
        "prune": prunes("p"), "repack": prunes("r", repack=True),
    }  # fmt: skip
    crashes = {chance.choice(list(programs)): chance.randrange(45)} if chance.random() < 0.7 else {}
    run = run_in_order(disk_after(OLD, forgotten=False), programs, bursts(seed), crashes=crashes)
    check(run)
    unexpected = [actor.error for actor in run.actors if actor.error and not isinstance(actor.error, BackupForgeError)]
    assert unexpected == []

    Prune(run.disk, "later").run()
    result = run_backup(opened(run.disk), MORE)
    assert lost(run.disk) == []
    assert restored(reopen(run.disk).loader, result.snapshot.tree) == expected(MORE)


def lossy_orders(disk: MemoryBackend, programs: Mapping[str, Program], *, tries: int) -> bool:
    """Whether one of some random orders loses data."""
    return any(lost(run_in_order(disk, programs, bursts(seed)).disk) for seed in range(tries))


@pytest.mark.parametrize(
    "faults",
    [Faults(ignores_claims=True), Faults(no_look_after_doom=True)],
    ids=["ignores claims", "does not look after it doomed"],
)
def test_a_prune_that_breaks_the_rules_is_caught(faults: Faults) -> None:
    """These tests can fail: a prune that leaves out a step loses data in some order, and they see it."""
    programs = {"backup": backs_up(SAME), "prune": prunes("p", faults=faults)}
    assert lossy_orders(disk_after(SAME, forgotten=True), programs, tries=400)


@pytest.mark.slow
def test_two_prunes_that_break_the_rules_are_caught() -> None:
    """These tests can fail: two prunes that list snapshots before claims lose data beside a backup, and they see it."""
    faults = Faults(snapshots_before_claims=True)
    programs = {"backup": backs_up(SAME), "prune": prunes("p", faults=faults), "other": prunes("q", faults=faults)}
    assert lossy_orders(disk_after(SAME, forgotten=True), programs, tries=4000)


def test_a_backup_that_does_not_look_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests can fail: a backup that does not look at the index again after its claim loses data in some order."""
    monkeypatch.setattr("bfrepo.operations.publish._make_sure", lambda *args: None)
    programs = {"backup": backs_up(SAME), "prune": prunes("p")}
    assert lossy_orders(disk_after(SAME, forgotten=True), programs, tries=400)


def test_two_backups_at_once() -> None:
    """Two backups at the same time of trees that share a file make two whole snapshots, and neither waits."""
    programs = {"backup-one": backs_up(SAME), "backup-two": backs_up(MORE)}
    for seed in range(20):
        run = run_in_order(disk_after(forgotten=False), programs, bursts(seed))
        check(run)
        assert len(load_snapshots(reopen(run.disk))) == 2


def test_a_dead_prune_is_finished_by_another() -> None:
    """What a prune doomed before it died is deleted by the next, or kept if it is needed by then."""
    disk = disk_after(SAME, forgotten=True)
    alone = run_in_order(disk, {"prune": prunes("p")}, lambda step, waiting: 0)
    for at in range(len(alone.steps)):
        died = run_in_order(disk, {"prune": prunes("p")}, lambda step, waiting: 0, crashes={"prune": at}).disk
        unneeded = copy_of(died)
        Prune(unneeded, "q").run()
        assert list(unneeded.list(ObjectKind.PACK)) == [], at

        run_backup(opened(died), SAME)
        assert lost(died) == [], at
        Prune(died, "q").run()
        assert lost(died) == [], at
