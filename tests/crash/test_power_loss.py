"""The power fails after every single change to the storage, and nothing that was finished is lost (INV-1, INV-2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bfrepo.core.errors import RepositoryNotFound
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, run_backup
from tests.support.faulty import CrashPoint, copy_of, crash_points
from tests.support.repositories import PASSWORD, SMALL_CHUNKS, make_repository, names, reopen
from tests.support.restoring import expected, misnamed, restored, restored_snapshots
from tests.support.sources import Item, folder, sparse, written

PACK_SIZE = 24 << 10

FIRST: dict[str, Item | bytes] = {
    "data/big": incompressible(1, 90_000),
    "data/empty": b"",
    "data/hole": sparse(bytes(8192) + b"x" * 100, (0, 8192)),
    "data/sub/deeper/note": b"hello",
    "data/sub/link": Item(type="symlink", target=b"../big"),
    "data/void": folder(),
    **{f"data/many/{number:02}": incompressible(number, 700) for number in range(40)},
}
SECOND: dict[str, Item | bytes] = {
    **FIRST,
    "data/big": written(incompressible(1, 60_000) + incompressible(2, 30_000)),
    "data/many/07": written(b"changed"),
    "data/new/file": incompressible(3, 50_000),
}
THIRD: dict[str, Item | bytes] = {**SECOND, "data/third": incompressible(4, 10_000)}


@pytest.fixture(autouse=True)
def often_indexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index object after every two packs, so that a small backup writes several."""
    monkeypatch.setattr("bfrepo.repository.packing._CHECKPOINT_PACKS", 2)


def prepared(*trees: dict[str, Item | bytes]) -> MemoryBackend:
    """A repository that the trees were backed up to."""
    disk = MemoryBackend()
    repository = make_repository(disk, encryption="aes-256-gcm", chunker=SMALL_CHUNKS, pack_size=PACK_SIZE)
    for tree in trees:
        run_backup(repository, tree)
    return disk


def backs_up(tree: dict[str, Item | bytes]) -> Callable[[Backend], object]:
    """A backup in a process of its own."""
    return lambda backend: run_backup(reopen(backend, pack_size=PACK_SIZE), tree)


def check_all(point: CrashPoint, *allowed: dict[str, Item | bytes]) -> Repository:
    """Open what the power cut left: it is whole, and its snapshots are among those allowed and restore exactly."""
    repository = reopen(point.disk, pack_size=PACK_SIZE)
    assert misnamed(point.disk) == [], point
    models = [expected(tree) for tree in allowed]
    for found in restored_snapshots(repository).values():
        assert found in models, point
    return repository


def check_next_backup(repository: Repository, tree: dict[str, Item | bytes], point: CrashPoint) -> None:
    """The next backup completes and its snapshot is right, also for those who open the repository anew."""
    result = run_backup(repository, tree)
    again = reopen(repository.backend)
    assert restored(again.loader, result.snapshot.tree) == expected(tree), point
    assert result.snapshot_id in restored_snapshots(again), point


def test_init() -> None:
    """INV-2: an init that is cut short leaves no repository, or a whole one; another init or a backup then succeeds."""
    points = list(crash_points(lambda backend: make_repository(backend, encryption="aes-256-gcm")))
    assert [point.call.method for point in points] == ["create", "create", "save", "save", "save", "save"]
    for point in points:
        try:
            repository = reopen(point.disk)
        except RepositoryNotFound:
            assert not names(point.disk, ObjectKind.CONFIG), point
            assert point.when == "before" or point.call.kind is not ObjectKind.CONFIG, point
        else:
            assert point.call.kind is ObjectKind.CONFIG, point
            check_next_backup(repository, FIRST, point)


def test_first_backup() -> None:
    """INV-1, INV-2: a first backup that loses power anywhere leaves a repository that restores, and goes on."""
    points = list(crash_points(backs_up(FIRST), disk=prepared()))
    assert len({point.call.name for point in points if point.call.kind is ObjectKind.PACK}) >= 4
    assert len({point.call.name for point in points if point.call.kind is ObjectKind.INDEX}) >= 2
    for point in points:
        check_next_backup(check_all(point, FIRST), FIRST, point)


