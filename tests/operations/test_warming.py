"""What is archived is listed, asked for and waited for, and nothing that can do without it asks for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bfrepo.checker.sampling import Everything
from bfrepo.core.errors import DamagedObject, Interrupted, RepositoryExists, StorageDenied, StorageObjectArchived
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.data.selection import SnapshotFilter
from bfrepo.index.format import PackState
from bfrepo.operations.check import CheckOptions, check, check_without_key
from bfrepo.operations.copy import copy_snapshots, plan_copy, survey_copy
from bfrepo.operations.dump import archive_for, dump, find_dump
from bfrepo.operations.prune import PruneOptions, UnusedLimit, plan_prune, prune
from bfrepo.operations.repair_hot import plan_hot_repair, repair_hot
from bfrepo.operations.restore import RestoreResult, restore
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.warming import StillArchived, WarmUp
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.hotcold import HotColdBackend, HotPartUnusable
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.warming import Warmth
from tests.support.archives import HOUR, ArchivingBackend, Glacier, Waiting
from tests.support.backups import incompressible, never, run_backup
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item, written

PACK_SIZE = 40_000

TREE: dict[str, Item | bytes] = {
    "data/first": incompressible(1, 100_000),
    "data/second": incompressible(2, 100_000),
    "data/sub/note": b"hello",
}


@dataclass
class Cold:
    """A repository whose packs of file data are archived."""

    backend: ArchivingBackend
    clock: FakeClock

    @property
    def glacier(self) -> Glacier:
        return self.backend.glacier

    def open(self) -> Repository:
        return reopen(self.backend, clock=self.clock, pack_size=PACK_SIZE)

    def back_up(self, tree: dict[str, Item | bytes]) -> None:
        run_backup(self.open(), tree)

    def packs_of(self, kind: BlobKind) -> set[str]:
        return {pack.id.hex() for pack in self.open().index.table.packs() if pack.kind is kind}


@pytest.fixture
def cold() -> Cold:
    """With one backup in it."""
    return make_cold()


@pytest.fixture(autouse=True)
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames so small that a file of 100 KB is in several packs."""
    monkeypatch.setattr("bfrepo.repository.saver.FRAME_SIZE", 20_000)


def make_cold(*, trees: bool = False) -> Cold:
    """A new repository that archives; with `trees` those of trees as well."""
    clock = FakeClock()
    found = Cold(ArchivingBackend(MemoryBackend(), clock, trees=trees), clock)
    make_repository(found.backend, clock=clock, pack_size=PACK_SIZE)
    found.back_up(TREE)
    return found


def run_restore(
    cold: Cold, target: Path, how: WarmUp, *, what: str = "latest:/data", cancelled: Any = never, **options: Any
) -> RestoreResult:
    """Restore as another process would."""
    chosen = RestoreOptions(target=os.fsencode(target), threads=1, **options)
    return restore(cold.open(), what, SnapshotFilter(), chosen, Quiet(), cancelled, how)


def check_restored(target: Path) -> None:
    """All of the tree is in place."""
    assert (target / "first").read_bytes() == incompressible(1, 100_000)
    assert (target / "second").read_bytes() == incompressible(2, 100_000)
    assert (target / "sub" / "note").read_bytes() == b"hello"


# --- restore


def test_restore_waits_for_the_archive(cold: Cold, tmp_path: Path) -> None:
    """Restore asks for all packs of file data, says so, waits until they are at hand, and restores."""
    waiting = Waiting(cold.clock)
    result = run_restore(cold, tmp_path / "out", waiting.how)
    check_restored(tmp_path / "out")
    assert sorted(cold.glacier.asked) == sorted(cold.packs_of(BlobKind.DATA))
    assert waiting.slept == pytest.approx(4 * HOUR)
    assert [packs.count for packs in waiting.told] == [len(cold.glacier.asked)]
    assert (result.summary.files.created, result.summary.errors, result.archived) == (3, 0, None)


def test_only_what_is_needed_is_asked_for(cold: Cold, tmp_path: Path) -> None:
    """A restore of one file asks for the packs of that file, and of no other."""
    run_restore(cold, tmp_path / "out", Waiting(cold.clock).how, what="latest:/data/sub/note")
    assert (tmp_path / "out" / "note").read_bytes() == b"hello"
    assert len(cold.glacier.asked) == 1


