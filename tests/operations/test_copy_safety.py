"""Copying while things go wrong: interruptions, damage in the source, and others at work on the target."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import pytest

from bfrepo.compression import Codec
from bfrepo.core.errors import (
    BackupForgeError,
    Interrupted,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectMissing,
)
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB
from bfrepo.index.format import IndexContent, encode_index
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.config import Encryption
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.copying import everything_in, objects_of, opened, run_copy
from tests.support.damage import EVERYTHING, indexes, run_check, save_flag
from tests.support.faulty import FaultyBackend, copy_of, crash_points
from tests.support.pruning import Prune
from tests.support.repositories import FakeClock, make_repository, names, with_pack_size
from tests.support.restoring import expected, misnamed, restored
from tests.support.scheduler import Program, own_threads, run_in_order
from tests.support.sources import Item, sparse, written

PACK_SIZE = 24 * KIB

FIRST: Mapping[str, Item | bytes] = {
    "data/big": incompressible(1, 60_000),
    "data/hole": sparse(bytes(8192) + b"x" * 100, (0, 8192)),
    "data/still/deep/leaf": incompressible(2, 10_000),
    **{f"data/many/{number:02}": incompressible(100 + number, 700) for number in range(20)},
}
SECOND: Mapping[str, Item | bytes] = {
    **FIRST,
    "data/big": written(incompressible(1, 40_000) + incompressible(3, 20_000)),
    "data/many/07": written(b"changed"),
    "data/new/file": incompressible(4, 30_000),
}
THIRD: Mapping[str, Item | bytes] = {**SECOND, "data/third": incompressible(5, 10_000)}

BOTH_KINDS = pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
"""What the source is: the target is not encrypted, so blobs have other IDs there, or the same."""


class Problems(Quiet):
    """Remembers what could not be done."""

    def __init__(self) -> None:
        super().__init__()
        self.problems: list[tuple[bytes, str]] = []

    def problem(self, path: bytes, message: str) -> None:
        super().problem(path, message)
        self.problems.append((path, message))

    @property
    def paths(self) -> list[bytes]:
        """The paths that were named."""
        return sorted({path for path, _ in self.problems if path})


def make_source(encryption: Encryption, *trees: Mapping[str, Item | bytes]) -> FaultyBackend:
    """A repository that the trees were backed up to, a day apart."""
    backend, clock = FaultyBackend(MemoryBackend()), FakeClock()
    repository = make_repository(backend, encryption=encryption, clock=clock, pack_size=PACK_SIZE)
    for tree in trees or (FIRST, SECOND):
        run_backup(repository, tree)
        clock.advance(86400)
    return backend


def make_target() -> MemoryBackend:
    """A repository without snapshots, not encrypted."""
    backend = MemoryBackend()
    make_repository(backend, encryption="none")
    return backend


def with_small_packs(backend: Backend) -> Repository:
    """The repository, with packs so small that a copy fills many."""
    return with_pack_size(opened(backend), PACK_SIZE)


def pack_of(repository: Repository, content: bytes) -> str:
    """The pack that holds the one blob with this content."""
    table = repository.refresh_index().table
    return table.pack_of(table.place(repository.blob_hash(content)).frame).hex()


def damage(source: FaultyBackend, content: bytes, pack: str | None = None) -> None:
    """Change a byte of the one blob with this content, in its pack or in this one of them."""
    repository = opened(source)
    table = repository.refresh_index().table
    for place in table.copies(repository.blob_hash(content)):
        frame = table.frame(place.frame)
        if pack in (None, frame.pack):
            into = place.offset if frame.codec is Codec.NONE else 0
            sealed = frame.stored_size - frame.plain_size if frame.codec is Codec.NONE else 0
            source.flip_byte(ObjectKind.PACK, frame.pack, frame.offset + min(sealed, 12) + into)


# --- interruptions


@pytest.fixture
def repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread for each kind of work, and an index object after every two packs."""
    monkeypatch.setattr("bfrepo.operations.transfer.native_threads", lambda: 1)
    monkeypatch.setattr("bfrepo.operations.copy_blobs.native_threads", lambda: 1)
    monkeypatch.setattr("bfrepo.repository.packing._CHECKPOINT_PACKS", 2)


