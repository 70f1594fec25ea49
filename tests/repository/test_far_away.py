"""Storage that is far away: a call takes its time, so many are made at once, and few altogether.

Bounds are in calls and in rounds of calls, which a busy machine does not change.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from bfrepo.checker.sampling import Everything
from bfrepo.core.errors import Interrupted, StorageError, StorageFull, StorageObjectMissing
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.data.selection import SnapshotFilter
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot, encode_snapshot
from bfrepo.operations.check import CheckOptions, check
from bfrepo.operations.prune import PruneOptions, prune
from bfrepo.operations.restore import restore
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.vfs.trees import Trees
from tests.support.backups import incompressible, never, run_backup
from tests.support.distant import DistantBackend
from tests.support.faulty import FaultyBackend
from tests.support.flaky import FlakyBackend
from tests.support.repositories import make_repository, names, reopen, saver_options
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item, written

LATENCY_S = 0.02
PACK = ObjectKind.PACK
MIB = 1 << 20


@pytest.fixture
def far() -> DistantBackend:
    """An empty storage that likes eight calls at once."""
    return DistantBackend(MemoryBackend(), latency_s=LATENCY_S)


def tree_of(files: int, size: int = 3000) -> dict[str, Item | bytes]:
    """Files that do not compress, in ten directories."""
    return {f"data/{number % 10}/{number}": incompressible(number, size) for number in range(files)}


def restored(repository: Repository, target: Path) -> int:
    """Restore the latest snapshot; how many files there are then."""
    restore(repository, "latest", SnapshotFilter(), RestoreOptions(target=os.fsencode(target)), Quiet(), never)
    return sum(path.is_file() for path in target.rglob("*"))


# --- opening and listing


def test_many_index_objects(far: DistantBackend) -> None:
    """Opening a repository with 200 index objects takes 25 rounds of calls, not 200."""
    repository = make_repository(far._inner)
    for number in range(200):
        saver = repository.make_saver(saver_options(repository))
        saver.save(BlobKind.DATA, incompressible(number, 100))
        saver.flush()
        saver.close()
    far.forget()
    assert len(reopen(far).index.table) == 200
    assert far.most_at_once == far.connections
    assert far.total <= 203


def test_many_snapshots(far: DistantBackend, tmp_path: Path) -> None:
    """A list of 500 snapshots reads eight at once; the next one reads none, as they are kept."""
    repository = make_repository(far._inner)
    for number in range(500):
        repository.objects.save(ObjectKind.SNAPSHOT, _snapshot(number))
    for reads, at_once in ((500, far.connections), (0, 1)):
        again = reopen(far, cache_dir=tmp_path, keep_objects=True)
        far.forget()
        assert len(load_snapshots(again)) == 500
        assert (far.requests["load"], far.most_at_once) == (reads, at_once)


def _snapshot(number: int) -> bytes:
    return encode_snapshot(
        Snapshot(
            version=SNAPSHOT_VERSION,
            time=f"2024-01-01T00:{number // 60:02}:{number % 60:02}+00:00",
            tree=b"\1" * 32,
            paths=[b"/data"],
            hostname="here",
            username="me",
            program="tests",
        )
    )


# --- backups


def test_packs_are_sent_while_others_are_made(far: DistantBackend) -> None:
    """Full packs are sent several at once, though one worker makes them (INV-1: and the snapshot restores)."""
    repository = make_repository(far, pack_size=20_000)
    far.forget()
    run_backup(repository, tree_of(200, 100_000))
    assert far.requests["upload packs"] > 15
    assert far.most_at_once >= 3


def test_first_packs_leave_early(far: DistantBackend) -> None:
    """Sending begins with the first 4 MiB, then at 8 and 16, while the line would idle; then packs are as usual."""
    sizes = sizes_of_packs(far, {"data/large": incompressible(1, 48 * MIB)}, BlobKind.DATA)
    assert [size // MIB for size in sizes[:3]] == [4, 8, 16]
    assert len(sizes) == 4


def test_what_is_full_first_leaves_first(far: DistantBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """While two packs are on their way no other one leaves before it is full."""
    monkeypatch.setattr("bfrepo.repository.packing._EARLY", (MIB, MIB, MIB, MIB))
    gate = threading.Event()
    uploads = [0]
    travel = far.travel

    def slow(method: str, kind: ObjectKind | None, call: Callable[[], Any]) -> Any:
        if method == "upload":
            uploads[0] += 1
            assert gate.wait(60)
        return travel(method, kind, call)

    monkeypatch.setattr(far, "travel", slow)
    make_repository(far._inner)
    repository = reopen(far)
    saver = repository.make_saver(saver_options(repository))
    for number in range(10):
        saver.save(BlobKind.DATA, incompressible(number, MIB))
    saver._jobs.join()
    assert uploads == [2]
    gate.set()
    saver.flush()
    saver.close()
    assert len(names(far, PACK)) == 3


def test_a_pack_of_trees_never_leaves_early(far: DistantBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories stay together: they are read together."""
    monkeypatch.setattr("bfrepo.repository.packing._EARLY", (1000, 1000, 1000))
    assert len(sizes_of_packs(far, tree_of(300, 10), BlobKind.TREE)) == 1


