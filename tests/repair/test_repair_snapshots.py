"""Repairing snapshots: a new one has all that is left, says what is not, and the original stays until told to go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bfrepo.core.errors import BackupForgeError, DamagedObject, StorageError
from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node
from bfrepo.data.tree import load_tree, load_tree_blobs
from bfrepo.operations.mending import LostPath
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.damage import (
    EARLY,
    EVERYTHING,
    NEW_FILES,
    OLD_FILES,
    SmallRepository,
    flipped,
    index_of,
    reopen_unread,
    replace_object,
    run_check,
    save_blob,
    save_claim,
    save_snapshot,
    save_snapshot_of,
)
from tests.support.faulty import FaultyBackend
from tests.support.repairing import mend_index, mend_packs, mend_snapshots, readable
from tests.support.repositories import make_repository, names, reopen
from tests.support.restoring import expected, restored


def lose_packs(backend: MemoryBackend, packs: list[bytes], quarantine: Path) -> None:
    """Packs are gone for good."""
    for pack in packs:
        backend.delete(ObjectKind.PACK, pack.hex())
    mend_packs(backend, quarantine, [pack.hex() for pack in packs])


def without(files: dict[str, bytes], *prefixes: str) -> dict[str, bytes]:
    """What is left of a tree."""
    return {path: data for path, data in files.items() if not path.startswith(prefixes)}


def test_whole_snapshots_are_left_as_they_are(small: SmallRepository, quarantine: Path) -> None:
    """Where nothing is lost nothing is written."""
    faulty = FaultyBackend(small.copy())

    plan, made = mend_snapshots(faulty, quarantine)

    assert (plan.does_nothing, made, plan.looked_at) == (True, {}, 2)
    assert {call.method for call in faulty.calls} <= {"list", "size", "load", "read", "read_into"}


def test_lost_content(small: SmallRepository, quarantine: Path) -> None:
    """A file that lacks content is left out and named; everything else is in the new snapshot, byte for byte."""
    backend = small.copy()
    lose_packs(backend, small.packs(BlobKind.DATA)[-1:], quarantine)

    plan, made = mend_snapshots(backend, quarantine)

    (damage,) = plan.damaged
    assert damage.id == small.new
    assert damage.lost == (LostPath(b"/data/new", "file"), LostPath(b"/data/deep/down/leaf", "file"))
    repository = reopen(backend)
    snapshots = load_snapshots(repository)
    assert set(snapshots) == {small.old, small.new, made[small.new]}
    found = restored(repository.loader, snapshots[made[small.new]].tree)
    assert found == without(expected(NEW_FILES), "/data/deep/down/leaf", "/data/new")


def test_what_the_new_snapshot_says_of_itself(small: SmallRepository, quarantine: Path) -> None:
    """It is the original in all but its tree and one more tag, and names the first of the series as its original."""
    backend = small.copy()
    lose_packs(backend, small.packs(BlobKind.DATA)[-1:], quarantine)

    _, made = mend_snapshots(backend, quarantine)

    snapshots = load_snapshots(reopen(backend))
    original, new = snapshots[small.new], snapshots[made[small.new]]
    assert new.tags == ["repaired"]
    assert new.original == small.new
    assert msgspec.structs.replace(new, tree=original.tree, tags=[], original=b"") == original
    assert names(backend, ObjectKind.CLAIM) == set()


def test_a_lost_directory(small: SmallRepository, quarantine: Path) -> None:
    """A directory whose tree is lost is there, empty, with its own metadata."""
    backend = small.copy()
    repository = reopen(backend)
    tree = save_blob(repository, BlobKind.TREE, msgspec.msgpack.encode([1, [Node(name=b"x")], b""]))
    keep = Node(name=b"keep", type="file", content=repository.blob_hash(EARLY), size=len(EARLY))
    snapshot = save_snapshot_of(repository, [Node(name=b"gone", type="dir", mode=0o750, subtree=tree), keep])
    lost = reopen(backend).index.table
    lose_packs(backend, [lost.pack_of(lost.place(tree).frame)], quarantine)

    plan, made = mend_snapshots(backend, quarantine)

    assert [damage.lost for damage in plan.damaged] == [(LostPath(b"/gone", "directory"),)]
    repository = reopen(backend)
    gone, kept = load_tree(repository.loader, load_snapshots(repository)[made[snapshot]].tree)
    assert (gone.name, gone.mode, load_tree(repository.loader, gone.subtree), kept) == (b"gone", 0o750, [], keep)


def test_a_lost_part_of_a_large_directory(quarantine: Path) -> None:
    """Of a directory that is kept in parts, those that are left are kept."""
    backend = MemoryBackend()
    repository = make_repository(backend, pack_size=1 << 20)
    files = {f"/data/{number:05}": b"" for number in range(9000)}
    run_backup(repository, files)
    repository = reopen(backend)
    (data,) = load_tree(repository.loader, next(iter(load_snapshots(repository).values())).tree)
    _, parts = load_tree_blobs(repository.loader, data.subtree)
    assert len(parts) > 2
    lost = {node.name for node in _nodes_of_part(repository.loader.load(BlobKind.TREE, parts[1]))}
    _store_without(backend, parts[1], quarantine)

    plan, made = mend_snapshots(backend, quarantine)

    assert [damage.lost for damage in plan.damaged] == [(LostPath(b"/data", "entries"),)]
    (new,) = made.values()
    assert set(readable(backend)[new]) == {path for path in files if path.encode()[6:] not in lost}


def _nodes_of_part(data: bytes) -> list[Node]:
    return msgspec.msgpack.decode(data, type=tuple[int, list[Node], bytes])[1]


def _store_without(backend: MemoryBackend, lost: bytes, quarantine: Path) -> None:
    """Lose one tree blob alone: all packs of trees go, and what else they held is stored again."""
    repository = reopen(backend)
    table = repository.index.table
    trees = [each for each, place in table.blobs() if table.kind_of(place.frame) is BlobKind.TREE and each != lost]
    contents = [repository.loader.load(BlobKind.TREE, each) for each in trees]
    lose_packs(backend, [pack.id for pack in table.packs() if pack.kind is BlobKind.TREE], quarantine)
    for content in contents:
        save_blob(reopen(backend), BlobKind.TREE, content)


def test_a_tree_that_makes_no_sense(small: SmallRepository, quarantine: Path) -> None:
    """Names that no path may have are left out, and files that do not add up; the others stay."""
    backend = small.copy()
    repository = reopen(backend)
    good = Node(name=b"good", type="file", content=repository.blob_hash(EARLY), size=len(EARLY))
    bad = [msgspec.structs.replace(good, name=b"bad", size=1), msgspec.structs.replace(good, name=b"../up")]
    snapshot = save_snapshot_of(repository, [*bad, good])

    plan, made = mend_snapshots(backend, quarantine)

    assert [damage.lost for damage in plan.damaged] == [(LostPath(b"/", "entries"), LostPath(b"/bad", "file"))]
    repository = reopen(backend)
    assert load_tree(repository.loader, load_snapshots(repository)[made[snapshot]].tree) == [good]


def test_nothing_is_left(small: SmallRepository, quarantine: Path) -> None:
    """Of a snapshot whose root is lost no new one is made; it goes only when told to, by way of the quarantine."""
    backend = small.copy()
    lose_packs(backend, small.packs(BlobKind.TREE)[-1:], quarantine)
    data = backend.load(ObjectKind.SNAPSHOT, small.new.hex())

    plan, made = mend_snapshots(backend, quarantine)

    assert (plan.damaged[0].nothing_left, made) == (True, {})
    assert names(backend, ObjectKind.SNAPSHOT) == {small.old.hex(), small.new.hex()}
    mend_snapshots(backend, quarantine, forget=True)
    assert names(backend, ObjectKind.SNAPSHOT) == {small.old.hex()}
    assert (quarantine / f"snapshot-{small.new.hex()}").read_bytes() == data


def test_a_second_time(small: SmallRepository, quarantine: Path) -> None:
    """What was repaired is not repaired again while its successor is whole; then the original can go."""
    backend = small.copy()
    lose_packs(backend, small.packs(BlobKind.DATA)[-1:], quarantine)
    _, made = mend_snapshots(backend, quarantine)

    plan, again = mend_snapshots(backend, quarantine)

    assert (plan.does_nothing, again, plan.damaged[0].successor) == (True, {}, made[small.new])
    mend_snapshots(backend, quarantine, forget=True)
    assert names(backend, ObjectKind.SNAPSHOT) == {small.old.hex(), made[small.new].hex()}
    assert not run_check(backend, EVERYTHING).errors


def test_only_the_snapshots_that_are_named(small: SmallRepository, quarantine: Path) -> None:
    """Other snapshots are left alone, damaged or not."""
    backend = small.copy()
    lose_packs(backend, small.packs(BlobKind.DATA)[:1], quarantine)

    plan, made = mend_snapshots(backend, quarantine, ["latest~1"])

    assert (plan.looked_at, set(made)) == (1, {small.old})


def test_a_damaged_snapshot(small: SmallRepository, quarantine: Path) -> None:
    """A snapshot that does not open stays where it is unless it is told to go; its bytes are kept then."""
    backend = small.copy()
    damaged = flipped(backend.load(ObjectKind.SNAPSHOT, small.old.hex()), 50)
    replace_object(backend, ObjectKind.SNAPSHOT, small.old.hex(), damaged)

    plan, _ = mend_snapshots(backend, quarantine)

    assert (set(plan.unreadable), plan.does_nothing) == ({small.old}, True)
    mend_snapshots(backend, quarantine, [small.old.hex()[:8]], forget=True)
    assert names(backend, ObjectKind.SNAPSHOT) == {small.new.hex()}
    assert (quarantine / f"snapshot-{small.old.hex()}").read_bytes() == damaged
    assert run_check(backend, EVERYTHING).findings == ()


def newer_snapshot(backend: MemoryBackend) -> bytes:
    """A snapshot of a version that does not exist yet."""
    content = msgspec.msgpack.encode({"version": 2})
    return bytes.fromhex(reopen_unread(backend).objects.save(ObjectKind.SNAPSHOT, content))


def newer_tree(backend: MemoryBackend) -> bytes:
    """A snapshot of a tree of a version that does not exist yet."""
    repository = reopen(backend)
    return save_snapshot(repository, save_blob(repository, BlobKind.TREE, msgspec.msgpack.encode([2, [], b""])))


@pytest.mark.parametrize("make", [newer_snapshot, newer_tree])
def test_an_unknown_version_is_left_alone(
    small: SmallRepository, quarantine: Path, make: Callable[[MemoryBackend], bytes]
) -> None:
    """What is of a newer version is not damaged: it is neither repaired nor moved out."""
    backend = small.copy()
    newer = make(backend)

    plan, made = mend_snapshots(backend, quarantine, forget=True)

    assert [each.id for each in plan.left] == [newer]
    assert (plan.does_nothing, made) == (True, {})
    assert newer.hex() in names(backend, ObjectKind.SNAPSHOT)


def test_damaged_claims_are_moved_out(small: SmallRepository, quarantine: Path) -> None:
    """A claim that is damaged goes, as it would stop every prune; others stay, those of a newer version too."""
    backend = small.copy()
    repository = reopen_unread(backend)
    sound = save_claim(repository, b"\1" * 32)
    newer = repository.objects.save(ObjectKind.CLAIM, msgspec.msgpack.encode({"version": 2}))
    damaged = save_claim(repository, b"\2" * 32)
    replace_object(backend, ObjectKind.CLAIM, damaged, flipped(backend.load(ObjectKind.CLAIM, damaged), 30))

    mend_snapshots(backend, quarantine)

    assert names(backend, ObjectKind.CLAIM) == {sound, newer}
    assert (quarantine / f"claim-{damaged}").exists()


def test_packs_come_first(small: SmallRepository, quarantine: Path) -> None:
    """While a pack that is damaged or gone counts as holding what is needed, nobody knows what is lost."""
    backend = small.copy()
    name = small.packs(BlobKind.TREE)[-1].hex()
    replace_object(backend, ObjectKind.PACK, name, flipped(backend.load(ObjectKind.PACK, name), 100))
    gone = small.copy()
    gone.delete(ObjectKind.PACK, small.packs(BlobKind.DATA)[-1].hex())

    for each in (backend, gone):
        with pytest.raises(BackupForgeError) as caught:
            mend_snapshots(each, quarantine)
        assert "repair packs" in str(caught.value.hint)


def test_the_index_comes_first(small: SmallRepository, quarantine: Path) -> None:
    """What a damaged index object names is not lost: the repair says what to do first."""
    faulty = FaultyBackend(small.copy())
    faulty.flip_byte(ObjectKind.INDEX, index_of(small, small.packs(BlobKind.DATA)[0]), 60)

    with pytest.raises(DamagedObject) as caught:
        mend_snapshots(faulty, quarantine)

    assert "repair index" in str(caught.value.hint)
    faulty.heal()
    assert mend_index(faulty, quarantine).does_nothing


@pytest.mark.parametrize("kind", [ObjectKind.SNAPSHOT, ObjectKind.CLAIM, ObjectKind.PACK])
def test_a_storage_that_fails_is_no_damage(small: SmallRepository, quarantine: Path, kind: ObjectKind) -> None:
    """What the storage does not give ends the repair before anything is done."""
    backend = small.copy()
    save_claim(reopen_unread(backend), b"\1" * 32)
    faulty = FaultyBackend(backend)
    for method in ("load", "read", "read_into"):
        faulty.fail(method, kind=kind, forever=True)

    with pytest.raises(StorageError):
        mend_snapshots(faulty, quarantine, forget=True)

    assert names(backend, ObjectKind.SNAPSHOT) == {small.old.hex(), small.new.hex()}


def test_the_new_tree_relies_on_nothing_that_is_lost(quarantine: Path) -> None:
    """A tree that the repair makes is stored although a pack that is missing is said to hold one like it (INV-1)."""
    backend = MemoryBackend()
    repository = make_repository(backend)
    empty = save_blob(repository, BlobKind.TREE, msgspec.msgpack.encode([1, [], b""]))
    snapshot = save_snapshot_of(
        repository, [Node(name=b"gone", type="file", content=b"\7" * 32, size=5), folder_of(empty)]
    )
    table = reopen(backend).index.table
    pack = table.pack_of(table.place(empty).frame)
    lost_data = incompressible(1, 100)
    save_snapshot_of(
        reopen(backend), [Node(name=b"kept", type="file", content=save_data(backend, lost_data), size=100)]
    )
    lose_packs(backend, [pack], quarantine)

    _, made = mend_snapshots(backend, quarantine)

    repository = reopen(backend)
    assert restored(repository.loader, load_snapshots(repository)[made[snapshot]].tree) == {"/void": b"<dir>"}


def folder_of(tree: bytes) -> Node:
    """A directory with this tree."""
    return Node(name=b"void", type="dir", subtree=tree)


def save_data(backend: MemoryBackend, content: bytes) -> bytes:
    """A blob of data, in a pack of its own."""
    return save_blob(reopen(backend), BlobKind.DATA, content)


def test_healing_makes_the_repaired_one_needless(small: SmallRepository, quarantine: Path) -> None:
    """A backup of the same files makes the original whole again, after which there is nothing to repair."""
    backend = small.copy()
    lose_packs(backend, small.packs(BlobKind.DATA), quarantine)
    assert len(mend_snapshots(backend, quarantine)[0].damaged) == 2

    for tree in (OLD_FILES, NEW_FILES):
        run_backup(reopen(backend), tree)

    assert mend_snapshots(backend, quarantine)[0].damaged == ()
    assert run_check(backend, EVERYTHING).findings == ()