@BOTH_KINDS
@pytest.mark.usefixtures("repeatable")
def test_power_lost_at_any_moment(encryption: Encryption) -> None:
    """INV-1, INV-2: whenever a copy dies, what the target has is whole, and the next copy brings the rest."""
    source, start = make_source(encryption), make_target()
    wanted = everything_in(opened(source))
    points = 0
    for point in crash_points(lambda backend: run_copy(source, with_small_packs(backend)), disk=start):
        points += 1
        assert misnamed(point.disk) == [], point
        assert all(found in wanted for found in everything_in(opened(point.disk))), point
        run_copy(source, with_small_packs(point.disk))
        assert everything_in(opened(point.disk)) == wanted, point
    assert points > 20
    assert run_check(opened(point.disk), EVERYTHING).errors == 0


@BOTH_KINDS
@pytest.mark.usefixtures("repeatable")
def test_what_was_stored_is_not_stored_again(encryption: Encryption) -> None:
    """After a crash the next copy goes on from the last index object: most of what was stored stays of use."""
    source, target = make_source(encryption, SECOND), FaultyBackend(make_target())
    full = run_copy(source, with_small_packs(make_target())).stored.bytes_new
    target.fail("save", kind=ObjectKind.CLAIM)
    with pytest.raises(StorageError):
        run_copy(source, with_small_packs(target))
    target.heal()
    assert run_copy(source, with_small_packs(target)).stored.bytes_new < full / 10


@BOTH_KINDS
def test_asked_to_stop(encryption: Encryption) -> None:
    """Whenever somebody asks to stop, whole snapshots are published, the rest is kept, and the next copy goes on."""
    source = make_source(encryption, FIRST, SECOND, THIRD)
    wanted = everything_in(opened(source))
    stops, hints = 0, set[str | None]()
    while True:
        target, left = make_target(), iter(range(stops * 3))
        try:
            run_copy(source, target, cancelled=lambda left=left: next(left, None) is None)  # type: ignore[misc]
        except Interrupted as error:
            hints.add(error.hint)
        else:
            break
        stops += 1
        assert everything_in(opened(target)) == wanted[: len(names(target, ObjectKind.SNAPSHOT))]
        assert names(target, ObjectKind.CLAIM) == set()
        run_copy(source, target)
        assert everything_in(opened(target)) == wanted
    assert stops > 3
    assert all(hint and "copy again" in hint for hint in hints)


def test_published_before_the_end() -> None:
    """An old snapshot is there before the newer ones are read, if there was much to copy."""
    source, target = make_source("aes-256-gcm", FIRST, SECOND, THIRD), make_target()
    stop = Stop()
    with pytest.raises(Interrupted):
        run_copy(source, with_small_packs(target), reporter=stop, cancelled=stop)
    assert len(names(target, ObjectKind.SNAPSHOT)) == 1


class Stop(Quiet):
    """Asks to stop as soon as a snapshot is there."""

    def __call__(self) -> bool:
        return self.progress.files_done > 0


@pytest.mark.parametrize("error", [StorageFull("full"), StorageDenied("denied"), StorageError("odd")])
@pytest.mark.parametrize(("method", "kind"), [("commit", "packs"), ("write", "packs"), ("save", "index")])
@pytest.mark.parametrize("call", [1, 3])
def test_a_target_that_fails(error: StorageError, method: str, kind: str, call: int) -> None:
    """What the target refuses ends the copy with its error, leaves no half snapshot, and the next copy succeeds."""
    source, target = make_source("none"), FaultyBackend(make_target())
    target.fail(method, kind=ObjectKind(kind), on_call=call, forever=True, error=error)  # type: ignore[arg-type]
    repository = with_small_packs(target)
    if (method, call) == ("save", 3):
        target.heal()
        target.fail("save", kind=ObjectKind.SNAPSHOT, error=error)
    with pytest.raises(type(error)):
        run_copy(source, repository)
    target.heal()
    assert names(target, ObjectKind.CLAIM) == set()
    run_copy(source, repository)
    assert everything_in(opened(target)) == everything_in(opened(source))


# --- damage in the source


