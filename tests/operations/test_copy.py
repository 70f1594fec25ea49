"""Copying snapshots: everything arrives, nothing twice, and what was copied before is not read again."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import msgspec
import pytest

from bfrepo.compression import Codec
from bfrepo.core.errors import ObjectNotFound, UsageError
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.core.units import KIB
from bfrepo.data.snapshot import encode_snapshot
from bfrepo.operations.copy import plan_copy
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.config import Encryption
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.copying import everything_in, objects_of, opened, reads_of, run_copy
from tests.support.damage import EVERYTHING, encode_tree, run_check, save_blob, save_snapshot
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock, make_repository, names
from tests.support.restoring import expected, restored
from tests.support.sources import Item, folder, sparse, written

FIRST: Mapping[str, Item | bytes] = {
    "data/big": incompressible(1, 400 * KIB),
    "data/empty": b"",
    "data/hole": sparse(b"x" * 5000 + bytes(12288) + b"y" * 100, (5000, 12288)),
    "data/same/a": b"twice" * 100,
    "data/same/b": b"twice" * 100,
    "data/still/deep/leaf": b"leaf" * 1000,
    "data/still/link": Item(type="symlink", target=b"deep"),
    "data/void": folder(),
    **{f"data/many/{number:02}": incompressible(100 + number, 2000) for number in range(30)},
}
SECOND: Mapping[str, Item | bytes] = {
    **FIRST,
    "data/big": written(incompressible(1, 300 * KIB) + incompressible(2, 100 * KIB)),
    "data/many/07": written(b"changed"),
    "data/new/file": incompressible(3, 50 * KIB),
}

ALL_KINDS = list(product(["aes-256-gcm", "none"], repeat=2))


def two_snapshots(encryption: Encryption = "aes-256-gcm", **options: str) -> FaultyBackend:
    """A repository with FIRST, and a day later SECOND, which has a tag and a label."""
    backend, clock = FaultyBackend(MemoryBackend()), FakeClock()
    repository = make_repository(backend, encryption=encryption, clock=clock, pack_size=100 * KIB, **options)  # type: ignore[arg-type]
    run_backup(repository, FIRST)
    clock.advance(86400)
    run_backup(repository, SECOND, tags=("daily",), label="second", excludes=("*.o",))
    return backend


def empty(encryption: Encryption = "aes-256-gcm", **options: str) -> FaultyBackend:
    """A repository without snapshots."""
    backend = FaultyBackend(MemoryBackend())
    make_repository(backend, encryption=encryption, password=b"another", **options)  # type: ignore[arg-type]
    return backend


def target_of(backend: FaultyBackend) -> Repository:
    """A repository opened by the password that `empty` gives it."""
    return opened(backend, password=b"another")


# --- what arrives


@pytest.mark.parametrize(("mine", "theirs"), ALL_KINDS)
def test_everything_arrives(mine: Encryption, theirs: Encryption) -> None:
    """Whatever is encrypted, a copy holds the same files with the same metadata, and says the same of itself."""
    source, target = two_snapshots(mine), empty(theirs)
    result = run_copy(source, target_of(target))
    assert everything_in(target_of(target)) == everything_in(opened(source))
    assert list(result.copied) == list(load_snapshots(opened(source)))
    assert list(result.copied.values()) == list(load_snapshots(target_of(target)))
    assert run_check(target_of(target), EVERYTHING).findings == ()


def test_a_copy_knows_its_original_and_its_parent() -> None:
    """The copy of a child names the copy of its parent, and each names the snapshot it was made from."""
    source, target = two_snapshots(), empty()
    result = run_copy(source, target_of(target))
    (old, old_copy), (new, new_copy) = result.copied.items()
    copies = load_snapshots(target_of(target))
    assert (copies[old_copy].original, copies[old_copy].parent) == (old, b"")
    assert (copies[new_copy].original, copies[new_copy].parent) == (new, old_copy)


def test_a_parent_that_was_not_copied_is_not_named() -> None:
    """No snapshot names a parent that its repository does not have."""
    source, target = two_snapshots(), empty()
    *_, newest = load_snapshots(opened(source))
    (copy,) = run_copy(source, target_of(target), {newest}).copied.values()
    assert load_snapshots(target_of(target))[copy].parent == b""


@pytest.mark.parametrize(("mine", "theirs"), ALL_KINDS)
def test_ids_are_those_of_the_target(mine: Encryption, theirs: Encryption) -> None:
    """INV-5: no blob has the same ID in two repositories, unless neither of them has a key."""
    source, target = two_snapshots(mine), empty(theirs)
    run_copy(source, target_of(target))
    shared = blob_ids(opened(source)) & blob_ids(target_of(target))
    assert shared == (blob_ids(opened(source)) if mine == theirs == "none" else set())


def blob_ids(repository: Repository) -> set[bytes]:
    """The IDs of all blobs."""
    return {blob_id for blob_id, _ in repository.refresh_index().table.blobs()}


@pytest.mark.parametrize(("mine", "theirs"), ALL_KINDS)
def test_long_lists(mine: Encryption, theirs: Encryption) -> None:
    """Lists of blobs and holes in blobs of their own, and directories in several parts, arrive whole."""
    holes = tuple((2 * number * 4096, 4096) for number in range(1000))
    image = b"".join(bytes(4096) + number.to_bytes(4, "little") * 1024 for number in range(1000))
    tree: dict[str, Item | bytes] = {
        "data/disk": incompressible(1, 3000 * KIB),
        "data/image": sparse(image, *holes),
        **{f"data/large/{number:05}": b"" for number in range(5000)},
    }
    source, target = empty(mine), empty(theirs)
    run_backup(target_of(source), tree)
    run_copy(target_of(source), target_of(target))
    assert everything_in(target_of(target)) == everything_in(target_of(source))
    assert run_check(target_of(target), EVERYTHING).findings == ()


def test_fields_of_a_later_version_survive() -> None:
    """What this version does not know of a node or a snapshot arrives as well."""
    source, target = empty(), empty()
    repository = target_of(source)
    subtree = save_blob(repository, BlobKind.TREE, encode_tree([]))
    node = {"n": b"d", "t": "dir", "e": subtree, "zz": [1, b"\xff", {"deep": 2.5}]}
    tree = save_blob(repository, BlobKind.TREE, msgspec.msgpack.encode([1, [node], b"", "later"]))
    identifier = save_snapshot(repository, tree)
    snapshot = load_snapshots(repository)[identifier]
    snapshot.unknown = {"colour": "red"}
    repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(snapshot))
    run_copy(repository, target_of(target))

    copy = target_of(target)
    copy.refresh_index()
    trees = {snapshot.tree for snapshot in load_snapshots(copy).values()}
    assert "red" in {snapshot.unknown.get("colour") for snapshot in load_snapshots(copy).values()}
    (root,) = trees
    found = msgspec.msgpack.decode(copy.loader.load(BlobKind.TREE, root))
    new_subtree = found[1][0]["e"]
    assert found == [1, [{**node, "e": new_subtree}], b"", "later"]
    assert copy.loader.load(BlobKind.TREE, new_subtree) == encode_tree([])


# --- nothing twice


@pytest.mark.parametrize(("mine", "theirs"), ALL_KINDS)
def test_what_was_copied_is_not_copied_again(mine: Encryption, theirs: Encryption) -> None:
    """A second copy changes nothing, and reads no pack."""
    source, target = two_snapshots(mine), empty(theirs)
    first = run_copy(source, target_of(target))
    before = objects_of(target)
    source.calls.clear()
    second = run_copy(source, target_of(target))
    assert (second.copied, second.present) == ({}, first.copied)
    assert objects_of(target) == before
    assert not [call for call in source.calls if call.kind is ObjectKind.PACK and call.method != "list"]


@pytest.mark.parametrize(("mine", "theirs"), ALL_KINDS)
def test_each_blob_is_stored_once(mine: Encryption, theirs: Encryption) -> None:
    """However often files and snapshots share it, and although the target had some before, a blob is stored once."""
    source, target = two_snapshots(mine), empty(theirs)
    run_backup(target_of(target), {f"mine/{number}": FIRST[f"data/many/{number:02}"] for number in range(0, 30, 3)})
    run_copy(source, target_of(target))
    table = target_of(target).refresh_index().table
    assert table.duplicated() == []
    assert sum(pack.blobs for pack in table.packs()) == len(table)


@pytest.mark.parametrize(("mine", "theirs"), ALL_KINDS)
def test_an_incremental_copy_reads_what_is_new(mine: Encryption, theirs: Encryption) -> None:
    """Of a snapshot whose parent was copied, only frames with new data are read."""
    backend, clock, target = FaultyBackend(MemoryBackend()), FakeClock(), empty(theirs)
    source = make_repository(backend, encryption=mine, clock=clock)
    tree = {**FIRST, **{f"data/large/{number}": incompressible(200 + number, 1000 * KIB) for number in range(6)}}
    run_backup(source, tree)
    run_copy(backend, target_of(target))
    clock.advance(86400)
    run_backup(source, {**tree, "data/large/3": written(incompressible(203, 900 * KIB) + b"new"), "data/new": b"new"})
    backend.calls.clear()
    result = run_copy(backend, target_of(target))
    assert reads_of(backend, opened(backend), BlobKind.DATA) == 1
    assert result.read < 200 * KIB
    assert everything_in(target_of(target)) == everything_in(opened(backend))


@pytest.mark.parametrize("theirs", ["aes-256-gcm", "none"])
def test_unchanged_directories_are_not_read(theirs: Encryption) -> None:
    """A directory that the parent has as well is taken over, although its files are lost in the source by now."""
    source, target = two_snapshots(), empty(theirs)
    old, new = load_snapshots(opened(source))
    run_copy(source, target_of(target), {old})
    leaf = opened(source).blob_hash(b"leaf" * 1000)
    table = opened(source).refresh_index().table
    source.drop(ObjectKind.PACK, table.pack_of(table.place(leaf).frame).hex())
    run_copy(source, target_of(target), {new})
    source.heal()
    assert everything_in(target_of(target)) == everything_in(opened(source))


def test_another_parent_will_do() -> None:
    """Where the parent was not copied, or is gone, the nearest snapshot of the same host and paths serves as well."""
    source, target = two_snapshots(), empty()
    old, new = load_snapshots(opened(source))
    run_copy(source, target_of(target), {old})
    repository = opened(source)
    orphan = msgspec.structs.replace(load_snapshots(repository)[new], parent=b"")
    source.delete(ObjectKind.SNAPSHOT, new.hex())
    repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(orphan))
    assert run_copy(source, target_of(target)).read < 250 * KIB
    assert everything_in(target_of(target)) == everything_in(opened(source))


def test_a_backup_to_the_target_finds_the_copy() -> None:
    """With the same chunker a copy is what a backup of the same files would have made, so that nothing is stored."""
    source, target = two_snapshots(), empty()
    result = run_copy(source, target_of(target))
    backup = run_backup(target_of(target), SECOND, force=True)
    assert result.same_chunker
    assert backup.stored.blobs_new == 0
    assert backup.snapshot.tree == load_snapshots(target_of(target))[list(result.copied.values())[1]].tree


def test_another_chunker_is_told() -> None:
    """Where files are cut elsewhere the copy works, and says so."""
    source = two_snapshots()
    target = MemoryBackend()
    make_repository(target, encryption="none", seed=b"\x06" * 32)
    assert not run_copy(source, target).same_chunker
    assert everything_in(opened(target)) == everything_in(opened(source))


@pytest.mark.parametrize(
    ("mine", "theirs", "codec"),
    [("zstd:3", "zstd:3", Codec.ZSTD), ("zstd:3", "lz4", Codec.LZ4), ("lz4", "none", Codec.NONE)],
)
def test_compression_is_that_of_the_target(mine: str, theirs: str, codec: Codec) -> None:
    """Frames are compressed as the target wants it; where both agree, they are not compressed again."""
    source, target = empty(compression=mine), empty(compression=theirs)
    run_backup(target_of(source), {f"data/{number:03}": bytes([number]) * 9000 for number in range(250)})
    run_copy(target_of(source), target_of(target))
    data = [each for each in frames(target_of(target)) if each[0] is BlobKind.DATA]
    assert {found for _, found, _ in data} == {codec}
    assert (data == [each for each in frames(target_of(source)) if each[0] is BlobKind.DATA]) == (mine == theirs)


def frames(repository: Repository) -> list[tuple[BlobKind, Codec, int]]:
    """Kind, codec and stored size of every frame."""
    table = repository.refresh_index().table
    found = [table.frame(number) for number in range(table.frames)]
    return sorted((each.kind, each.codec, each.stored_size) for each in found)


def test_small_snapshots_share_packs() -> None:
    """Many snapshots with little that is new do not leave a pack each."""
    clock, source, target = FakeClock(), MemoryBackend(), empty()
    repository = make_repository(source, encryption="aes-256-gcm", clock=clock)
    for number in range(12):
        run_backup(repository, {**FIRST, "data/log": written(b"%d" % number, again=number)})
        clock.advance(3600)
    run_copy(source, target_of(target))
    assert len(names(target, ObjectKind.PACK)) <= 6
    assert everything_in(target_of(target)) == everything_in(opened(source))


# --- what counts as copied


def test_tags_do_not_matter() -> None:
    """A snapshot that got other tags, here or there, is not copied again."""
    source, target = two_snapshots(), empty()
    run_copy(source, target_of(target))
    for repository in (opened(source), target_of(target)):
        for identifier, snapshot in load_snapshots(repository).items():
            changed = msgspec.structs.replace(
                snapshot, tags=["other"], label="else", original=snapshot.original or identifier
            )
            repository.backend.delete(ObjectKind.SNAPSHOT, identifier.hex())
            repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(changed))
        assert run_copy(source, target_of(target)).copied == {}


def test_another_tree_is_another_snapshot() -> None:
    """What was rewritten is copied although its original was, and serves as no shortcut for what it lacks."""
    source, target = two_snapshots(), empty()
    old, new = load_snapshots(opened(source))
    repository = opened(source)
    less = run_backup(repository, {"data/many/07": b"changed", "data/still/deep/other": b"other"}).snapshot
    less_id = rewrite(repository, old, less.tree)
    assert list(run_copy(source, target_of(target), {less_id}).copied) == [less_id]
    assert list(run_copy(source, target_of(target), {old, new}).copied) == [old, new]
    run_copy(source, target_of(target))
    assert everything_in(target_of(target)) == everything_in(opened(source))


def test_a_rewritten_copy_is_no_copy() -> None:
    """When the target has rewritten what was copied, it counts neither as a copy nor as a shortcut."""
    source, target = two_snapshots(), empty()
    old, new = load_snapshots(opened(source))
    (copy,) = run_copy(source, target_of(target), {old}).copied.values()
    there = target_of(target)
    rewrite(there, copy, run_backup(there, {"data/many/07": b"changed"}).snapshot.tree)
    there.backend.delete(ObjectKind.SNAPSHOT, copy.hex())
    assert list(run_copy(source, target_of(target)).copied) == [old, new]
    entries = [entries for _, entries in everything_in(target_of(target))]
    assert all(wanted in entries for _, wanted in everything_in(opened(source)))


def rewrite(repository: Repository, identifier: bytes, tree: bytes) -> bytes:
    """A snapshot made from another, with a tree of its own, by a program that knows of no twins."""
    snapshot = load_snapshots(repository)[identifier]
    changed = msgspec.structs.replace(snapshot, tree=tree, original=snapshot.original or identifier)
    return bytes.fromhex(repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(changed)))


@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_round_about(encryption: Encryption) -> None:
    """A copy of a copy is the same snapshot still: it is copied neither back nor once more from where it came."""
    first, second, third = two_snapshots(encryption), empty(), empty(encryption)
    run_copy(first, target_of(second))
    run_copy(target_of(second), target_of(third))
    assert everything_in(target_of(third)) == everything_in(opened(first))
    for mine, theirs in [(opened(first), target_of(third)), (target_of(third), opened(first))]:
        assert run_copy(mine, theirs).copied == {}
    assert run_copy(target_of(second), opened(first)).copied == {}


def test_back_again() -> None:
    """What was lost where it was made comes back from its copy, under the IDs that it had."""
    source, target = two_snapshots(), empty()
    before = everything_in(opened(source))
    trees = [snapshot.tree for snapshot in load_snapshots(opened(source)).values()]
    run_copy(source, target_of(target))
    for name in names(source, ObjectKind.SNAPSHOT):
        source.delete(ObjectKind.SNAPSHOT, name)
    run_copy(target_of(target), opened(source))
    assert everything_in(opened(source)) == before
    assert [snapshot.tree for snapshot in load_snapshots(opened(source)).values()] == trees


# --- the request


def test_plan() -> None:
    """A plan says what would be copied and what is there, and changes nothing."""
    source, target = two_snapshots(), empty()
    old, new = load_snapshots(opened(source))
    run_copy(source, target_of(target), {old})
    before = objects_of(target)
    plan = plan_copy(opened(source), target_of(target), {old, new}, Quiet())
    assert (list(plan.missing), list(plan.present)) == ([new], [old])
    assert objects_of(target) == before


def test_one_repository_is_not_copied_to_itself() -> None:
    """Source and target must be two repositories, by whatever location."""
    source = two_snapshots("none")
    with pytest.raises(UsageError, match="the same repository"):
        run_copy(source, opened(source))


def test_a_snapshot_that_is_not_there() -> None:
    """Nothing is copied when one of the snapshots that are asked for does not exist."""
    source, target = two_snapshots(), empty()
    wanted = {*load_snapshots(opened(source)), b"x" * 32}
    with pytest.raises(ObjectNotFound, match="78787878"):
        run_copy(source, target_of(target), wanted)
    assert load_snapshots(target_of(target)) == {}


def test_a_backup_is_what_it_was() -> None:
    """The helpers of these tests are right: what arrives is what was backed up."""
    source, target = two_snapshots(), empty()
    run_copy(source, target_of(target))
    repository = target_of(target)
    repository.refresh_index()
    trees = [restored(repository.loader, snapshot.tree) for snapshot in load_snapshots(repository).values()]
    assert trees == [expected(FIRST), expected(SECOND)]
