"""Backups and prunes over one tiny repository in memory: real code, every order of its calls (INV-1, INV-8).

Each test says which programs, and what is bounded. Nothing else is: tests/support/interleavings.py tells how every
order is looked at. A backup beside a prune, two backups, and two prunes are explored in full, with programs that die
after any change. Where listings take a while and may or may not show what happens meanwhile, and for more than two
programs, it is bounded how often a program that could go on has to wait for another: two backups and two prunes have
more orders than anybody can wait for. In a campaign (CAMPAIGN_SECONDS) the bounds go up.

After each call every snapshot that exists must have all its blobs in packs that exist and that the index names.
Where all have ended, snapshots are restored by the real code, and a prune that comes later must leave nothing that
nobody needs.

The prune by the book (tests/support/pruning.py) is the design with nothing added; its faults show that these tests can
fail, as do some in the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bfrepo.core.errors import BackupForgeError
from bfrepo.data.snapshot import Claim, encode_claim
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.campaign import campaign_s, is_campaign
from tests.support.interleavings import Explored, Explorer
from tests.support.programs import (
    MODELS,
    MORE,
    OLD,
    SAME,
    backs_up,
    disk_after,
    forget_all,
    prunes,
    prunes_by_the_book,
)
from tests.support.pruning import Faults
from tests.support.scheduler import Program, own_threads
from tests.support.wholeness import Wholeness, lost, unreferenced

MOST = 20_000_000
SITUATIONS_A_SECOND = 4_000
ENDS_LOOKED_AT = 300

Programs = Mapping[str, Program]
Bounds = dict[str, Any]


@pytest.fixture(autouse=True)
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program makes the same calls after the same answers."""
    own_threads(monkeypatch)


def explored(disk: MemoryBackend, programs: Programs, *, most: int = MOST, **bounds: Any) -> Explored:
    """Look at every order; see `Explorer`."""
    explorer = Explorer(disk, programs, **bounds)
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
        prunes(disk)
        wrong = [f"pack {name[:8]} is left" for name in sorted(unreferenced(disk))] + lost(disk, MODELS)
    return "; ".join(wrong)


def check(found: Explored, *, at_least: int = 200) -> None:
    """Nothing was lost, and it was really looked at."""
    assert not found.wrong, "\n".join([found.wrong, *found.steps])
    assert found.complete
    assert found.situations >= at_least


def only_in_a_campaign() -> None:
    """Minutes, not seconds."""
    if not is_campaign():
        pytest.skip("hundreds of thousands of situations: only in a campaign")


def garbage() -> MemoryBackend:
    """A repository whose one snapshot was forgotten: a backup may want back what a prune deletes."""
    return disk_after(SAME, forgotten=True)


def used_in_part() -> MemoryBackend:
    """The same with more in it than the next backup wants back."""
    return disk_after(OLD, forgotten=True)


BACKUP = backs_up(SAME)
OTHER = backs_up(MORE)

PAIRS: dict[str, Programs] = {
    "backup and prune": {"backup": BACKUP, "prune": prunes},
    "two prunes": {"prune": prunes, "second": prunes},
    "two backups": {"backup": BACKUP, "other": OTHER},
}
THREE: dict[str, Programs] = {
    "backup, two prunes": {"backup": BACKUP, "prune": prunes, "second": prunes},
    "two backups, prune": {"backup": BACKUP, "other": OTHER, "prune": prunes},
}
FOUR: Programs = {"backup": BACKUP, "other": OTHER, "prune": prunes, "second": prunes}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("programs", PAIRS.values(), ids=PAIRS.keys())
def test_pairs(programs: Programs) -> None:
    """INV-8: two programs in every order, each of which may die after any change.

    Of two prunes, but in a campaign, only the orders in which one that could go on waits three times at most.
    """
    waits = None if "backup" in programs or is_campaign() else 3
    check(explored(garbage(), programs, crashes=True, most_preemptions=waits))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("programs", PAIRS.values(), ids=PAIRS.keys())