@BOTH_KINDS
def test_a_damaged_file(encryption: Encryption) -> None:
    """A snapshot with a file that cannot be read is not copied, and the file is named; others are copied."""
    source, target, reporter = make_source(encryption), make_target(), Problems()
    old, new = load_snapshots(opened(source))
    damage(source, b"changed")
    result = run_copy(source, target, reporter=reporter)
    assert (list(result.copied), result.failed) == ([old], [new])
    assert b"/data/many/07" in reporter.paths
    assert set(reporter.paths) <= {b"/data/many/07", b"/data/big", b"/data/new/file"}
    assert new.hex()[:8] in reporter.problems[-1][1]
    source.heal()
    assert everything_in(opened(target)) == everything_in(opened(source))[:1]


@BOTH_KINDS
def test_a_lost_pack(encryption: Encryption) -> None:
    """Every snapshot that needs something of a lost pack is named with its files; the others are copied."""
    source, target, reporter = make_source(encryption, FIRST, SECOND, THIRD, FIRST), make_target(), Problems()
    first, second, third, fourth = load_snapshots(opened(source))
    source.drop(ObjectKind.PACK, pack_of(opened(source), b"changed"))
    result = run_copy(source, target, reporter=reporter)
    assert (list(result.copied), result.failed) == ([first, fourth], [second, third])
    named = [path for path, _ in reporter.problems]
    assert named.count(b"/data/many/07") == 2
    assert run_check(opened(target), EVERYTHING).errors == 0


@BOTH_KINDS
def test_a_lost_directory(encryption: Encryption) -> None:
    """A directory that cannot be read is named; a snapshot without it is copied."""
    source, target, reporter = make_source(encryption), make_target(), Problems()
    old, new = load_snapshots(opened(source))
    repository = opened(source)
    trees = [pack.id for pack in repository.refresh_index().table.packs() if pack.kind is BlobKind.TREE]
    root = load_snapshots(repository)[new].tree
    table = repository.index.table
    source.drop(ObjectKind.PACK, table.pack_of(table.place(root).frame).hex())
    assert len(trees) > 1
    result = run_copy(source, target, reporter=reporter)
    assert (list(result.copied), result.failed) == ([old], [new])
    assert reporter.paths == [b"/"]


@BOTH_KINDS
def test_a_damaged_snapshot(encryption: Encryption) -> None:
    """A snapshot that cannot be read itself is reported, and does not keep others from being copied."""
    source, target, reporter = make_source(encryption), make_target(), Problems()
    old, new = load_snapshots(opened(source))
    source.flip_byte(ObjectKind.SNAPSHOT, new.hex(), -1)
    assert list(run_copy(source, target, reporter=reporter).copied) == [old]
    assert new.hex()[:8] in reporter.problems[0][1]


@BOTH_KINDS
def test_healed_later(encryption: Encryption) -> None:
    """What could not be copied is copied once it can be read."""
    source, target = make_source(encryption), make_target()
    source.drop(ObjectKind.PACK, pack_of(opened(source), b"changed"))
    run_copy(source, target)
    source.heal()
    run_copy(source, target)
    assert everything_in(opened(target)) == everything_in(opened(source))


@BOTH_KINDS
def test_another_copy_will_do(encryption: Encryption) -> None:
    """A blob that is damaged in one pack is taken from another that has it, too."""
    source, target = make_source(encryption), make_target()
    pack = pack_of(opened(source), b"changed")
    index = indexes(opened(source))
    for name in index:
        source.delete(ObjectKind.INDEX, name)
    make_index_again(source, index, without=pack)
    run_backup(opened(source), {"data/x": b"changed"})
    for content in index.values():
        opened(source).objects.save(ObjectKind.INDEX, encode_index(content))
    damage(source, b"changed", pack)
    table = opened(source).refresh_index().table
    assert len(table.copies(opened(source).blob_hash(b"changed"))) == 2
    reporter = Problems()
    run_copy(source, target, reporter=reporter)
    assert b"/data/many/07" not in reporter.paths


def make_index_again(backend: Backend, index: Mapping[str, IndexContent], *, without: str) -> None:
    """Index objects that name all packs but one."""
    repository = opened(backend)
    for content in index.values():
        packs = [pack for pack in content.packs if pack.id.hex() != without]
        repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(packs=packs)))