def test_what_is_in_place_is_not_asked_for(cold: Cold, tmp_path: Path) -> None:
    """A file that the target has already takes no pack from the archive."""
    run_restore(cold, tmp_path / "out", Waiting(cold.clock).how)
    cold.glacier.ready_at.clear()
    cold.glacier.asked.clear()
    (tmp_path / "out" / "sub" / "note").unlink()
    run_restore(cold, tmp_path / "out", Waiting(cold.clock).how)
    assert len(cold.glacier.asked) == 1
    check_restored(tmp_path / "out")


def test_dry_run_tells_and_asks_for_nothing(cold: Cold, tmp_path: Path) -> None:
    """A dry run says how many packs and bytes would have to be waited for, and costs nothing."""
    data = cold.packs_of(BlobKind.DATA)
    result = run_restore(cold, tmp_path / "out", Waiting(cold.clock).how, dry_run=True)
    assert result.archived is not None
    assert (result.archived.count, result.archived.needed) == (len(data), len(data))
    assert result.archived.size == sum(cold.backend.size(ObjectKind.PACK, name) for name in data)
    assert cold.glacier.asked == []
    assert not (tmp_path / "out").exists()


def test_going_on_later(cold: Cold, tmp_path: Path) -> None:
    """Who does not wait is told to come back; the next run asks for nothing again and finds what is at hand."""
    impatient = Waiting(cold.clock, wait=timedelta(0))
    with pytest.raises(StillArchived) as caught:
        run_restore(cold, tmp_path / "out", impatient.how)
    assert "again" in str(caught.value.hint)
    assert impatient.slept == 0
    asked = list(cold.glacier.asked)
    cold.clock.advance(HOUR)
    waiting = Waiting(cold.clock)
    run_restore(cold, tmp_path / "out", waiting.how)
    check_restored(tmp_path / "out")
    assert cold.glacier.asked == asked
    assert waiting.slept == pytest.approx(3 * HOUR)
    assert not waiting.told[0].cold
    assert len(waiting.told[0].warming) == len(asked)


def test_waiting_for_so_long_and_no_longer(cold: Cold, tmp_path: Path) -> None:
    """The wait ends when the time that was given for it is over."""
    waiting = Waiting(cold.clock, wait=timedelta(seconds=1.5 * HOUR))
    with pytest.raises(StillArchived):
        run_restore(cold, tmp_path / "out", waiting.how)
    assert waiting.slept == pytest.approx(1.5 * HOUR)


def test_interrupted_wait(cold: Cold, tmp_path: Path) -> None:
    """Ctrl-C ends the wait at once, and says that the next run goes on from there."""
    waiting = Waiting(cold.clock)
    with pytest.raises(Interrupted) as caught:
        run_restore(cold, tmp_path / "out", waiting.how, cancelled=lambda: waiting.slept > 0)
    assert "again" in str(caught.value.hint)
    assert waiting.slept < HOUR
    assert cold.glacier.asked


def test_copies_that_have_gone_are_asked_for_again(cold: Cold, tmp_path: Path) -> None:
    """A copy that was there and has gone while others were waited for is asked for again."""
    first, *others = sorted(cold.packs_of(BlobKind.DATA))
    for name in others:
        cold.glacier.request(name)
    cold.clock.advance(2 * HOUR)
    cold.glacier.request(first)
    waiting = Waiting(cold.clock)

    def forget(seconds: float) -> None:
        waiting.how.sleep(seconds)
        if cold.clock.seconds >= 2.5 * HOUR and cold.glacier.asked.count(others[-1]) == 1:
            cold.glacier.ready_at.pop(others[-1], None)

    how = WarmUp(interval=timedelta(seconds=HOUR), sleep=forget)
    run_restore(cold, tmp_path / "out", how)
    check_restored(tmp_path / "out")
    assert cold.glacier.asked.count(others[-1]) == 2


def test_an_archive_that_a_sample_does_not_show(cold: Cold, tmp_path: Path) -> None:
    """Where a look at some packs shows no archive, the first archived pack that is met leads to the same end."""
    cold.glacier.shows = False
    run_restore(cold, tmp_path / "out", Waiting(cold.clock).how)
    check_restored(tmp_path / "out")


def test_no_archive_costs_no_question(tmp_path: Path) -> None:
    """A storage without an archive is asked nothing, and one whose sample shows none is asked about no pack."""
    found = make_cold()
    found.glacier.archived.clear()

    def warmth(name: str) -> Any:
        raise AssertionError(name)

    found.glacier.warmth = warmth  # type: ignore[method-assign]
    object.__setattr__(found.backend, "_refuse", lambda kind, name: None)
    run_restore(found, tmp_path / "out", Waiting(found.clock).how)
    check_restored(tmp_path / "out")