def test_workers_share_packs(far: DistantBackend) -> None:
    """Two workers fill one pack where a storage is far away: fewer packs are fewer requests."""
    assert len(sizes_of_packs(far, {"data/large": incompressible(1, 3 * MIB)}, BlobKind.DATA, workers=2)) == 1


def sizes_of_packs(far: DistantBackend, tree: dict[str, Item | bytes], kind: BlobKind, **options: Any) -> list[int]:
    """How large the packs of one kind are that a backup makes, in the order in which the index names them."""
    run_backup(make_repository(far), tree, **options)
    repository = reopen(far)
    assert restored_snapshots(repository) == {next(iter(load_snapshots(repository))): expected(tree)}
    return [pack.size for pack in repository.index.table.packs() if pack.kind is kind]


def test_unchanged_backup_takes_few_calls(far: DistantBackend, tmp_path: Path) -> None:
    """A backup of what has not changed takes less than 20 calls where this machine has kept what it knows."""
    tree = {name: written(data) for name, data in tree_of(300).items() if isinstance(data, bytes)}
    make_repository(far._inner).close()
    for _ in range(2):
        run_backup(reopen(far, cache_dir=tmp_path, keep_objects=True), tree)
    again = reopen(far, cache_dir=tmp_path, keep_objects=True)
    far.forget()
    result = run_backup(reopen(far, cache_dir=tmp_path, keep_objects=True), tree)
    assert result.archived.files_unmodified == 300
    assert far.requests["upload"] == 0
    assert far.total < 20, far.requests
    again.close()


@pytest.mark.parametrize("kind", list(BlobKind))
def test_packs_that_are_lost_are_noticed_when_it_counts(far: DistantBackend, tmp_path: Path, kind: BlobKind) -> None:
    """A backup lists the packs once, at its end; what only lost packs held is stored again (INV-1)."""
    tree = {name: written(data) for name, data in tree_of(30).items() if isinstance(data, bytes)}
    run_backup(make_repository(far), tree)
    far.forget()
    run_backup(reopen(far), tree)
    assert far.requests["list packs"] == 1
    doomed = next(pack for pack in reopen(far).index.table.packs() if pack.kind is kind)
    far.delete(PACK, doomed.id.hex())
    run_backup(reopen(far), tree)
    assert restored(reopen(far), tmp_path) == 30


