"""What makes a prune stop before it changes anything: it deletes only what it is certain about."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    MissingBlob,
    StorageDenied,
    StorageError,
    UnsupportedFormat,
)
from bfrepo.core.ids import BlobKind
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Claim, encode_claim
from bfrepo.operations.prune import CannotPrune
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.faulty import FaultyBackend, copy_of
from tests.support.real_pruning import plan_of, run_prune
from tests.support.repositories import FakeClock, make_repository, names, reopen, stored_objects
from tests.support.restoring import restored_snapshots

PACK_SIZE = 24_000


@pytest.fixture
def disk() -> MemoryBackend:
    """Two snapshots, and garbage of a third in live packs and in packs that no index object names."""
    backend = MemoryBackend()
    repository = make_repository(backend, encryption="aes-256-gcm", pack_size=PACK_SIZE)
    gone = run_backup(repository, {"data/gone": incompressible(1, 50_000)}).snapshot_id
    run_backup(repository, {"data/one": incompressible(2, 50_000)})
    run_backup(repository, {"data/one": incompressible(2, 50_000), "data/two": incompressible(3, 50_000)})
    assert gone is not None
    backend.delete(ObjectKind.SNAPSHOT, gone.hex())
    return backend


def refuses(disk: MemoryBackend, backend: Backend, error: type[BackupForgeError]) -> str:
    """The message with which a prune stops. It has changed nothing, and forgets nothing later."""
    before = set(stored_objects(disk))
    with pytest.raises(error) as caught:
        run_prune(backend)
    assert set(stored_objects(disk)) == before
    return str(caught.value)


@pytest.mark.parametrize("kind", [ObjectKind.SNAPSHOT, ObjectKind.CLAIM, ObjectKind.INDEX, ObjectKind.PACK])
def test_a_listing_that_fails(disk: MemoryBackend, kind: ObjectKind) -> None:
    """An error in any listing is never taken for an empty one."""
    faulty = FaultyBackend(disk)
    faulty.fail("list", kind=kind, on_call=2 if kind is ObjectKind.INDEX else 1)
    assert "list failed" in refuses(disk, faulty, StorageError)


def test_no_snapshots(disk: MemoryBackend) -> None:
    """A store that lists no snapshot is not emptied, unless that is said explicitly."""
    faulty = FaultyBackend(disk)
    for name in names(disk, ObjectKind.SNAPSHOT):
        faulty.hide(ObjectKind.SNAPSHOT, name)
    assert "no snapshot" in refuses(disk, faulty, CannotPrune)


def test_a_claim_is_no_snapshot(disk: MemoryBackend) -> None:
    """The claim of a dead backup does not make an empty list of snapshots plausible."""
    repository = reopen(disk)
    tree = next(blob_id for blob_id, place in repository.index.table.blobs()
                if repository.index.table.kind_of(place.frame) is BlobKind.TREE)  # fmt: skip
    save_claim(disk, tree)
    faulty = FaultyBackend(disk)
    for name in names(disk, ObjectKind.SNAPSHOT):
        faulty.hide(ObjectKind.SNAPSHOT, name)
    assert "no snapshot" in refuses(disk, faulty, CannotPrune)


def test_everything_was_forgotten(disk: MemoryBackend) -> None:
    """Who says so may empty a repository whose snapshots are all gone."""
    for name in names(disk, ObjectKind.SNAPSHOT):
        disk.delete(ObjectKind.SNAPSHOT, name)
    run_prune(disk, allow_remove_all=True)
    assert names(disk, ObjectKind.PACK) == set()
    run_backup(reopen(disk), {"data/one": incompressible(2, 50_000)})
    assert len(restored_snapshots(reopen(disk))) == 1


def test_an_empty_repository() -> None:
    """Where nothing is stored there is nothing to refuse."""
    backend = MemoryBackend()
    make_repository(backend)
    assert run_prune(backend).deleted == 0


def test_a_snapshot_that_is_not_listed(disk: MemoryBackend) -> None:
    """A store that hides a snapshot which another one came after is caught at it."""
    faulty = FaultyBackend(disk)
    parent = run_backup(reopen(disk), {"data/one": incompressible(2, 50_000)}).parent_id
    assert parent is not None
    faulty.hide(ObjectKind.SNAPSHOT, parent.hex())
    assert parent.hex()[:8] in refuses(disk, faulty, CannotPrune)


@pytest.mark.parametrize("kind", [ObjectKind.SNAPSHOT, ObjectKind.INDEX])
def test_damage(disk: MemoryBackend, kind: ObjectKind) -> None:
    """A snapshot or an index object that is damaged may need anything."""
    faulty = FaultyBackend(disk)
    name = max(names(disk, kind))
    repository = reopen(disk)  # as somebody who knew the index before
    faulty.flip_byte(kind, name, 40)
    repository.backend = faulty
    before = set(stored_objects(disk))
    with pytest.raises(DamagedObject) as caught:
        run_prune(faulty)
    assert name[:8] in str(caught.value)
    assert set(stored_objects(disk)) == before


def test_a_tree_that_cannot_be_read(disk: MemoryBackend) -> None:
    """A tree of a snapshot that cannot be read may need anything."""
    faulty = FaultyBackend(disk)
    for pack in reopen(disk).index.table.packs():
        if pack.kind is BlobKind.TREE:
            faulty.flip_byte(ObjectKind.PACK, pack.id.hex(), 60)
    refuses(disk, faulty, DamagedObject)


def test_an_index_object_that_is_gone(disk: MemoryBackend) -> None:
    """INV-6: packs that the index has forgotten are not garbage while a snapshot misses something."""
    for name in sorted(names(disk, ObjectKind.INDEX)):
        copy = copy_of(disk)
        copy.delete(ObjectKind.INDEX, name)
        try:
            run_prune(copy)
        except MissingBlob:
            assert names(copy, ObjectKind.PACK) == names(disk, ObjectKind.PACK)
        else:  # it named nothing but what was forgotten
            assert len(restored_snapshots(reopen(copy))) == 2


def test_a_pack_that_is_gone(disk: MemoryBackend) -> None:
    """Where a pack is missing that snapshots need, it is not the time to delete others."""
    garbage = plan_of(disk).delete
    lost = next(pack.id for pack in reopen(disk).index.table.packs() if pack.id not in garbage)
    disk.delete(ObjectKind.PACK, lost.hex())
    assert lost.hex()[:8] in refuses(disk, disk, CannotPrune)


def test_ways_out_where_a_pack_is_gone(disk: MemoryBackend) -> None:
    """The refusal names two ways to get on; a backup of the same files is one of them."""
    garbage = plan_of(disk).delete
    packs = [pack for pack in reopen(disk).index.table.packs() if pack.id not in garbage and pack.kind is BlobKind.DATA]
    disk.delete(ObjectKind.PACK, packs[-1].id.hex())
    with pytest.raises(CannotPrune) as caught:
        plan_of(disk)
    hint = str(caught.value.hint)
    assert "back up the same files again" in hint
    assert "repair snapshots --forget" in hint

    run_backup(reopen(disk), {"data/one": incompressible(2, 50_000), "data/two": incompressible(3, 50_000)})
    run_prune(disk)
    assert len(restored_snapshots(reopen(disk))) == 3


def newer(name: str) -> Callable[[MemoryBackend], None]:
    """Something of a later version appears."""

    def change(disk: MemoryBackend) -> None:
        import msgspec

        kind = ObjectKind(name)
        repository = reopen(disk)
        repository.objects.save(kind, msgspec.msgpack.encode({"version": 9, "tree": bytes(32), "time": "later"}))

    return change


@pytest.mark.parametrize("kind", ["snapshots", "claims", "index"])
def test_a_newer_version(disk: MemoryBackend, kind: str) -> None:
    """What a later version wrote is not damage, and may need anything."""
    repository_before = copy_of(disk)
    newer(kind)(disk)
    assert names(repository_before, ObjectKind(kind)) != names(disk, ObjectKind(kind))
    before = set(stored_objects(disk))
    with pytest.raises(UnsupportedFormat):
        run_prune(disk)
    assert set(stored_objects(disk)) == before


def test_a_store_that_forbids_deleting(disk: MemoryBackend) -> None:
    """A store that says so at once is believed before a single flag is written."""
    faulty = FaultyBackend(disk)
    faulty.fail("delete", forever=True, error=StorageDenied("append only"))
    assert "append only" in refuses(disk, faulty, StorageDenied)


def test_a_store_that_forbids_deleting_later(disk: MemoryBackend) -> None:
    """Where it is found out when a pack is to go, everything stays readable, and other prunes can go on."""
    faulty = FaultyBackend(disk)
    faulty.fail("delete", kind=ObjectKind.PACK, on_call=2, forever=True, error=StorageDenied("append only"))
    packs = names(disk, ObjectKind.PACK)
    with pytest.raises(StorageDenied) as caught:
        run_prune(faulty)
    assert caught.value.hint is not None
    assert packs <= names(disk, ObjectKind.PACK)
    doomed = [pack for pack in reopen(disk).index.table.packs() if pack.state.name == "DOOMED"]
    assert len(doomed) == 1  # only the one whose deletion was tried
    assert len(restored_snapshots(reopen(disk))) == 2
    run_prune(disk)
    assert len(restored_snapshots(reopen(disk))) == 2
    assert names(disk, ObjectKind.PACK) < packs


def test_the_second_look_fails(disk: MemoryBackend) -> None:
    """When the repository cannot be looked at after packs were doomed, none is deleted, the dooms are taken back."""
    faulty = FaultyBackend(disk)
    faulty.fail("list", kind=ObjectKind.CLAIM, on_call=2)
    packs = names(disk, ObjectKind.PACK)
    with pytest.raises(StorageError):
        run_prune(faulty)
    assert names(disk, ObjectKind.PACK) == packs
    assert {pack.state.name for pack in reopen(disk).index.table.packs()} == {"LIVE"}


# --- claims


def save_claim(disk: MemoryBackend, tree: bytes, *, clock: FakeClock | None = None) -> str:
    """The claim of a backup that died."""
    now = (clock or FakeClock()).now().isoformat()
    claim = Claim(version=SNAPSHOT_VERSION, tree=tree, snapshot=b"s" * 32, time=now, hostname="there")
    return reopen(disk).objects.save(ObjectKind.CLAIM, encode_claim(claim))


def test_a_claim_whose_tree_is_lost(disk: MemoryBackend) -> None:
    """A claim of a dead backup, whose tree cannot be read any more, does not stop a prune."""
    save_claim(disk, b"t" * 32)
    assert run_prune(disk).deleted
    assert len(restored_snapshots(reopen(disk))) == 2


def test_a_claim_keeps_what_it_needs_for_a_week(disk: MemoryBackend) -> None:
    """What a claim needs stays; after seven days the claim is removed, and then what only it needed goes."""
    repository = reopen(disk)
    for name in names(disk, ObjectKind.SNAPSHOT):
        disk.delete(ObjectKind.SNAPSHOT, name)
    result = run_backup(repository, {"data/kept": incompressible(7, 20_000)})
    claimed = run_backup(repository, {"data/claimed": incompressible(8, 20_000)})
    assert claimed.snapshot_id is not None
    disk.delete(ObjectKind.SNAPSHOT, claimed.snapshot_id.hex())
    name = save_claim(disk, claimed.snapshot.tree)

    run_prune(disk)
    assert all(blob in reopen(disk).index.table for blob in (claimed.snapshot.tree, result.snapshot.tree))

    clock = FakeClock()
    clock.advance(7 * 24 * 3600 + 1)
    run_prune(disk, clock=clock)
    assert name not in names(disk, ObjectKind.CLAIM)
    assert claimed.snapshot.tree not in reopen(disk).index.table
    assert result.snapshot.tree in reopen(disk).index.table


def test_a_damaged_claim_is_removed(disk: MemoryBackend) -> None:
    """A claim that cannot be read is removed, so that its backup, if it still runs, looks whether it is whole."""
    name = "c" * 64
    disk.save(ObjectKind.CLAIM, name, b"BFOBJ\x00\x00\x01 is damaged")
    run_prune(disk)
    assert names(disk, ObjectKind.CLAIM) == set()
