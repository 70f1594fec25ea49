"""Copying what is needed out of packs that go: what is copied, how, and what happens where something is damaged."""

from __future__ import annotations

import pytest

from bfrepo.chunker.base import ChunkerParams
from bfrepo.compression import Codec, Compressor
from bfrepo.core.errors import Interrupted, StorageFull
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.core.units import KIB, MIB
from bfrepo.index.format import PackState
from bfrepo.operations.prune import UnusedLimit
from bfrepo.repository.repository import open_repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.damage import run_check, save_flag
from tests.support.faulty import FaultyBackend, copy_of
from tests.support.real_pruning import plan_of, run_prune
from tests.support.repositories import PASSWORD, FakeClock, make_repository, names, reopen, saver_options
from tests.support.restoring import expected, misnamed, restored_snapshots
from tests.support.sources import Item

TEXT = b"".join(b"line %d of something that compresses\n" % number for number in range(20_000))
GARBAGE: dict[str, Item | bytes] = {
    f"data/{name}": content
    for name, content in {
        "a": incompressible(1, 300_000), "b": TEXT[:400_000], "c": incompressible(2, 9_000), "keep": TEXT[7:50_000],
        "small": b"a little", "z": incompressible(3, 300_000),
    }.items()
}  # fmt: skip
NEEDED: dict[str, Item | bytes] = {"data/keep": TEXT[7:50_000], "data/z": incompressible(3, 300_000)}


@pytest.fixture(params=["none", "aes-256-gcm"])
def disk(request: pytest.FixtureRequest) -> MemoryBackend:
    """A pack of data of which a snapshot needs a part: whole frames, and blobs of a shared one."""
    backend = MemoryBackend()
    chunker = ChunkerParams("fastcdc", 256 * KIB, MIB, 4 * MIB)
    repository = make_repository(backend, encryption=request.param, chunker=chunker)
    first = run_backup(repository, GARBAGE).snapshot_id
    run_backup(repository, NEEDED)
    assert first is not None
    backend.delete(ObjectKind.SNAPSHOT, first.hex())
    return backend


def check_whole(disk: MemoryBackend) -> None:
    """The snapshot restores, and every object is what its name says."""
    assert list(restored_snapshots(reopen(disk)).values()) == [expected(NEEDED)]
    assert misnamed(disk) == []
    assert [finding.message for finding in run_check(disk).findings if finding.severity == "error"] == []


def test_only_what_is_needed_is_copied(disk: MemoryBackend) -> None:
    """The new packs hold the blobs that the snapshot needs, and nothing else."""
    (plan,) = plan_of(disk).repack[:1]
    assert 300_000 < plan.used < 420_000
    assert plan.size > 600_000

    result = run_prune(disk)

    assert result.repacked >= 1
    check_whole(disk)
    repository = reopen(disk)
    kept = {repository.blob_hash(content) for content in (TEXT[7:50_000], incompressible(3, 300_000))}
    data = {blob for blob, place in repository.index.table.blobs()
            if repository.index.table.kind_of(place.frame) is BlobKind.DATA}  # fmt: skip
    assert kept == data
    assert sum(info.size for info in disk.list(ObjectKind.PACK)) < 350_000


