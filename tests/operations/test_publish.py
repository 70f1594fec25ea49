"""Publishing: claim, look, mend, snapshot, unclaim (INV-1, INV-8), with a prune that strikes at the worst moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest

from bfrepo.core.errors import BackupForgeError, StorageDenied, StorageError, StorageFull
from bfrepo.core.protocols import Buffer
from bfrepo.data.snapshot import decode_claim
from bfrepo.index.format import IndexContent, PackFlag, encode_index
from bfrepo.operations.publish import ContentLost, publish
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.faulty import FaultyBackend
from tests.support.repositories import START, FakeClock, make_repository, names, reopen, saver_options
from tests.support.restoring import expected, restored, restored_snapshots
from tests.support.sources import DictSource, Item, written

TREE: Mapping[str, Item | bytes] = {
    "data/a": incompressible(1, 30_000),
    "data/sub/b": incompressible(2, 30_000),
    "data/sub/c": b"small",
}
CHANGED: Mapping[str, Item | bytes] = {**TREE, "data/sub/c": written(b"other"), "data/d": b"new"}


def later(backend: Striking) -> Repository:
    """The repository on the day after its first snapshot."""
    return reopen(backend, pack_size=20_000, clock=FakeClock(START + timedelta(days=1)))


class Striking(FaultyBackend):
    """Does something, once, at the moment an object of some kind is about to be saved or deleted."""

    def __init__(self, inner: MemoryBackend) -> None:
        super().__init__(inner)
        self.before_save: dict[ObjectKind, Callable[[], None]] = {}
        self.after_save: dict[ObjectKind, Callable[[], None]] = {}

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        self.before_save.pop(kind, lambda: None)()
        super().save(kind, name, data)
        self.after_save.pop(kind, lambda: None)()


@pytest.fixture
def backend() -> Striking:
    """Storage of a repository with one snapshot."""
    backend = Striking(MemoryBackend())
    run_backup(make_repository(backend, pack_size=20_000), TREE)
    return backend


def flag_all(backend: Striking, *states: str) -> None:
    """What a prune writes about every pack there is when it wants them gone."""
    repository = reopen(backend)
    flags = [
        PackFlag(id=f"{state} {number}".encode().ljust(16), state=state, pack=pack.id, time="now")  # type: ignore[arg-type]
        for number, pack in enumerate(repository.index.table.packs())
        for state in states
    ]
    repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(flags=flags)))


def delete_packs(backend: Striking, doomed: set[str]) -> None:
    """What a prune does when it has looked: packs go."""
    for name in doomed:
        backend.delete(ObjectKind.PACK, name)


def check(backend: Striking, tree: Mapping[str, Item | bytes], *, without: set[str]) -> None:
    """There is a snapshot of `tree`, whole also when those packs are gone, and no claim is left."""
    for name in without:
        backend.delete(ObjectKind.PACK, name)
    repository = reopen(backend)
    wanted = expected(tree)
    latest = list(load_snapshots(repository).values())[-1]
    assert restored(repository.loader, latest.tree) == wanted
    assert names(backend, ObjectKind.CLAIM) == set()


def test_order_of_writes(backend: Striking) -> None:
    """INV-1: packs, index, claim, snapshot; then the claim goes."""
    backend.calls.clear()
    run_backup(later(backend), CHANGED)
    changes = [
        (call.method, call.kind) for call in backend.calls if call.method in ("commit", "save", "delete")
    ]  # fmt: skip
    tail = [
        ("save", ObjectKind.INDEX), ("save", ObjectKind.CLAIM), ("save", ObjectKind.SNAPSHOT),
        ("delete", ObjectKind.CLAIM),
    ]  # fmt: skip
    assert changes == [("commit", ObjectKind.PACK)] * (len(changes) - 4) + tail


def test_the_claim_says_what_is_needed(backend: Striking) -> None:
    """The claim names the root tree and the ID that the snapshot then has."""
    repository = reopen(backend)
    claims: list[bytes] = []

    def look() -> None:
        (name,) = names(backend, ObjectKind.CLAIM)
        claim = decode_claim(repository.objects.load(ObjectKind.CLAIM, name), name=name)
        claims.extend((claim.tree, claim.snapshot))

    backend.before_save[ObjectKind.SNAPSHOT] = look
    result = run_backup(repository, CHANGED)
    assert claims == [result.snapshot.tree, result.snapshot_id]


def test_same_tree_twice(backend: Striking) -> None:
    """INV-7: the same tree backed up again adds one snapshot object: no pack, no index object."""
    kinds = (ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.CLAIM)
    before = [names(backend, kind) for kind in kinds]
    run_backup(later(backend), TREE)
    run_backup(later(backend), TREE, force=True)
    assert [names(backend, kind) for kind in kinds] == before
    assert len(names(backend, ObjectKind.SNAPSHOT)) == 3


@pytest.mark.parametrize("moment", ["before the claim", "after the claim"])
@pytest.mark.parametrize("force", [False, True], ids=["with parent", "without"])
def test_doomed_while_it_runs(backend: Striking, moment: str, force: bool) -> None:
    """INV-8: what is only in packs doomed since the backup began is stored again, read from them while it can be."""
    old = names(backend, ObjectKind.PACK)
    strike = {"before the claim": backend.before_save, "after the claim": backend.after_save}[moment]
    strike[ObjectKind.CLAIM] = lambda: flag_all(backend, "condemned", "doomed")
    run_backup(later(backend), CHANGED, force=force)
    assert names(backend, ObjectKind.PACK) > old
    check(backend, CHANGED, without=old)


@pytest.mark.parametrize("force", [False, True], ids=["with parent", "without"])
def test_gone_while_it_runs(backend: Striking, force: bool) -> None:
    """INV-8: what was doomed and deleted since the backup began is read from the source a second time."""
    old = names(backend, ObjectKind.PACK)

    def prune() -> None:
        flag_all(backend, "doomed")
        delete_packs(backend, old)

    backend.before_save[ObjectKind.CLAIM] = prune
    source = DictSource(CHANGED)
    result = run_backup(later(backend), source, force=force)
    assert set(CHANGED) <= {path.decode().lstrip("/") for path in source.opened}
    assert result.snapshot_id is not None
    check(backend, CHANGED, without=set())


def test_gone_from_the_index_too(backend: Striking) -> None:
    """INV-8: the same when the prune has merged the index, so that nothing names the packs any more."""
    old = names(backend, ObjectKind.PACK)

    def prune() -> None:
        flag_all(backend, "doomed")
        delete_packs(backend, old)
        keep_in_index(backend, without=old)

    backend.before_save[ObjectKind.CLAIM] = prune
    run_backup(later(backend), CHANGED)
    check(backend, CHANGED, without=set())


def keep_in_index(backend: Striking, *, without: set[str]) -> None:
    """Merge all index objects into one that does not name some packs."""
    repository = reopen(backend)
    old = sorted(repository.index_names())
    contents = [content for _, content in repository.read_index(old)]
    packs = [entry for content in contents for entry in content.packs if entry.id.hex() not in without]
    merged = repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(packs=packs)))
    for name in old:
        if name != merged:
            backend.delete(ObjectKind.INDEX, name)


def test_moved_while_it_runs(backend: Striking) -> None:
    """INV-8: what a prune has moved to other packs is used where it is now: nothing is stored or read again."""
    old = names(backend, ObjectKind.PACK)

    def repack() -> None:
        repository = reopen(backend)
        blobs = [
            (blob_id, repository.index.table.kind_of(place.frame)) for blob_id, place in repository.index.table.blobs()
        ]
        plain = [(kind, repository.loader.load(kind, blob_id)) for blob_id, kind in blobs]
        repository.index = type(repository.index)()
        saver = repository.make_saver(saver_options(repository))
        for kind, data in plain:
            saver.save(kind, data)
        saver.flush()
        saver.close()
        delete_packs(backend, old)
        keep_in_index(backend, without=old)

    backend.before_save[ObjectKind.CLAIM] = repack
    source = DictSource(TREE)
    result = run_backup(later(backend), source)
    assert (source.opened, result.stored.blobs_new) == ([], 0)
    check(backend, TREE, without=set())


def test_condemned_is_good_enough(backend: Striking) -> None:
    """A pack that was condemned while the backup ran holds what it holds: a prune looks again before it dooms it."""
    old = names(backend, ObjectKind.PACK)
    backend.before_save[ObjectKind.CLAIM] = lambda: flag_all(backend, "condemned")
    run_backup(later(backend), TREE)
    assert names(backend, ObjectKind.PACK) == old
    check(backend, TREE, without=set())


@pytest.mark.parametrize("state", ["condemned", "doomed"])
def test_leaving_before_it_began(backend: Striking, state: str) -> None:
    """INV-8: a backup relies on nothing that is in packs which somebody wanted gone before it began."""
    old = names(backend, ObjectKind.PACK)
    flag_all(backend, state)
    run_backup(later(backend), CHANGED)
    check(backend, CHANGED, without=old)


def test_large_directory_in_a_leaving_pack(backend: Striking) -> None:
    """INV-8: a large directory is taken over only if each of its parts is where a snapshot may rely on it."""
    many = {f"data/many/{number:05}": b"" for number in range(6000)}
    repository = reopen(backend)
    run_backup(repository, many)
    old = names(backend, ObjectKind.PACK)
    added = {**many, "data/many/03000x": b""}
    run_backup(later(backend), added)
    fresh = names(backend, ObjectKind.PACK) - old
    assert fresh
    table = reopen(backend).index.table
    flags = [
        PackFlag(id=bytes([number]) * 16, state="doomed", pack=pack.id, time="now")
        for number, pack in enumerate(table.packs())
        if pack.id.hex() in old
    ]
    repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(flags=flags)))
    run_backup(later(backend), added)
    check(backend, added, without=old)


def test_a_prune_that_never_stops(backend: Striking) -> None:
    """When packs are doomed as fast as they are stored, the backup gives up with a hint, and makes no snapshot."""
    before = names(backend, ObjectKind.SNAPSHOT)
    strikes = 0

    def strike() -> None:
        nonlocal strikes
        strikes += 1
        if strikes < 40:
            backend.after_save[ObjectKind.INDEX] = strike_again

    def strike_again() -> None:
        repository = reopen(backend)
        flags = [
            PackFlag(id=f"{strikes} {number}".encode().ljust(16), state="doomed", pack=pack.id, time="now")
            for number, pack in enumerate(repository.index.table.packs())
        ]
        repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(flags=flags)))
        strike()

    backend.after_save[ObjectKind.CLAIM] = strike_again
    with pytest.raises(BackupForgeError, match="keep deleting") as caught:
        run_backup(later(backend), CHANGED)
    assert caught.value.hint is not None
    assert (names(backend, ObjectKind.SNAPSHOT), names(backend, ObjectKind.CLAIM)) == (before, set())


# --- the claim


def test_claim_vanished_and_all_is_well(backend: Striking) -> None:
    """When somebody removed the claim, but nothing is lost, the snapshot stays."""
    backend.before_save[ObjectKind.SNAPSHOT] = lambda: remove_claims(backend)
    result = run_backup(later(backend), CHANGED)
    assert result.snapshot_id is not None
    check(backend, CHANGED, without=set())


def remove_claims(backend: Striking) -> None:
    """What a prune does with a claim that has lapsed."""
    for name in names(backend, ObjectKind.CLAIM):
        backend.delete(ObjectKind.CLAIM, name)


def test_claim_vanished_and_content_with_it(backend: Striking) -> None:
    """INV-1: a snapshot that dangles because its claim had lapsed is taken back, and the source is read again."""
    old = names(backend, ObjectKind.PACK)
    taken_back: list[set[str]] = []

    def lapse() -> None:
        remove_claims(backend)
        flag_all(backend, "doomed")
        delete_packs(backend, old)
        backend.after_save[ObjectKind.SNAPSHOT] = lambda: taken_back.append(names(backend, ObjectKind.SNAPSHOT))

    backend.before_save[ObjectKind.SNAPSHOT] = lapse
    before = names(backend, ObjectKind.SNAPSHOT)
    result = run_backup(later(backend), CHANGED)
    (dangling,) = taken_back[0] - before
    now = names(backend, ObjectKind.SNAPSHOT)
    assert dangling not in now
    assert result.snapshot_id is not None
    assert now - before == {result.snapshot_id.hex()}
    check(backend, CHANGED, without=set())


def test_store_that_denies_deletion(backend: Striking) -> None:
    """On a store that forbids deletion a backup succeeds; its claim stays, and counts as finished."""
    backend.fail("delete", forever=True, error=StorageDenied("append-only"))
    result = run_backup(later(backend), CHANGED)
    assert result.snapshot_id is not None
    assert len(names(backend, ObjectKind.CLAIM)) == 1
    assert expected(CHANGED) in restored_snapshots(reopen(backend)).values()


class FarAway(Striking):
    """Several calls at once are worth making."""

    connections = 8


@pytest.fixture
def far(backend: Striking) -> FarAway:
    """The same storage, far away."""
    return FarAway(memory_of(backend))


def memory_of(backend: Striking) -> MemoryBackend:
    """What it passes everything on to."""
    assert isinstance(backend._inner, MemoryBackend)
    return backend._inner


@pytest.mark.parametrize("first", [ObjectKind.CLAIM, ObjectKind.INDEX])
def test_claim_and_index_at_once(far: FarAway, first: ObjectKind) -> None:
    """INV-1: where a storage is far away neither waits for the other, and a prune may strike between them."""
    (second,) = {ObjectKind.CLAIM, ObjectKind.INDEX} - {first}
    old, written = names(far, ObjectKind.PACK), threading.Event()

    def strike() -> None:
        assert written.wait(30)
        flag_all(far, "doomed")
        delete_packs(far, old)

    def note() -> None:
        written.set()

    far.after_save[first] = note
    far.before_save[second] = strike
    run_backup(later(far), CHANGED)
    check(far, CHANGED, without=old)


def test_a_deletion_tells_whether_the_claim_stood(far: FarAway) -> None:
    """INV-1: a storage whose deletions tell what was there is not asked about the claim; a lost one is noticed."""
    asked: list[str] = []

    class Telling(FarAway):
        takes = True

        def take(self, kind: ObjectKind, name: str) -> bool:
            asked.append(name)
            stood = name in names(self, kind)
            self.delete(kind, name)
            return stood

    telling = Telling(memory_of(far))
    run_backup(later(telling), CHANGED)
    assert (len(asked), [call for call in telling.calls if call.method == "size"]) == (1, [])
    old = names(telling, ObjectKind.PACK)

    def lapse() -> None:
        remove_claims(telling)
        flag_all(telling, "doomed")
        delete_packs(telling, old)

    telling.before_save[ObjectKind.SNAPSHOT] = lapse
    run_backup(reopen(telling, clock=FakeClock(START + timedelta(days=2))), {**CHANGED, "data/e": b"newer"})
    check(telling, {**CHANGED, "data/e": b"newer"}, without=set())


@pytest.mark.parametrize("is_far", [False, True], ids=["near", "far"])
@pytest.mark.parametrize("kind", [ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.CLAIM, ObjectKind.SNAPSHOT])
@pytest.mark.parametrize("error", [StorageFull("full"), StorageError("gone")], ids=["full", "gone"])
def test_storage_fails(backend: Striking, far: FarAway, *, is_far: bool, kind: ObjectKind, error: StorageError) -> None:
    """INV-1: whichever write fails, no snapshot and no claim is left, and the next backup in this process succeeds."""
    backend = far if is_far else backend
    before = names(backend, ObjectKind.SNAPSHOT)
    repository = later(backend)
    backend.fail("commit" if kind is ObjectKind.PACK else "save", kind=kind, error=error)
    with pytest.raises(type(error)):
        run_backup(repository, CHANGED)
    assert (names(backend, ObjectKind.SNAPSHOT), names(backend, ObjectKind.CLAIM)) == (before, set())
    run_backup(repository, CHANGED)
    check(backend, CHANGED, without=set())


def test_content_lost_three_times(backend: Striking, monkeypatch: pytest.MonkeyPatch) -> None:
    """After three passes over the source the backup gives up and says what is lost."""
    passes = []

    def lost(*args: object, **named: object) -> bytes:
        passes.append(args)
        raise ContentLost("blob 01020304 was deleted")

    monkeypatch.setattr("bfrepo.operations.backup.publish", lost)
    with pytest.raises(ContentLost, match="blob 01020304"):
        run_backup(later(backend), CHANGED)
    assert len(passes) == 3


def test_two_backups_beside_each_other(backend: Striking) -> None:
    """A backup during which another one finished needs no second look at its tree, and both snapshots are whole."""

    def other() -> None:
        run_backup(reopen(backend._inner), {"data/other": b"other"})

    backend.before_save[ObjectKind.CLAIM] = other
    repository: Repository = reopen(backend)
    run_backup(repository, CHANGED)
    found = restored_snapshots(reopen(backend)).values()
    assert all(expected(tree) in found for tree in (TREE, CHANGED, {"data/other": b"other"}))


@pytest.mark.parametrize("moment", ["from the start", "before the claim"])
def test_a_tree_of_another_snapshot_in_doomed_packs(backend: Striking, moment: str) -> None:
    """INV-8: a snapshot that takes over another's tree relies on packs of every state, whenever they were doomed."""
    old = names(backend, ObjectKind.PACK)
    flag_all(backend, "condemned", *(["doomed"] if moment == "from the start" else []))
    repository = reopen(backend, pack_size=20_000)
    (snapshot,) = load_snapshots(repository).values()
    if moment == "before the claim":
        backend.before_save[ObjectKind.CLAIM] = lambda: flag_all(backend, "doomed")
    snapshot.tags = ["new"]
    publish(repository, snapshot, repository.index.objects, saver_options(repository), reused=True)
    assert names(backend, ObjectKind.PACK) > old
    check(backend, TREE, without=old)