def test_no_more_packs_wait_than_are_sent(far: DistantBackend) -> None:
    """Whoever makes packs faster than they are sent waits: so many are on their way at a time, and no more."""
    gate, open_uploads, most = threading.Event(), set[int](), [0]
    inner = far._inner

    class Gated(MemoryBackend):
        def upload(self, kind: ObjectKind, *, cold: bool = False):  # type: ignore[no-untyped-def]
            upload = inner.upload(kind)
            open_uploads.add(id(upload))
            most[0] = max(most[0], len(open_uploads))
            commit = upload.commit

            class Watched:
                write, abort = upload.write, upload.abort

                def commit(self, name: str) -> None:
                    gate.wait(0.05)
                    commit(name)
                    open_uploads.discard(id(upload))

            return Watched()

        def __getattribute__(self, name: str) -> object:
            own = ("upload", "connections", "__class__")
            return object.__getattribute__(self, name) if name in own else getattr(inner, name)

    gated = DistantBackend(Gated(), connections=3)
    run_backup(make_repository(gated, pack_size=10_000), tree_of(200, 100_000))
    assert 3 <= most[0] <= 3 + 3  # being sent; being filled or waiting: one of trees, one of data, one that waits


@pytest.mark.parametrize("error", [StorageError("gone"), StorageFull("full"), Interrupted("stopped")])
@pytest.mark.parametrize("on_call", [1, 5])
def test_a_pack_that_cannot_be_sent(far: DistantBackend, error: Exception, on_call: int) -> None:
    """When a pack cannot be sent the backup fails with that error, makes no snapshot, and names no pack that is not
    there (INV-1)."""
    faulty = FaultyBackend(far)
    repository = make_repository(faulty, pack_size=10_000)
    faulty.fail("commit", on_call=on_call, error=error)
    with pytest.raises(type(error)):
        run_backup(repository, tree_of(150, 100_000))
    assert names(far, ObjectKind.SNAPSHOT) == set()
    index = reopen(far).index
    assert {pack.id.hex() for pack in index.table.packs()} <= names(far, PACK)
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("send")] == []
    run_backup(reopen(far), tree_of(100))


# --- reading


@pytest.fixture
def stored(far: DistantBackend) -> DistantBackend:
    """A storage with a backup of 1,000 files in packs of 4 MiB."""
    run_backup(make_repository(far._inner, pack_size=4 * MIB), tree_of(1000, 20_000))
    far.forget()
    return far


def test_restore_reads_several_frames_at_once(stored: DistantBackend, tmp_path: Path) -> None:
    """A restore of 1,000 files asks for each pack a few times, and for several at once."""
    packs = len(names(stored, PACK))
    repository = reopen(stored)
    stored.forget()
    assert restored(repository, tmp_path) == 1000
    assert stored.requests["read"] <= 4 * packs
    assert stored.most_at_once > 2


def test_frames_that_lie_together_are_one_request(far: DistantBackend, tmp_path: Path) -> None:
    """Frames of one pack come in one request, with the head of the pack; far from each other they do not."""
    run_backup(make_repository(far._inner), {"data/large": incompressible(1, 40 * MIB)})
    loader = reopen(far).loader
    frames = sorted({place.frame for _, place in loader.table.blobs() if loader.table.kind_of(place.frame) == 0})
    assert len(frames) >= 40
    far.forget()
    for run in loader.runs(frames):
        loader.read_ahead(run)
        for frame in run:
            assert loader.open_frame(frame)
    assert far.total == len(loader.runs(frames)) <= len(frames) // 2

    first, last = frames[0], frames[-1]
    assert loader.runs([first, last]) == [[first], [last]]
    assert loader.runs([last, first]) == [[last], [first]]


