"""Joining index objects: what is kept, what goes, and that nobody ever misses anything meanwhile."""

from __future__ import annotations

import pytest

from bfrepo.index.format import IndexContent, PackFlag, decode_index, encode_index
from bfrepo.repository.merge import Merged, merge_index
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.damage import save_flag
from tests.support.faulty import crash_points
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import restored_snapshots


@pytest.fixture(params=["none", "aes-256-gcm"])
def disk(request: pytest.FixtureRequest) -> MemoryBackend:
    """Twenty backups, each with an index object of its own."""
    backend = MemoryBackend()
    repository = make_repository(backend, encryption=request.param)
    tree = {}
    for number in range(20):
        tree[f"data/{number}"] = incompressible(number, 1000)
        run_backup(repository, dict(tree))
    return backend


def contents(disk: MemoryBackend) -> list[IndexContent]:
    """What is in each index object."""
    repository = reopen(disk)
    loaded = repository.objects.load_many(ObjectKind.INDEX, names(disk, ObjectKind.INDEX))
    return [decode_index(data, name=name) for name, data in loaded if isinstance(data, bytes)]


def merge(disk: MemoryBackend, clock: FakeClock | None = None) -> Merged:
    """Join what is worth it."""
    repository = reopen(disk, clock=clock)
    return merge_index(repository, repository.index)


def test_small_objects_become_one(disk: MemoryBackend) -> None:
    """Many small objects become one that says the same; then there is nothing to do."""
    before = {pack.id for pack in reopen(disk).index.table.packs()}
    assert merge(disk) == Merged(replaced=20, written=1)
    assert {pack.id for pack in reopen(disk).index.table.packs()} == before
    assert len(restored_snapshots(reopen(disk))) == 20
    assert merge(disk) == Merged()


def test_objects_stay_within_bounds(disk: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """No object grows beyond the limit: there are several then."""
    monkeypatch.setattr("bfrepo.repository.merge._OBJECT_SIZE", 600)
    assert merge(disk).written > 3
    assert max(sum(len(pack.directory) for pack in content.packs) for content in contents(disk)) < 2000
    assert len(restored_snapshots(reopen(disk))) == 20


def test_a_pack_that_is_gone(disk: MemoryBackend) -> None:
    """Its entry goes, one doom of it stays for a month, so that nobody takes it for live meanwhile."""
    repository = reopen(disk)
    pack = next(iter(repository.index.table.packs())).id
    for state in ("condemned", "condemned", "doomed", "doomed"):
        save_flag(repository, pack, "doomed" if state == "doomed" else "condemned")
    disk.delete(ObjectKind.PACK, pack.hex())
    clock = FakeClock()

    assert merge(disk, clock).replaced >= 2
    index = reopen(disk).index
    assert index.table.pack(pack) is None
    assert [flag.state for flag in index.flags.values() if flag.pack == pack] == ["doomed"]

    clock.advance(31 * 24 * 3600)
    for number in range(20):
        run_backup(reopen(disk), {f"data/later{number}": incompressible(100 + number, 1000)})
    assert merge(disk, clock).written == 1
    assert reopen(disk).index.flags == {}


def test_a_doom_of_a_pack_that_is_there_is_not_touched(disk: MemoryBackend) -> None:
    """Another prune may be about to look for it: its object stays, whatever else is joined."""
    repository = reopen(disk)
    pack = next(iter(repository.index.table.packs())).id
    before = names(disk, ObjectKind.INDEX)
    save_flag(repository, pack, "doomed")
    (flags,) = names(disk, ObjectKind.INDEX) - before
    assert merge(disk).written == 1
    assert flags in names(disk, ObjectKind.INDEX)
    assert before.isdisjoint(names(disk, ObjectKind.INDEX))


def test_what_is_taken_back_goes(disk: MemoryBackend) -> None:
    """A flag and its revocation go together; a revocation of a flag in an object that stays is kept."""
    repository = reopen(disk)
    first, second = [pack.id for pack in repository.index.table.packs()][:2]
    gone = PackFlag(id=b"1" * 16, state="condemned", pack=first, time=FakeClock().now().isoformat())
    stays = PackFlag(id=b"2" * 16, state="doomed", pack=second, time=FakeClock().now().isoformat())
    other = PackFlag(id=b"3" * 16, state="doomed", pack=second, time=FakeClock().now().isoformat())
    for content in (
        IndexContent(flags=[gone]), IndexContent(flags=[stays, other]),
        IndexContent(revoked=[gone.id]), IndexContent(revoked=[stays.id]),
    ):  # fmt: skip
        repository.objects.save(ObjectKind.INDEX, encode_index(content))

    merge(disk)

    index = reopen(disk).index
    assert set(index.flags) == {stays.id, other.id}
    assert stays.id in index.revoked
    assert gone.id not in index.revoked


def test_a_merged_object_is_never_one_of_the_old(disk: MemoryBackend) -> None:
    """Where nothing is encrypted, too, what is joined again has another name: nobody deletes what was just written."""
    merge(disk)
    (first,) = names(disk, ObjectKind.INDEX)
    pack = next(iter(reopen(disk).index.table.packs())).id
    copy = contents(disk)[0]
    for _ in range(20):
        save_flag(reopen(disk), pack, "condemned")
    reopen(disk).objects.save(
        ObjectKind.INDEX, encode_index(IndexContent(revoked=[flag.id for flag in reopen(disk).index.flags.values()]))
    )
    merge(disk)
    (second,) = names(disk, ObjectKind.INDEX)
    assert second != first
    assert contents(disk)[0].packs == copy.packs
    assert len(restored_snapshots(reopen(disk))) == 20


def test_power_loss(disk: MemoryBackend) -> None:
    """INV-2: a merge that is cut anywhere has lost nothing, and the next one ends it."""
    for point in crash_points(lambda backend: merge_index(reopen(backend), reopen(backend).index), disk=disk):
        assert len(restored_snapshots(reopen(point.disk))) == 20, point
        merge(point.disk)
        assert len(restored_snapshots(reopen(point.disk))) == 20, point
