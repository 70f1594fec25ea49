"""Backups and prunes over one tiny repository in memory: real code, every order of its calls (INV-1, INV-8).

Each test says which programs, and what is bounded. Nothing else is: tests/support/interleavings.py tells how every
order is looked at. Pairs, and two prunes beside a backup, are explored in full; for pairs also with a program dying
after any change, and with deletions between listing an object and reading it. Two backups and two prunes have more
orders than anybody can wait for: there it is bounded how often a program that could go on has to wait for another. In a
campaign (CAMPAIGN_SECONDS) that bound goes up.

After each call every snapshot that exists must have all its blobs in packs that exist and that the index names.
Where all have ended, snapshots are restored by the real code, and a prune that comes later must leave nothing that
nobody needs.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from bfrepo.core.errors import BackupForgeError
from bfrepo.storage.memory import MemoryBackend
from tests.support.campaign import campaign_s, is_campaign
from tests.support.interleavings import Explored, Explorer
from tests.support.programs import MODELS, MORE, SAME, backs_up, disk_after, forget_all, opened, prunes_by_the_book
from tests.support.pruning import Faults, Prune
from tests.support.scheduler import Program, own_threads
from tests.support.wholeness import Wholeness, lost, unreferenced

MOST = 5_000_000
SITUATIONS_A_SECOND = 8_000
ENDS_LOOKED_AT = 300

Programs = Mapping[str, Program]


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program makes the same calls after the same answers."""
    own_threads(monkeypatch)


def explored(disk: MemoryBackend, programs: Programs, *, most: int = MOST, **bounds: bool | int | None) -> Explored:
    """Look at every order; see `Explorer`."""
    explorer = Explorer(disk, programs, **bounds)  # type: ignore[arg-type]
    whole = Wholeness(explorer.objects)
    ends: set[int] = set()

    def judge_end(present: int) -> str:
        wrong = whole(present)
        if wrong or present in ends or len(ends) == ENDS_LOOKED_AT:
            return wrong
        ends.add(present)
        return judge_closely(explorer.objects.disk(present))

    found = explorer.run(whole, judge_end, most_situations=most)
    if found.complete:
        errors = [error for program in explorer.programs for error in program.errors()]
        assert [error for error in errors if not isinstance(error, BackupForgeError)] == []
    return found


def judge_closely(disk: MemoryBackend) -> str:
    """Restore what is there; prune; nothing may be left that nobody needs, and all must still restore."""
    wrong = lost(disk, MODELS)
    if not wrong:
        Prune(disk, "later").run()
        wrong = [f"pack {name[:8]} is left" for name in sorted(unreferenced(disk))] + lost(disk, MODELS)
    return "; ".join(wrong)


def check(found: Explored, *, at_least: int) -> None:
    """Nothing was lost, and it was really looked at."""
    assert not found.wrong, "\n".join([found.wrong, *found.steps])
    assert found.complete
    assert found.situations >= at_least


BACKUP = backs_up(SAME)
OTHER = backs_up(MORE)
PRUNE = prunes_by_the_book("p", merge=False)
SECOND = prunes_by_the_book("q", merge=False)
MERGING = prunes_by_the_book("p")

PAIRS: dict[str, Programs] = {
    "backup and prune": {"backup": BACKUP, "prune": PRUNE},
    "backup of more and prune": {"backup": OTHER, "prune": PRUNE},
    "two backups": {"backup": BACKUP, "other": OTHER},
    "two prunes": {"prune": PRUNE, "second": SECOND},
}