def test_the_head_of_a_pack_is_asked_for_once(far: DistantBackend) -> None:
    """Who reads the end of a pack while another one reads its beginning waits for the head that comes with that."""
    run_backup(make_repository(far._inner), {"data/large": incompressible(1, 40 * MIB)})
    loader = reopen(far).loader
    frames = sorted({place.frame for _, place in loader.table.blobs() if loader.table.kind_of(place.frame) == 0})
    first, *_, last = loader.runs(frames)
    assert last[0] != first[0]
    far.forget()
    begun = threading.Event()
    travel = far.travel

    def slow(method: str, kind: ObjectKind | None, call: Callable[[], Any]) -> Any:
        begun.set()
        return travel(method, kind, call)

    far.travel = slow  # type: ignore[method-assign]
    begin = threading.Thread(target=loader.read_ahead, args=(first,))
    begin.start()
    assert begun.wait(30)
    loader.read_ahead(last)
    assert loader.open_frame(last[-1])
    begin.join()
    assert far.total == 2


def test_what_is_at_hand_is_read_frame_by_frame(tmp_path: Path) -> None:
    """On a disk nothing is joined and nothing is fetched in advance."""
    backend = FaultyBackend(MemoryBackend())
    run_backup(make_repository(backend), tree_of(200, 20_000))
    loader = reopen(backend).loader
    frames = list(range(loader.table.frames))
    assert loader.runs(frames) == [[frame] for frame in frames]
    backend.calls.clear()
    loader.read_ahead(frames)
    assert backend.calls == []