@BOTH_KINDS
def test_moved_by_a_prune(encryption: Encryption) -> None:
    """What a prune of the source has moved since the copy began is found where it is now."""
    source, target = make_source(encryption), make_target()
    repository = opened(source)
    repository.refresh_index()
    old, _ = load_snapshots(repository)
    wanted = everything_in(opened(source))[1:]
    source.delete(ObjectKind.SNAPSHOT, old.hex())

    reporter = Problems()
    moved: list[set[str]] = []

    def look() -> bool:
        if not moved:
            moved.append(before := names(source, ObjectKind.PACK))
            Prune(source, "p", repack=True).run()
            assert names(source, ObjectKind.PACK) != before
        return False

    run_copy(source, target, reporter=reporter, cancelled=look)
    assert reporter.problems == []
    assert everything_in(opened(target)) == wanted


def test_a_store_that_is_gone_is_no_damage() -> None:
    """When the source as a whole does not answer any more the copy ends, rather than call everything lost."""
    source, target = make_source("none"), make_target()
    source.fail("read_into", on_call=2, forever=True)
    source.fail("load", kind=ObjectKind.CONFIG, on_call=2, forever=True)
    with pytest.raises(StorageError, match="read_into failed"):
        run_copy(source, target)


def test_one_frame_that_the_disk_does_not_give() -> None:
    """An error for one frame, while the source answers otherwise, costs the snapshots that need it and no others."""
    source, target, reporter = make_source("none"), make_target(), Problems()
    old, new = load_snapshots(opened(source))
    source.fail("read_into", name=pack_of(opened(source), b"changed"), forever=True)
    result = run_copy(source, target, reporter=reporter)
    assert (list(result.copied), result.failed) == ([old], [new])
    assert b"/data/many/07" in reporter.paths


# --- others at work on the target

SHARED: Mapping[str, Item | bytes] = {"data/x": b"shared", "data/still/deep/z": b"unchanged"}
MORE: Mapping[str, Item | bytes] = {**SHARED, "data/y": b"new"}
OTHER: Mapping[str, Item | bytes] = {"data/x": b"shared", "data/w": b"a backup's"}
MODELS = [expected(tree) for tree in (SHARED, MORE, OTHER)]


def forget_all(backend: Backend) -> None:
    """Remove all snapshots there are now."""
    for info in list(backend.list(ObjectKind.SNAPSHOT)):
        backend.delete(ObjectKind.SNAPSHOT, info.name)


def bursts(seed: int) -> Callable[[int, Sequence[int]], int]:
    """A random order in which an actor usually makes several calls before another has its turn."""
    chance, current = random.Random(seed), [-1]

    def choose(step: int, waiting: Sequence[int]) -> int:
        if current[0] not in waiting or chance.random() < 0.25:
            current[0] = chance.choice(waiting)
        return current[0]

    return choose


class Beside:
    """A copy, a backup, a forget and prunes at work on one target, which has a copy of the first snapshot already."""

    def __init__(self, encryption: Encryption, *, prunes: int) -> None:
        self._source, self._target = make_source(encryption, SHARED, MORE), make_target()
        first, _ = load_snapshots(opened(self._source))
        run_copy(self._source, self._target, {first})
        self._programs: dict[str, Program] = {
            "copy": lambda backend: run_copy(self._source, backend),
            "backup": lambda backend: run_backup(opened(backend), OTHER),
        }
        if prunes:
            self._programs["forget"] = forget_all
            self._programs["prune"] = lambda backend: Prune(backend, "p").run()
        if prunes > 1:
            self._programs["repack"] = lambda backend: Prune(backend, "r", repack=True).run()

    def run(self, seed: int) -> int:
        """Run them in some order: copy and backup succeed, and every snapshot is whole; how many there are."""
        run = run_in_order(self._target, self._programs, bursts(seed))
        errors = {actor.name: actor.error for actor in run.actors if actor.error}
        assert all(isinstance(error, BackupForgeError) for error in errors.values()), (errors, run.steps)
        assert not errors.keys() & {"copy", "backup"}, (errors, run.steps)
        repository = opened(run.disk)
        repository.refresh_index()
        snapshots = load_snapshots(repository)
        for snapshot in snapshots.values():
            assert restored(repository.loader, snapshot.tree) in MODELS, run.steps
        return len(snapshots)