@pytest.mark.parametrize("programs", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize(
    "bounds", [{"crashes": True}, {"reads_wait": True}], ids=["crashes", "deletions between reads"]
)
def test_pairs(programs: Programs, bounds: dict[str, bool]) -> None:
    """INV-8: two programs in every order, over garbage that one of them may want back."""
    check(explored(disk_after(SAME, forgotten=True), programs, **bounds), at_least=200)


@pytest.mark.slow
def test_a_backup_and_a_prune_that_merges_the_index() -> None:
    """INV-8: the same while the index is merged, which a reader meets in every state; either may die."""
    programs = {"backup": BACKUP, "prune": MERGING}
    check(explored(disk_after(SAME, forgotten=True), programs, crashes=True), at_least=8000)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_forget_a_backup_and_a_prune() -> None:
    """INV-8: the snapshot that a backup takes for its parent is forgotten and pruned meanwhile."""
    programs = {"forget": forget_all, "backup": BACKUP, "prune": PRUNE}
    check(explored(disk_after(SAME, forgotten=False), programs), at_least=2000)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "bounds",
    [{"most_preemptions": 1}, {"most_preemptions": 1, "crashes": True}, {"most_preemptions": 2}],
    ids=["one wait", "one wait, crashes", "two waits"],
)
def test_two_backups_and_two_prunes(bounds: dict[str, int]) -> None:
    """INV-8: all four at once, where a program that could go on has to wait so many times at most; see the bounds."""
    if len(bounds) > 1 or bounds["most_preemptions"] > 1:
        only_in_a_campaign()
    programs = {"backup": BACKUP, "other": OTHER, "prune": PRUNE, "second": SECOND}
    check(explored(disk_after(SAME, forgotten=True), programs, **bounds), at_least=10_000)


def only_in_a_campaign() -> None:
    """Minutes, not seconds."""
    if not is_campaign():
        pytest.skip("hundreds of thousands of situations: only in a campaign")


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.skipif(not is_campaign(), reason="as long as CAMPAIGN_SECONDS says")
@pytest.mark.parametrize("programs", [
    {"backup": BACKUP, "prune": PRUNE, "second": SECOND},
    {"backup": BACKUP, "other": OTHER, "prune": PRUNE},
    {"backup": BACKUP, "other": OTHER, "prune": PRUNE, "second": SECOND},
], ids=["backup, two prunes", "two backups, prune", "two backups, two prunes"])  # fmt: skip
def test_as_many_as_there_is_time_for(programs: Programs) -> None:
    """INV-8: no bound but that of time, from one end of the orders."""
    most = int(campaign_s(0) * SITUATIONS_A_SECOND)
    found = explored(disk_after(SAME, forgotten=True), programs, most=most)
    assert not found.wrong, "\n".join([found.wrong, *found.steps])


FAULTS = {
    "ignores claims": Faults(ignores_claims=True),
    "lists snapshots before claims": Faults(snapshots_before_claims=True),
    "does not look after it doomed": Faults(no_look_after_doom=True),
    "forgets the doom of a pack that is gone": Faults(forgets_dooms=True),
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_every_fault_loses_data(faults: Faults) -> None:
    """These tests can fail: a prune that leaves out any step loses data in an order of its calls, which is found."""
    prune, second = (prunes_by_the_book(name, merge=faults.forgets_dooms, faults=faults) for name in "pq")
    disk = disk_after(SAME, forgotten=True)
    pair = explored(disk, {"backup": BACKUP, "prune": prune})
    wrong = pair.wrong or explored(disk, {"backup": BACKUP, "prune": prune, "second": second}, most=600_000).wrong
    assert "has lost" in wrong


def test_a_backup_that_does_not_look_loses_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests can fail: so does a backup that does not look at the index after it wrote its claim."""
    monkeypatch.setattr("bfrepo.operations.publish._make_sure", lambda *args: None)
    assert "has lost" in explored(disk_after(SAME, forgotten=True), {"backup": BACKUP, "prune": PRUNE}).wrong


def test_a_later_backup_is_whole() -> None:
    """After any order of two prunes that may die, the next backup of what they removed makes a whole snapshot."""
    explorer = Explorer(disk_after(SAME, forgotten=True), {"prune": PRUNE, "second": SECOND}, crashes=True)
    ends: set[int] = set()

    def judge_end(present: int) -> str:
        if present in ends:
            return ""
        ends.add(present)
        disk = explorer.objects.disk(present)
        BACKUP(disk)
        return judge_closely(disk)

    assert explorer.run(lambda _: "", judge_end, most_situations=MOST).wrong == ""
    assert len(ends) > 10
    assert opened(explorer.objects.disk(next(iter(ends)))).refresh_index().objects