def test_pairs_with_slow_listings(programs: Programs) -> None:
    """INV-8: the same where a listing need not show what is written or deleted while it goes on; bounded."""
    waits = 3 if is_campaign() else 2
    check(explored(garbage(), programs, slow_listings=True, crashes=True, most_preemptions=waits))


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "bounds", [{"crashes": True}, {"slow_listings": True, "most_preemptions": 2}], ids=["crashes", "slow listings"]
)
def test_claim_before_the_index(bounds: Bounds, monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-8: a backup whose claim is there before the index that it needs, as may be where a storage is far away."""

    def claim_first(repository: Repository, claim: Claim, name_packs: Callable[[], set[str]]) -> tuple[str, set[str]]:
        name = repository.objects.save(ObjectKind.CLAIM, encode_claim(claim))
        return name, name_packs()

    monkeypatch.setattr("bfrepo.operations.publish._write_claim", claim_first)
    check(explored(garbage(), {"backup": OTHER, "prune": prunes}, **bounds))
    if "crashes" not in bounds:
        monkeypatch.setattr("bfrepo.operations.publish._make_sure", lambda *args: None)
        assert "has lost" in explored(garbage(), PAIRS["backup and prune"], **bounds, crashes=True).wrong


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("programs", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("bounds", [{"reads_wait": True}, {"slow_listings": True}], ids=["reads wait", "slow listings"])
def test_pairs_without_bounds(programs: Programs, bounds: Bounds) -> None:
    """INV-8: every order with deletions between any two reads, and every answer that a listing may give."""
    only_in_a_campaign()
    check(explored(used_in_part(), programs, **bounds))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("programs", THREE.values(), ids=THREE.keys())
def test_three(programs: Programs) -> None:
    """INV-8: three programs in every order in which one that could go on waits once at most (a campaign: twice)."""
    check(explored(garbage(), programs, most_preemptions=2 if is_campaign() else 1))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_forget_a_backup_and_a_prune() -> None:
    """INV-8: the snapshot that a backup takes for its parent is forgotten and pruned meanwhile; two waits at most."""
    programs = {"forget": forget_all, "backup": BACKUP, "prune": prunes}
    check(explored(disk_after(OLD, forgotten=False), programs, most_preemptions=2))


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize(
    "bounds",
    [{"most_preemptions": 1}, {"most_preemptions": 1, "crashes": True}, {"most_preemptions": 2}],
    ids=["one wait", "one wait, crashes", "two waits"],
)
def test_two_backups_and_two_prunes(bounds: Bounds) -> None:
    """INV-8: all four at once, where a program that could go on has to wait so many times at most."""
    if bounds != {"most_preemptions": 1}:
        only_in_a_campaign()
    check(explored(garbage(), FOUR, **bounds), at_least=10_000)


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("programs", [*THREE.values(), FOUR], ids=[*THREE.keys(), "two backups, two prunes"])
def test_as_many_as_there_is_time_for(programs: Programs) -> None:
    """INV-8: no bound but that of time, from one end of the orders."""
    only_in_a_campaign()
    found = explored(garbage(), programs, most=int(campaign_s(0) * SITUATIONS_A_SECOND))
    assert not found.wrong, "\n".join([found.wrong, *found.steps])


def test_the_book() -> None:
    """INV-8: the design with nothing added to it holds as well: a prune by the book, in every order with a backup."""
    programs = {"backup": OTHER, "prune": prunes_by_the_book("p", merge=False)}
    check(explored(garbage(), programs, crashes=True))
    check(explored(garbage(), programs, slow_listings=True))


FAULTS = {
    "ignores claims": Faults(ignores_claims=True),
    "lists snapshots before claims": Faults(snapshots_before_claims=True),
    "does not look after it doomed": Faults(no_look_after_doom=True),
    "forgets the doom of a pack that is gone": Faults(forgets_dooms=True),
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_every_fault_loses_data(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests can fail: a prune that leaves out any step loses data in an order of its calls, which is found.

    A backup that lists the packs would notice the last fault by itself, so here it does not.
    """
    if faults.forgets_dooms:
        trust_the_index(monkeypatch)
    prune, second = (prunes_by_the_book(name, merge=faults.forgets_dooms, faults=faults) for name in "pq")
    wrong = explored(garbage(), {"backup": BACKUP, "prune": prune}).wrong
    wrong = wrong or explored(garbage(), {"backup": BACKUP, "prune": prune, "second": second}, most=600_000).wrong
    assert "has lost" in wrong


def trust_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup does not look whether the packs are there that the index names."""
    monkeypatch.setattr(
        "bfrepo.operations.publish._pack_states",
        lambda repository, index: {pack.id: pack.state for pack in index.table.packs()},
    )


@pytest.mark.parametrize("fault", ["does not look after its claim", "trusts the index"])
def test_a_fault_of_the_backup_loses_data(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests can fail: so does a backup that does not look after it wrote its claim, or believes a listing of the
    index that is made while objects are merged.
    """
    if fault == "trusts the index":
        trust_the_index(monkeypatch)
    else:
        monkeypatch.setattr("bfrepo.operations.publish._make_sure", lambda *args: None)
    found = explored(garbage(), PAIRS["backup and prune"], slow_listings=True, most_preemptions=3)
    assert "has lost" in found.wrong


@pytest.mark.parametrize(
    "what, instead",
    [
        ("bfrepo.operations.looking.Observer._list_claims", lambda observer: []),
        ("bfrepo.operations.prune.wanted_after_all", lambda *args: set()),
    ],
    ids=["ignores claims", "does not heed its second look"],
)
def test_a_fault_of_the_prune_loses_data(what: str, instead: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests can fail: the real prune without one of its steps loses data as well."""
    monkeypatch.setattr(what, instead)
    assert "has lost" in explored(garbage(), PAIRS["backup and prune"]).wrong


def test_a_later_backup_is_whole() -> None:
    """After any order of a backup and a prune that may die, the next backup of the same makes a whole snapshot."""
    explorer = Explorer(garbage(), PAIRS["backup and prune"], crashes=True, most_preemptions=1)
    ends: set[int] = set()

    def judge_end(present: int) -> str:
        if present in ends:
            return ""
        ends.add(present)
        disk = explorer.objects.disk(present)
        BACKUP(disk)
        return judge_closely(disk)

    assert explorer.run(lambda _: "", judge_end, most_situations=MOST).wrong == ""
    assert len(ends) > 20