@BOTH_KINDS
def test_beside_a_backup(encryption: Encryption, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backup into the target at the same time: both make their snapshots, and neither waits."""
    beside = Beside(encryption, prunes=0)
    own_threads(monkeypatch)
    assert {beside.run(seed) for seed in range(10)} == {3}


@BOTH_KINDS
@pytest.mark.parametrize("prunes", [1, 2])
def test_beside_prunes(encryption: Encryption, prunes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-8: whatever the order, a copy that takes over what others are deleting makes whole snapshots."""
    beside = Beside(encryption, prunes=prunes)
    own_threads(monkeypatch)
    assert len({beside.run(seed) for seed in range(40)}) > 1


class Dooming(FaultyBackend):
    """Dooms all packs as soon as a claim is written, as a prune does that has listed the claims just before."""

    packs: Sequence[bytes] = ()

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        super().save(kind, name, data)
        if kind is ObjectKind.CLAIM:
            for pack in self.packs:
                save_flag(opened(self), pack, "doomed")
            self.packs = ()


@pytest.mark.parametrize("condemned", [False, True])
def test_taken_over_from_packs_on_their_way_out(condemned: bool) -> None:
    """INV-8: a directory that was taken over, and whose packs are doomed before it is published, is stored again."""
    source, target = make_source("aes-256-gcm", SHARED, MORE), Dooming(make_target())
    first, _ = load_snapshots(opened(source))
    run_copy(source, target, {first})
    packs = [pack.id for pack in opened(target).refresh_index().table.packs()]
    for pack in packs if condemned else ():
        save_flag(opened(target), pack, "condemned")
    target.packs = packs
    (copy,) = run_copy(source, target).copied.values()
    for pack in packs:
        target.delete(ObjectKind.PACK, pack.hex())
    repository = opened(target)
    repository.refresh_index()
    assert restored(repository.loader, load_snapshots(repository)[copy].tree) == expected(MORE)


def test_content_that_a_prune_deleted() -> None:
    """INV-8: when the packs go while a copy relies on them, it reads the source once more, and says nothing."""
    source, target = make_source("aes-256-gcm", SHARED, MORE), Dooming(make_target())
    first, _ = load_snapshots(opened(source))
    run_copy(source, target, {first})
    target.packs = [pack.id for pack in opened(target).refresh_index().table.packs()]
    for pack in target.packs:
        target.fail("read_into", name=pack.hex(), forever=True, error=StorageObjectMissing("deleted"))
        target.fail("read", name=pack.hex(), forever=True, error=StorageObjectMissing("deleted"))
    (copy,) = run_copy(source, target).copied.values()
    repository = opened(target)
    repository.refresh_index()
    assert restored(repository.loader, load_snapshots(repository)[copy].tree) == expected(MORE)


def test_a_pack_that_the_target_lost() -> None:
    """INV-1: no copy relies on a pack that the target names and does not have; what is needed is stored again."""
    source, target = make_source("aes-256-gcm", FIRST, SECOND), FaultyBackend(make_target())
    first, second = load_snapshots(opened(source))
    run_copy(source, target, {first})
    leaf = incompressible(2, 10_000)
    data = {pack.id.hex() for pack in opened(target).refresh_index().table.packs() if pack.kind is BlobKind.DATA}
    for name in data:
        target.delete(ObjectKind.PACK, name)
    (copy,) = run_copy(source, target, {second}).copied.values()
    repository = opened(target)
    repository.refresh_index()
    found = restored(repository.loader, load_snapshots(repository)[copy].tree)
    assert found == expected(SECOND)
    assert found["/data/still/deep/leaf"] == leaf


def test_the_index_in_memory_after_a_failure() -> None:
    """A copy that failed leaves nothing in memory that a later backup could rely on although it was never stored."""
    source, target = make_source("none"), FaultyBackend(make_target())
    repository = opened(target)
    target.fail("commit", kind=ObjectKind.PACK, forever=True)
    with pytest.raises(StorageError):
        run_copy(source, repository)
    target.heal()
    run_backup(repository, FIRST)
    assert run_check(opened(target), EVERYTHING).errors == 0


def test_the_source_is_not_changed() -> None:
    """Copying writes nothing to the source."""
    source, target = make_source("aes-256-gcm"), make_target()
    before = copy_of(source)
    run_copy(source, target)
    assert objects_of(source) == objects_of(before)