def test_bytes_that_a_network_changed(far: DistantBackend) -> None:
    """A frame that arrives with a wrong byte is asked for again, and what is wrong for good is an error (INV-4)."""
    run_backup(make_repository(far._inner, encryption="aes-256-gcm"), tree_of(20))

    class ChangesOnce(DistantBackend):
        changed = 0

        def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
            super().read_into(kind, name, offset, buffer)
            if not self.changed:
                self.changed = 1
                buffer[len(buffer) // 2] ^= 1

    network = ChangesOnce(far._inner)
    loader = reopen(network).loader
    for blob_id, place in list(loader.table.blobs()):
        assert loader.load(loader.table.kind_of(place.frame), blob_id)
    assert network.changed


def test_ranges_that_cannot_be_fetched_ahead(far: DistantBackend, tmp_path: Path) -> None:
    """A pack that is damaged or gone costs the files in it, not the restore."""
    run_backup(make_repository(far._inner, pack_size=100_000), tree_of(100, 50_000))
    repository = reopen(far)
    doomed = next(pack for pack in repository.index.table.packs() if pack.kind is BlobKind.DATA)
    far.delete(PACK, doomed.id.hex())
    with pytest.raises(StorageObjectMissing):
        far.size(PACK, doomed.id.hex())
    reporter = Quiet()
    options = RestoreOptions(target=os.fsencode(tmp_path))
    restore(repository, "latest", SnapshotFilter(), options, reporter, never)
    count = sum(path.is_file() for path in tmp_path.rglob("*"))
    assert count == 100 - reporter.progress.errors
    assert 0 < reporter.progress.errors < 60


def test_check_reads_packs_at_once(stored: DistantBackend) -> None:
    """A check that reads all data does it with as many calls at once as the storage likes."""
    repository = reopen(stored)
    stored.forget()
    result = check(repository, CheckOptions(read=Everything()), Quiet(), never)
    assert result.findings == ()
    assert stored.most_at_once >= 3


def test_check_does_not_believe_the_cache(stored: DistantBackend, tmp_path: Path) -> None:
    """A check finds what is wrong with the storage, though this machine has kept what was right."""
    again = reopen(stored, cache_dir=tmp_path, keep_objects=True)
    again.fetch_trees(again.index, never)
    load_snapshots(again)
    (snapshot,) = names(stored, ObjectKind.SNAPSHOT)
    (trees,) = (pack.id.hex() for pack in again.index.table.packs() if pack.kind is BlobKind.TREE)
    faulty = FaultyBackend(stored)
    faulty.flip_byte(ObjectKind.SNAPSHOT, snapshot, 30)
    faulty.flip_byte(PACK, trees, 100)

    believing = reopen(faulty, cache_dir=tmp_path, keep_objects=True)
    assert len(load_snapshots(believing)) == 1
    found = check(believing, CheckOptions(), Quiet(), never).findings
    assert {finding.kind for finding in found if finding.severity == "error"} >= {"snapshot-damaged"}
    faulty.heal()
    faulty.flip_byte(PACK, trees, 100)
    found = check(reopen(faulty, cache_dir=tmp_path, keep_objects=True), CheckOptions(), Quiet(), never).findings
    assert {finding.kind for finding in found} & {"pack-damaged", "blob-damaged"}, found


def test_prune_fetches_trees_at_once(far: DistantBackend, tmp_path: Path) -> None:
    """Many small packs of trees, as daily backups leave them, are fetched several at once before they are walked."""
    repository = make_repository(far._inner)
    for number in range(30):
        run_backup(repository, {f"data/{number}/file": b"%d" % number})
    repository = reopen(far, cache_dir=tmp_path, keep_objects=True)
    far.forget()
    prune(repository, PruneOptions(), Quiet(), never)
    assert far.most_at_once >= 6


def scattered(far: DistantBackend, count: int) -> DistantBackend:
    """A snapshot whose directories lie in that many packs, as daily backups leave them; its files are empty."""
    repository = make_repository(far._inner)
    for number in range(count):
        run_backup(repository, {f"data/{each}/{each}": b"" for each in range(number + 1)}, time=day(number))
    far.forget()
    return far


def day(number: int) -> datetime:
    """A time, later for greater numbers."""
    return datetime(2024, 1, 1 + number, tzinfo=UTC)


def test_restore_fetches_directories_at_once(far: DistantBackend, tmp_path: Path) -> None:
    """A restore by a machine that has no directories yet asks for several packs of them at a time."""
    repository = reopen(scattered(far, 20), cache_dir=tmp_path / "cache", keep_objects=True)
    load_snapshots(repository)
    far.forget()
    assert restored(repository, tmp_path / "target") == 20
    assert far.most_at_once >= 6
    assert not [thread for thread in threading.enumerate() if thread.name == "directories"]


def test_listing_a_directory_asks_for_those_in_it(far: DistantBackend, tmp_path: Path) -> None:
    """Where a storage is far away, a directory that is listed brings those in it here, several at a time."""
    repository = reopen(scattered(far, 20), cache_dir=tmp_path / "cache", keep_objects=True)
    newest = [*load_snapshots(repository).values()][-1]
    views = FrameCache(repository.loader, 64 * MIB)
    trees = Trees(views)
    (data,) = trees.load(newest.tree).nodes
    far.forget()
    directories = trees.load(data.subtree).nodes
    deadline = monotonic() + 30
    while any(views.peek(node.subtree) is None for node in directories) and monotonic() < deadline:
        sleep(0.01)
    views.close()
    assert all(trees.at_hand(node.subtree) for node in directories)
    assert far.most_at_once >= 4


def test_everything_on_a_storage_that_fails_often(tmp_path: Path) -> None:
    """On a storage that fails every third call, backups, prunes and restores are complete (INV-1, INV-8)."""
    memory = MemoryBackend()
    flaky = FlakyBackend(DistantBackend(memory, connections=4), 1 / 3, seed=3)
    patient = RetryingBackend(flaky, RetryPolicy(random=lambda: 0.0))
    repository = make_repository(patient, pack_size=20_000, encryption="aes-256-gcm")
    for number in range(4):
        run_backup(repository, {**tree_of(60), f"data/new{number}": incompressible(1000 + number, 50_000)})
    first = min(load_snapshots(repository).items(), key=lambda each: each[1].when)[0]
    patient.delete(ObjectKind.SNAPSHOT, first.hex())
    prune(repository, PruneOptions(grace=timedelta(0)), Quiet(), never)
    assert restored(reopen(patient), tmp_path) == 61
    assert check(reopen(memory), CheckOptions(), Quiet(), never).errors == 0
    assert names(memory, ObjectKind.CLAIM) == set()
    assert flaky.failures > 50