def test_a_storage_that_refuses(cold: Cold, tmp_path: Path) -> None:
    """Where one may not bring anything back, that is the error."""

    def refuse(name: str) -> None:
        raise StorageDenied(f"you may not restore {name[:8]}")

    cold.glacier.request = refuse  # type: ignore[method-assign]
    with pytest.raises(StorageDenied, match="may not restore"):
        run_restore(cold, tmp_path / "out", Waiting(cold.clock).how)


def test_many_packs_are_not_all_looked_at_each_time(
    cold: Cold, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing of a batch is at hand, the packs behind it are not asked after."""
    monkeypatch.setattr("bfrepo.operations.warming._BATCH", 2)
    looks: list[str] = []
    plain = cold.glacier.warmth

    def look(name: str) -> Warmth:
        if cold.clock.seconds < cold.glacier.takes_s - HOUR:
            looks.append(name)
        return plain(name)

    cold.glacier.warmth = look  # type: ignore[method-assign]
    run_restore(cold, tmp_path / "out", Waiting(cold.clock).how)
    check_restored(tmp_path / "out")
    first, *_, last = sorted(cold.packs_of(BlobKind.DATA))
    assert looks.count(first) >= 3
    assert looks.count(last) == 1


# --- reading directories


def test_archived_directories(tmp_path: Path) -> None:
    """Where directories are archived as well, the hint says how to get them back for good."""
    found = make_cold(trees=True)
    with pytest.raises(StorageObjectArchived) as caught:
        run_restore(found, tmp_path / "out", Waiting(found.clock).how)
    assert "repair hot" in str(caught.value.hint)


def test_repair_hot_brings_directories_back(tmp_path: Path) -> None:
    """A hot part is made of what the archive brings back, file data is not asked for, and then a restore works."""
    found = make_cold(trees=True)
    hot, repository = MemoryBackend(), found.open()
    plan = plan_hot_repair(repository, hot, Quiet(), never)
    assert found.glacier.asked == []
    repair_hot(repository, hot, plan, Quiet(), never, Waiting(found.clock).how)
    assert set(found.glacier.asked) == found.packs_of(BlobKind.TREE) == names(hot, ObjectKind.PACK)
    found.glacier.ready_at.clear()
    both = HotColdBackend(hot, found.backend)
    chosen = RestoreOptions(target=os.fsencode(tmp_path / "out"), threads=1)
    opened = reopen(both, clock=found.clock)
    how = Waiting(found.clock).how
    restore(opened, "latest:/data", SnapshotFilter(), chosen, Quiet(), never, how)
    check_restored(tmp_path / "out")
    assert set(found.glacier.asked[1:]) == found.packs_of(BlobKind.DATA)


def test_backups_read_nothing_archived(cold: Cold) -> None:
    """A backup, its parent, and a check of all that is needed ask for nothing and run into nothing."""
    cold.back_up({**TREE, "data/second": written(incompressible(3, 100_000))})
    result = check(cold.open(), CheckOptions(), Quiet(), never)
    assert result.findings == ()
    assert cold.glacier.asked == []


def test_a_backup_whose_archived_packs_are_doomed_reads_its_source_again(cold: Cold) -> None:
    """What a prune dooms while a backup runs is stored again from the source where its pack is archived (INV-8)."""
    from bfrepo.repository.flags import set_flags

    doomed = [bytes.fromhex(name) for name in cold.packs_of(BlobKind.DATA)]

    class Dooming(Quiet):
        wants_items = True

        def item(self, path: bytes, change: Any, size: int) -> None:
            if doomed:
                set_flags(cold.open(), "doomed", doomed)
                doomed.clear()

    run_backup(cold.open(), {**TREE, "data/third": b"new"}, reporter=Dooming())
    assert cold.glacier.asked == []
    table = cold.open().index.table
    states = {table.pack(table.pack_of(place.frame)) for _, place in table.blobs()}
    assert all(pack is not None and pack.state is PackState.LIVE for pack in states)


# --- check


def test_check_waits(cold: Cold) -> None:
    """A check that reads data waits for it, reads all of it, and finds nothing wrong."""
    options = CheckOptions(read=Everything(), warm_up=Waiting(cold.clock).how, workers=1)
    result = check(cold.open(), options, Quiet(), never)
    assert (result.findings, result.archived) == ((), 0)
    assert len(result.packs_read) == result.packs
    assert set(cold.glacier.asked) == cold.packs_of(BlobKind.DATA)


@pytest.mark.parametrize("shows", [True, False])
def test_check_without_waiting(cold: Cold, shows: bool) -> None:
    """A check that is not to wait leaves archived packs out, says how many, and takes them for no damage."""
    cold.glacier.shows = shows
    result = check(cold.open(), CheckOptions(read=Everything(), workers=1), Quiet(), never)
    assert result.findings == ()
    assert result.archived == len(cold.packs_of(BlobKind.DATA))
    assert len(result.packs_read) + result.archived == result.packs
    assert cold.glacier.asked == []


def test_check_of_an_archive_that_a_sample_does_not_show(cold: Cold) -> None:
    """What turns out to be archived when it is read is waited for then."""
    cold.glacier.shows = False
    options = CheckOptions(read=Everything(), warm_up=Waiting(cold.clock).how, workers=1)
    result = check(cold.open(), options, Quiet(), never)
    assert (result.findings, result.archived) == ((), 0)
    assert set(cold.glacier.asked) == cold.packs_of(BlobKind.DATA)


def test_check_without_a_key_waits(cold: Cold) -> None:
    """Whoever compares hashes without a key waits as well."""
    result = check_without_key(cold.backend, cold.clock, Quiet(), never, Waiting(cold.clock).how)
    assert result.findings == ()
    assert set(cold.glacier.asked) == cold.packs_of(BlobKind.DATA)


# --- dump


class _Sink:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: Any) -> None:
        self.data += bytes(data)

    def zeros(self, count: int) -> None:
        self.data += bytes(count)

    def flush(self) -> None:
        """All is here."""


@pytest.mark.parametrize("path", [b"data/first", b"data"])
def test_dump_waits(cold: Cold, path: bytes) -> None:
    """A dump waits for its packs before it writes a byte."""
    repository, sink = cold.open(), _Sink()
    place = find_dump(repository, "latest", path, SnapshotFilter(), Quiet())
    waiting = Waiting(cold.clock)
    impatient = Waiting(cold.clock, wait=timedelta(0))
    kind = archive_for(place.node, None)
    with pytest.raises(StillArchived):
        dump(repository, place, kind, sink, Quiet(), never, impatient.how)
    assert sink.data == b""
    result = dump(repository, place, kind, sink, Quiet(), never, waiting.how)
    assert waiting.slept == pytest.approx(4 * HOUR)
    assert incompressible(1, 100_000) in sink.data
    assert result.files == (1 if path == b"data/first" else 3)


# --- copy


def test_copy_waits_for_what_is_new(cold: Cold) -> None:
    """A copy asks for the packs of what the target lacks, and the next one only for those of what came since."""
    target = make_repository(seed=b"\x06" * 32)
    ids = list(load_snapshots(cold.open()))
    first = copy_snapshots(cold.open(), target, ids, Quiet(), never, warm_up=Waiting(cold.clock).how)
    assert (len(first.copied), first.failed) == (1, [])
    assert set(cold.glacier.asked) == cold.packs_of(BlobKind.DATA)
    before = cold.packs_of(BlobKind.DATA)
    cold.glacier.ready_at.clear()
    cold.glacier.asked.clear()
    cold.back_up({**TREE, "data/second": written(incompressible(3, 100_000))})
    ids = list(load_snapshots(cold.open()))
    second = copy_snapshots(cold.open(), target, ids, Quiet(), never, warm_up=Waiting(cold.clock).how)
    assert (len(second.copied), second.failed) == (1, [])
    assert set(cold.glacier.asked) == cold.packs_of(BlobKind.DATA) - before
    models = [expected(TREE), expected({**TREE, "data/second": incompressible(3, 100_000)})]
    assert sorted(map(str, restored_snapshots(reopen(target.backend)).values())) == sorted(map(str, models))


def test_copy_from_an_archive_that_a_sample_does_not_show(cold: Cold) -> None:
    """A copy that runs into archived packs waits for them, and takes nothing for damage."""
    cold.glacier.shows = False
    target = make_repository()
    ids = list(load_snapshots(cold.open()))
    result = copy_snapshots(cold.open(), target, ids, Quiet(), never, warm_up=Waiting(cold.clock).how)
    assert (len(result.copied), result.failed) == (1, [])


def test_dry_copy_tells(cold: Cold) -> None:
    """A dry run of a copy says how much is archived and asks for nothing."""
    repository, target = cold.open(), make_repository()
    plan = plan_copy(repository, target, list(load_snapshots(repository)), Quiet())
    found = survey_copy(repository, plan, Quiet(), never)
    assert found is not None
    assert found.count == len(cold.packs_of(BlobKind.DATA))
    assert cold.glacier.asked == []


# --- prune


def forget(cold: Cold, keep: int) -> None:
    """Remove the oldest snapshots."""
    snapshots = sorted(load_snapshots(cold.open()).items(), key=lambda item: item[1].when)
    for identifier, _ in snapshots[: len(snapshots) - keep]:
        cold.backend.delete(ObjectKind.SNAPSHOT, identifier.hex())


NO_GRACE = PruneOptions(grace=timedelta(0), max_unused=UnusedLimit(percent=0), workers=1)


def test_prune_reads_nothing_archived(cold: Cold) -> None:
    """Prune deletes archived packs that nobody needs, leaves those alone that somebody needs a part of, and asks for
    nothing (INV-8).
    """
    later = {"data/second": TREE["data/second"], "data/third": incompressible(4, 30_000)}
    cold.clock.advance(HOUR)
    cold.back_up(later)
    before = names(cold.backend, ObjectKind.PACK) & cold.glacier.archived
    forget(cold, keep=1)
    plan = plan_prune(cold.open(), NO_GRACE, Quiet(), never)
    assert plan.archived_unused > 0
    assert {pack.kind for pack in plan.repack} <= {BlobKind.TREE}
    result = prune(cold.open(), NO_GRACE, Quiet(), never)
    assert result.problems == []
    assert cold.glacier.asked == []
    assert names(cold.backend, ObjectKind.PACK) & cold.glacier.archived < before
    cold.glacier.archived.clear()
    assert list(restored_snapshots(cold.open()).values()) == [expected(later)]


def test_prune_repacks_what_was_brought_back(cold: Cold) -> None:
    """Packs of which a copy is at hand are repacked like any other."""
    for name in cold.packs_of(BlobKind.DATA):
        cold.glacier.ready_at[name] = 0
    cold.clock.advance(HOUR)
    cold.back_up({"data/sub/note": TREE["data/sub/note"]})
    forget(cold, keep=1)
    result = prune(cold.open(), NO_GRACE, Quiet(), never)
    assert result.repacked >= 1
    assert result.plan.archived_unused == 0


@pytest.mark.parametrize("shows", [True, False])
def test_a_copy_that_cannot_be_proved_is_no_reason_to_delete_another(cold: Cold, shows: bool) -> None:
    """Of what two archived packs have both stay: nobody can tell whether one of them is damaged."""
    repository = cold.open()
    empty = reopen(cold.backend, clock=cold.clock, pack_size=PACK_SIZE)
    empty.index.table.__init__()  # type: ignore[misc]
    run_backup(empty, TREE, force=True)
    doubled = cold.packs_of(BlobKind.DATA)
    assert len(doubled) > len({pack.id for pack in repository.index.table.packs() if pack.kind is BlobKind.DATA})
    cold.glacier.shows = shows
    result = prune(cold.open(), NO_GRACE, Quiet(), never)
    assert result.problems == []
    assert cold.packs_of(BlobKind.DATA) == doubled
    assert cold.glacier.asked == []


def test_a_doomed_pack_that_is_archived_stays(cold: Cold) -> None:
    """What a prune that died had doomed, and is needed after all, is not copied out of the archive, and not deleted."""
    from bfrepo.repository.flags import set_flags

    packs = cold.packs_of(BlobKind.DATA)
    set_flags(cold.open(), "doomed", [bytes.fromhex(name) for name in packs])
    result = prune(cold.open(), NO_GRACE, Quiet(), never)
    assert result.problems == []
    assert cold.packs_of(BlobKind.DATA) == packs
    assert names(cold.backend, ObjectKind.PACK) >= packs


# --- the hot part


def test_repair_hot_makes_it_right() -> None:
    """What is missing is copied, what is damaged is replaced, what does not belong there goes, the rest stays."""
    hot, cold = MemoryBackend(), MemoryBackend()
    run_backup(make_repository(HotColdBackend(hot, cold), pack_size=PACK_SIZE), TREE)
    before = {(kind, name): hot.load(kind, name) for kind in ObjectKind for name in names(hot, kind)}
    repository = reopen(cold)
    assert plan_hot_repair(repository, hot, Quiet(), never).does_nothing
    snapshot, pack = *names(hot, ObjectKind.SNAPSHOT), *names(hot, ObjectKind.PACK)
    hot.delete(ObjectKind.SNAPSHOT, snapshot)
    damaged = hot.load(ObjectKind.PACK, pack)[:-1] + b"X"
    hot.save(ObjectKind.PACK, pack, damaged)
    (data,) = list(names(cold, ObjectKind.PACK) - {pack})[:1]
    hot.save(ObjectKind.PACK, data, cold.load(ObjectKind.PACK, data))
    hot.save(ObjectKind.CLAIM, "ab" * 32, b"left by a crash")
    plan = plan_hot_repair(repository, hot, Quiet(), never)
    assert set(plan.missing) == {(ObjectKind.SNAPSHOT, snapshot)}
    assert set(plan.damaged) == {(ObjectKind.PACK, pack)}
    assert set(plan.surplus) == {(ObjectKind.CLAIM, "ab" * 32), (ObjectKind.PACK, data)}
    repair_hot(repository, hot, plan, Quiet(), never)
    assert {(kind, name): hot.load(kind, name) for kind in ObjectKind for name in names(hot, kind)} == before


def test_repair_hot_goes_on() -> None:
    """A repair that was interrupted anywhere is taken up by the next one."""
    from tests.support.faulty import PowerLossBackend, PowerLost

    cold = MemoryBackend()
    run_backup(make_repository(cold, pack_size=PACK_SIZE), TREE)
    at = 0
    while True:
        at += 1
        disk = MemoryBackend()
        dying = PowerLossBackend(disk, at=at, when="after")
        repository = reopen(cold)
        try:
            repair_hot(repository, dying, plan_hot_repair(repository, dying, Quiet(), never), Quiet(), never)
        except PowerLost:
            repair_hot(repository, disk, plan_hot_repair(repository, disk, Quiet(), never), Quiet(), never)
            assert plan_hot_repair(repository, disk, Quiet(), never).does_nothing
        else:
            break
    assert at > 4
    assert restored_snapshots(reopen(HotColdBackend(disk, cold)))


def test_repair_hot_leaves_what_others_are_writing() -> None:
    """What is in the hot part alone when the repair looks, and in both when it acts, stays."""
    hot, cold = MemoryBackend(), MemoryBackend()
    run_backup(make_repository(HotColdBackend(hot, cold), pack_size=PACK_SIZE), TREE)
    repository = reopen(cold)
    claim, gone = "cd" * 32, "ef" * 32
    hot.save(ObjectKind.CLAIM, claim, b"being written")
    hot.save(ObjectKind.CLAIM, gone, b"left by a crash")
    plan = plan_hot_repair(repository, hot, Quiet(), never)
    cold.save(ObjectKind.CLAIM, claim, b"being written")
    repair_hot(repository, hot, plan, Quiet(), never)
    assert names(hot, ObjectKind.CLAIM) == {claim}


def test_repair_hot_copies_no_damage() -> None:
    """Damage of the cold part is an error, and is not spread."""
    from tests.support.faulty import FaultyBackend

    disk = MemoryBackend()
    run_backup(make_repository(disk, pack_size=PACK_SIZE), TREE)
    cold = FaultyBackend(disk)
    repository = reopen(cold)
    hot = MemoryBackend()
    plan = plan_hot_repair(repository, hot, Quiet(), never)
    (pack,) = [name for kind, name in plan.missing if kind is ObjectKind.PACK]
    cold.flip_byte(ObjectKind.PACK, pack, 100)
    with pytest.raises(DamagedObject, match="not those that were written"):
        repair_hot(repository, hot, plan, Quiet(), never)
    assert names(hot, ObjectKind.PACK) == set()


def test_repair_hot_never_touches_something_else(cold: Cold) -> None:
    """A place that holds anything but this repository's hot part is refused."""
    other = MemoryBackend()
    make_repository(other)
    with pytest.raises(HotPartUnusable, match="not the hot part"):
        plan_hot_repair(cold.open(), other, Quiet(), never)
    strange = MemoryBackend()
    strange.save(ObjectKind.PACK, "ab" * 32, b"somebody's")
    plan = plan_hot_repair(cold.open(), strange, Quiet(), never)
    with pytest.raises(RepositoryExists):
        repair_hot(cold.open(), strange, plan, Quiet(), never)