def test_whole_frames_are_not_compressed_again(disk: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fills its frame is only sealed again, with the new pack's key."""
    compressed: list[int] = []
    compress = Compressor.compress

    def counted(self: Compressor, plain: memoryview) -> tuple[Codec, bytes | bytearray | memoryview]:
        compressed.append(len(plain))
        return compress(self, plain)

    monkeypatch.setattr(Compressor, "compress", counted)
    run_prune(disk)
    assert compressed
    assert max(compressed) < 256 * KIB  # the shared frame's blob and trees, not the file of 300,000 bytes
    check_whole(disk)


def test_a_limit_of_what_is_copied(disk: MemoryBackend) -> None:
    """--max-repack-size bounds what is copied; what does not fit stays for another day."""
    assert plan_of(disk, max_repack_size=1000).moved <= 1000
    assert plan_of(disk, max_repack_size=0).repack == ()


@pytest.mark.parametrize(
    ("limit", "repacks"),
    [(UnusedLimit(percent=0), True), (UnusedLimit(percent=99), False), (UnusedLimit(), False),
     (UnusedLimit(size=10_000_000), False), (UnusedLimit(size=100), True)],
)  # fmt: skip
def test_a_limit_of_what_may_be_unused(disk: MemoryBackend, limit: UnusedLimit, repacks: bool) -> None:
    """As long as less than --max-unused is unused nothing is copied."""
    assert bool(plan_of(disk, max_unused=limit).repack) == repacks


def test_the_best_packs_come_first() -> None:
    """Packs are repacked in the order of what is gained for what is moved, until little enough is unused."""
    backend = MemoryBackend()
    repository = make_repository(backend, pack_size=100_000)
    packs = {}
    kept: dict[str, Item | bytes] = {f"data/keep{used}": incompressible(used, used * 1000) for used in (10, 50, 90)}
    for used in (10, 50, 90):
        before = names(backend, ObjectKind.PACK)
        garbage = incompressible(200 + used, (100 - used) * 1000)
        run_backup(repository, {"data/garbage": garbage, f"data/keep{used}": kept[f"data/keep{used}"]})
        packs[used] = names(backend, ObjectKind.PACK) - before
    for name in names(backend, ObjectKind.SNAPSHOT):
        backend.delete(ObjectKind.SNAPSHOT, name)
    run_backup(repository, kept)
    plan = plan_of(backend, max_unused=UnusedLimit(size=65_000))
    assert {pack.id.hex() for pack in plan.repack if pack.kind is BlobKind.DATA} <= packs[10]
    plan = plan_of(backend, max_unused=UnusedLimit(size=15_000))
    assert {pack.id.hex() for pack in plan.repack if pack.kind is BlobKind.DATA} <= packs[10] | packs[50]


def damaged_frames(disk: MemoryBackend) -> FaultyBackend:
    """The storage gives back one wrong byte in each frame of the pack that is to be repacked."""
    faulty = FaultyBackend(disk)
    table = reopen(disk).index.table
    (pack,) = [pack for pack in plan_of(disk).repack if pack.kind is BlobKind.DATA]
    for number in pack.frames:
        faulty.flip_byte(ObjectKind.PACK, pack.id.hex(), table.frame(number).offset + 20)
    return faulty


def test_a_damaged_pack_stays(disk: MemoryBackend) -> None:
    """INV-4: what is not what it was is never copied, and a pack whose needed blobs cannot be copied is not touched."""
    (pack,) = [pack for pack in plan_of(disk).repack if pack.kind is BlobKind.DATA]
    reporter = Quiet()

    result = run_prune(damaged_frames(disk), reporter=reporter)

    assert len(result.problems) == reporter.progress.errors == 1
    assert pack.id.hex() in names(disk, ObjectKind.PACK)
    found = reopen(disk).index.table.pack(pack.id)
    assert found is not None
    assert found.state is PackState.LIVE
    check_whole(disk)  # on the disk itself nothing is wrong


def test_a_damaged_blob_with_another_copy(disk: MemoryBackend) -> None:
    """Of two copies the one that is whole is kept: it is read before the other goes."""
    faulty = FaultyBackend(disk)
    (pack,) = [pack for pack in plan_of(disk).repack if pack.kind is BlobKind.DATA]
    table = reopen(disk).index.table
    lone = table.frame(table.place(reopen(disk).blob_hash(incompressible(3, 300_000))).frame)
    faulty.flip_byte(ObjectKind.PACK, lone.pack, lone.offset + 20)
    saved_again(disk, incompressible(3, 300_000))
    reporter = Quiet()
    assert run_prune(faulty, reporter=reporter).problems == []
    assert reporter.progress.errors == 1
    assert pack.id.hex() not in names(disk, ObjectKind.PACK)
    check_whole(disk)


def saved_again(disk: MemoryBackend, *contents: bytes) -> set[str]:
    """Blobs stored by somebody who does not know that they are there; their packs."""
    before = names(disk, ObjectKind.PACK)
    repository = open_repository(disk, FakeClock(), lambda: PASSWORD)
    saver = repository.make_saver(saver_options(repository))
    for content in contents:
        saver.save(BlobKind.DATA, content)
    saver.flush()
    saver.close()
    return names(disk, ObjectKind.PACK) - before


def test_a_doomed_pack_that_is_needed(disk: MemoryBackend) -> None:
    """What a prune doomed before it died, and a snapshot needs, is copied out before the pack goes."""
    for pack in reopen(disk).index.table.packs():
        save_flag(reopen(disk), pack.id, "doomed")
    before = names(disk, ObjectKind.PACK)
    run_prune(disk)
    assert not before & names(disk, ObjectKind.PACK)
    check_whole(disk)


def test_a_doomed_pack_that_is_damaged_stays(disk: MemoryBackend) -> None:
    """It stays doomed, so that backups do not rely on it, and it is not deleted as long as it is all there is."""
    faulty = damaged_frames(disk)
    (pack,) = [pack for pack in plan_of(disk).repack if pack.kind is BlobKind.DATA]
    save_flag(reopen(disk), pack.id, "doomed")
    assert run_prune(faulty).problems
    assert pack.id.hex() in names(disk, ObjectKind.PACK)
    assert list(restored_snapshots(reopen(disk)).values()) == [expected(NEEDED)]


def test_no_room_to_copy(disk: MemoryBackend) -> None:
    """Where a copy finds no room it is given up, what was written of it is removed, and nothing is lost."""
    faulty = FaultyBackend(disk)
    faulty.fail("save", kind=ObjectKind.INDEX, on_call=2, error=StorageFull("full"))  # after the dooms of a pack
    before = names(disk, ObjectKind.PACK)
    reporter = Quiet()
    run_prune(faulty, reporter=reporter)
    assert names(disk, ObjectKind.PACK) < before
    check_whole(disk)


def test_stopped_in_the_middle(disk: MemoryBackend) -> None:
    """A prune that is asked to stop does, at any moment, and the next one ends the work."""
    for calls in range(1, 60):
        copy = copy_of(disk)
        left = iter(range(calls))
        try:
            run_prune(copy, cancelled=lambda left=left: next(left, None) is None)  # type: ignore[misc]
        except Interrupted:
            check_whole(copy)
            run_prune(copy)
            check_whole(copy)
        else:
            assert calls > 5
            return
    raise AssertionError("it was never done")


def test_many_small_packs_are_joined() -> None:
    """Packs that are much smaller than others, as frequent backups make them, become few."""
    backend = MemoryBackend()
    repository = make_repository(backend)
    tree: dict[str, Item | bytes] = {}
    for number in range(40):
        tree[f"data/{number}"] = incompressible(number, 2000)
        run_backup(repository, dict(tree))
    assert len(names(backend, ObjectKind.PACK)) == 80

    run_prune(backend, max_unused=UnusedLimit(percent=5))

    assert len(names(backend, ObjectKind.PACK)) <= 4
    assert len(restored_snapshots(reopen(backend))) == 40
    assert not plan_of(backend, max_unused=UnusedLimit(percent=5)).changes_anything()
    frames = reopen(backend).index.table
    assert frames.frames <= 6  # small frames are joined too


def test_duplicates_go() -> None:
    """Of a blob that two backups stored at the same time one copy stays."""
    backend = MemoryBackend()
    repository = make_repository(backend)
    tree: dict[str, Item | bytes] = {"data/x": incompressible(1, 50_000)}
    run_backup(repository, tree)
    table, loader = repository.index.table, repository.loader
    data = [blob for blob, place in table.blobs() if table.kind_of(place.frame) is BlobKind.DATA]
    saved_again(backend, b"never needed", *(loader.load(BlobKind.DATA, blob) for blob in data))
    plan = plan_of(backend)
    assert plan.duplicate > 45_000

    run_prune(backend)

    after = plan_of(backend)
    assert (after.duplicate, after.unused) == (0, 0)
    assert list(restored_snapshots(reopen(backend)).values()) == [expected(tree)]