def test_second_backup() -> None:
    """INV-1, INV-2: a backup onto another that loses power never hurts the one before, and the next one is right."""
    disk = prepared(FIRST)
    points = list(crash_points(backs_up(SECOND), disk=disk))
    assert {point.call.kind for point in points} == {
        ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.CLAIM, ObjectKind.SNAPSHOT,
    }  # fmt: skip
    for point in points:
        repository = check_all(point, FIRST, SECOND)
        assert names(disk, ObjectKind.SNAPSHOT) <= names(point.disk, ObjectKind.SNAPSHOT), point
        check_next_backup(repository, THIRD, point)


def test_a_second_crash() -> None:
    """INV-2: the backup that follows a crash may crash as well, anywhere, and the one after it is right."""
    first = [point for point in crash_points(backs_up(SECOND), disk=prepared(FIRST)) if point.when == "after"]
    for before in first[:: max(1, len(first) // 4)]:
        for point in crash_points(backs_up(THIRD), disk=before.disk):
            check_next_backup(check_all(point, FIRST, SECOND, THIRD), THIRD, point)


def test_what_was_indexed_is_not_stored_again() -> None:
    """A backup that follows a crash stores nothing again that an index object named by then."""
    points = list(crash_points(backs_up(FIRST), disk=prepared()))
    whole = run_backup(reopen(copy_of(prepared()), pack_size=PACK_SIZE), FIRST).stored.bytes_new
    for point in points:
        indexed = sum(place.size for _, place in reopen(point.disk).index.table.blobs())
        result = run_backup(reopen(point.disk, pack_size=PACK_SIZE), FIRST)
        assert result.stored.bytes_new == whole - indexed, point


@pytest.mark.parametrize("workers", [1, 2])
def test_with_several_workers(workers: int) -> None:
    """INV-1, INV-2 hold however many workers store packs at the same time."""
    disk = prepared(FIRST)

    def run(backend: Backend) -> object:
        return run_backup(reopen(backend, pack_size=PACK_SIZE), SECOND, workers=workers, readers=workers)

    for point in crash_points(run, disk=disk):
        check_next_backup(check_all(point, FIRST, SECOND), SECOND, point)


def test_adding_a_password() -> None:
    """INV-2: a cut while a password is added leaves every password that worked before, and every snapshot."""
    disk = prepared(FIRST)

    def run(backend: Backend) -> object:
        return reopen(backend).add_slot(b"another", label="second", host="there")

    points = list(crash_points(run, disk=disk))
    assert len(points) == 2
    for point in points:
        check_all(point, FIRST)
        if point.when == "after":
            assert restored_snapshots(reopen(point.disk, password=b"another")), point


def test_removing_a_password() -> None:
    """INV-2: a cut while a password is removed leaves the others."""
    disk = prepared(FIRST)
    gone = reopen(disk).add_slot(b"another", label="second", host="there")

    def run(backend: Backend) -> object:
        return reopen(backend).remove_slot(gone)

    points = list(crash_points(run, disk=disk))
    assert len(points) == 2
    for point in points:
        check_all(point, FIRST)
        assert (gone in names(point.disk, ObjectKind.KEY)) == (point.when == "before"), point


def test_changing_a_password() -> None:
    """INV-2: a new password is there before the old one goes, so a cut between the two locks nobody out."""
    disk = prepared(FIRST)
    (old,) = names(disk, ObjectKind.KEY)

    def run(backend: Backend) -> object:
        repository = reopen(backend)
        repository.add_slot(b"new", label="", host="")
        return repository.remove_slot(old)

    for point in crash_points(run, disk=disk):
        works = PASSWORD if old in names(point.disk, ObjectKind.KEY) else b"new"
        assert restored_snapshots(reopen(point.disk, password=works)), point
