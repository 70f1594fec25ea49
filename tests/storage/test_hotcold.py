"""A repository in two places keeps the promises of one, and loses nothing when either fails in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from bfrepo.core.errors import (
    DamagedObject,
    RepositoryExists,
    RepositoryNotFound,
    StorageError,
    StorageFull,
    StorageObjectArchived,
    StorageObjectMissing,
    UsageError,
)
from bfrepo.core.progress import Quiet
from bfrepo.operations.prune import PruneOptions, prune
from bfrepo.repository.repository import read_head
from bfrepo.storage.base import Backend, ObjectKind, Upload
from bfrepo.storage.hotcold import HOT_MARK, HotColdBackend, HotPartUnusable
from bfrepo.storage.layout import DIRECTORY_KINDS
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.memory import MemoryBackend
from tests.storage.conformance import CONFIG, PACK, BackendConformance, Place, name_of, names, stored, uploaded
from tests.support.backups import incompressible, never, run_backup
from tests.support.faulty import Call, FaultyBackend, PowerLossBackend, When, copy_of
from tests.support.repositories import make_repository, reopen
from tests.support.restoring import expected, misnamed, restored_snapshots
from tests.support.sources import Item, written

METADATA = [kind for kind in DIRECTORY_KINDS if kind is not PACK]

TREE: dict[str, Item | bytes] = {
    "data/big": incompressible(1, 60_000),
    "data/sub/note": b"hello",
    **{f"data/many/{number}": incompressible(number, 900) for number in range(12)},
}
LATER: dict[str, Item | bytes] = {**TREE, "data/big": written(incompressible(2, 60_000)), "data/sub/other": b"new"}


class TestHotColdBackend(BackendConformance):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        hot, cold = tmp_path / "hot", tmp_path / "cold"

        def plant(path: str, data: bytes) -> None:
            for root in (hot, cold):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(HOT_MARK + data if path == "config" and root == hot else data)

        return Place(open=lambda: HotColdBackend(LocalBackend(hot), LocalBackend(cold)), plant=plant)


class TestColdPacks(BackendConformance):
    """The same where every pack holds file data."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place(open=lambda: _OnlyColdPacks(LocalBackend(tmp_path / "hot"), LocalBackend(tmp_path / "cold")))


class _OnlyColdPacks(HotColdBackend):
    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        return super().upload(kind, cold=kind is PACK)


@dataclass
class Parts:
    hot: FaultyBackend
    cold: FaultyBackend

    def open(self) -> HotColdBackend:
        return HotColdBackend(self.hot, self.cold)


@pytest.fixture
def parts() -> Parts:
    """Two empty places."""
    return Parts(FaultyBackend(MemoryBackend()), FaultyBackend(MemoryBackend()))


# --- what goes where


def test_data_packs_are_only_in_the_cold_part(parts: Parts) -> None:
    """Packs of file data are stored once, everything else is in both parts, and the cold part is complete."""
    run_backup(make_repository(parts.open(), pack_size=20_000), TREE)
    for kind in METADATA:
        assert names(parts.hot, kind) == names(parts.cold, kind)
    assert names(parts.hot, PACK) < names(parts.cold, PACK)
    assert list(restored_snapshots(reopen(parts.cold)).values()) == [expected(TREE)]


def test_only_file_data_is_read_from_the_cold_part(parts: Parts) -> None:
    """Whoever looks for files reads no pack of the cold part, and whoever restores reads the packs of data there."""
    run_backup(make_repository(parts.open(), pack_size=20_000), TREE)
    parts.cold.calls.clear()
    repository = reopen(parts.open())
    read_trees(repository.backend)
    reads = {call for call in parts.cold.calls if call.method in ("load", "read", "read_into")}
    assert reads == {Call("load", CONFIG, "config")}
    restored_snapshots(repository)
    read = {call.name for call in parts.cold.calls if call.kind is PACK}
    assert read
    assert read.isdisjoint(names(parts.hot, PACK))


def read_trees(backend: Backend) -> None:
    """Walk the trees of all snapshots."""
    from bfrepo.data.references import reachable
    from bfrepo.operations.snapshots import load_snapshots

    repository = reopen(backend)
    for snapshot in load_snapshots(repository).values():
        assert list(reachable(repository.loader, snapshot.tree))


def test_the_cold_part_says_what_there_is(parts: Parts) -> None:
    """What only the hot part has, as a crash may leave it, is neither listed nor has a size."""
    backend = parts.open()
    backend.create()
    for kind in DIRECTORY_KINDS:
        name = stored(parts.hot, kind, b"left over")
        assert names(backend, kind) == set()
        with pytest.raises(StorageObjectMissing):
            backend.size(kind, name)


def test_a_pack_that_another_client_wrote(parts: Parts) -> None:
    """A tree pack that came after the hot part was listed is found there once the cold part has archived it."""
    reader, writer = parts.open(), parts.open()
    reader.create()
    stored(reader, PACK, b"the first")
    assert reader.load(PACK, name_of(b"the first")) == b"the first"  # by now its packs are listed
    name = uploaded(writer, PACK, b"the second")
    for method in ("load", "read", "read_into"):
        parts.cold.fail(method, kind=PACK, name=name, error=StorageObjectArchived("archived"), forever=True)
    assert reader.read(PACK, name, 4, 6) == b"second"
    assert reader.load(PACK, name) == b"the second"


def test_an_archived_pack_is_an_error(parts: Parts) -> None:
    """Data that is archived and in no hot part is said to be archived, not missing."""
    backend = parts.open()
    backend.create()
    name = stored(parts.cold, PACK, b"cold")
    parts.cold.fail("read", kind=PACK, error=StorageObjectArchived("archived"))
    with pytest.raises(StorageObjectArchived):
        backend.read(PACK, name, 0, 4)


# --- a hot part that lacks something


@pytest.mark.parametrize("kind", DIRECTORY_KINDS)
def test_what_the_hot_part_lacks_is_read_from_the_cold_one(parts: Parts, kind: ObjectKind) -> None:
    """An object that is missing in the hot part is read from the cold one."""
    backend = parts.open()
    backend.create()
    name = stored(backend, kind, b"some bytes")
    assert backend.load(kind, name) == b"some bytes"
    parts.hot.delete(kind, name)
    assert backend.load(kind, name) == b"some bytes"
    assert backend.read(kind, name, 5, 5) == b"bytes"


@pytest.mark.parametrize("kind", METADATA)
def test_damage_in_the_hot_part_goes_unnoticed(parts: Parts, kind: ObjectKind) -> None:
    """A small object that is damaged or too short in the hot part is read from the cold one."""
    backend = parts.open()
    backend.create()
    name = stored(backend, kind, b"some bytes")
    parts.hot.flip_byte(kind, name, 3)
    assert backend.load(kind, name) == b"some bytes"
    parts.hot.truncate(kind, name, 3)
    assert backend.load(kind, name) == b"some bytes"
    assert backend.read(kind, name, 5, 5) == b"bytes"


def test_damage_in_both_parts_is_damage(parts: Parts) -> None:
    """A pack that is too short in both parts is damaged."""
    backend = parts.open()
    backend.create()
    name = stored(backend, PACK, b"some bytes")
    parts.hot.truncate(PACK, name, 3)
    parts.cold.truncate(PACK, name, 3)
    with pytest.raises(DamagedObject):
        backend.read(PACK, name, 5, 5)


@pytest.mark.parametrize("broken", ["hot", "cold"])
def test_a_part_that_fails_is_an_error(parts: Parts, broken: str) -> None:
    """A write that reaches one part only is an error, and what it left counts only if the cold part has it (INV-2)."""
    backend = parts.open()
    backend.create()
    getattr(parts, broken).fail("save", forever=True)
    with pytest.raises(StorageError):
        stored(backend, ObjectKind.SNAPSHOT, b"snapshot")
    assert names(backend, ObjectKind.SNAPSHOT) == set()


@pytest.mark.parametrize(("broken", "left"), [("hot", (False, False)), ("cold", (True, False))])
def test_an_upload_goes_to_the_hot_part_first(parts: Parts, broken: str, left: tuple[bool, bool]) -> None:
    """An upload that fails is never in the cold part and missing in the hot one."""
    backend = parts.open()
    backend.create()
    getattr(parts, broken).fail("commit", forever=True)
    with pytest.raises(StorageError):
        uploaded(backend, PACK, b"a pack of trees")
    assert (bool(names(parts.hot, PACK)), bool(names(parts.cold, PACK))) == left


# --- config


def test_the_hot_part_is_no_repository(parts: Parts) -> None:
    """Whoever takes the hot part for the repository is told which is which."""
    make_repository(parts.open())
    with pytest.raises(UsageError, match="hot part") as caught:
        read_head(parts.hot)
    assert "--repository-hot" in str(caught.value.hint)


def test_two_parts_that_do_not_belong_together(parts: Parts) -> None:
    """The hot part of another repository is refused, and so is a repository of its own."""
    make_repository(parts.open())
    other, alone = MemoryBackend(), MemoryBackend()
    make_repository(HotColdBackend(other, MemoryBackend()))
    make_repository(alone)
    for wrong, message in ((other, "another repository"), (alone, "of its own")):
        with pytest.raises(HotPartUnusable, match=message):
            reopen(HotColdBackend(wrong, parts.cold))


def test_no_hot_part_yet(parts: Parts) -> None:
    """A place that holds nothing is no hot part; the hint says how to make it one."""
    make_repository(parts.cold)
    with pytest.raises(HotPartUnusable, match="no hot part") as caught:
        reopen(parts.open())
    assert "repair hot" in str(caught.value.hint)


@pytest.mark.parametrize("used", ["hot", "cold"])
def test_init_wants_both_places_empty(parts: Parts, used: str) -> None:
    """Neither part of a new repository may hold anything."""
    stored(getattr(parts, used), PACK, b"something")
    with pytest.raises(RepositoryExists):
        make_repository(parts.open())


def test_archived_config(parts: Parts) -> None:
    """Where even the cold part's config is archived the hot part's is used."""
    make_repository(parts.open())
    parts.cold.fail("load", kind=CONFIG, error=StorageObjectArchived("archived"), forever=True)
    reopen(parts.open())


def test_full_hot_part_at_init(parts: Parts) -> None:
    """A repository whose hot part could not be made is whole, and opens without it."""
    parts.hot.fail("save", kind=CONFIG, error=StorageFull("full"))
    with pytest.raises(HotPartUnusable, match="was made"):
        make_repository(parts.open(), encryption="aes-256-gcm")
    run_backup(reopen(parts.cold), TREE)


# --- power


class _SamePower(PowerLossBackend):
    """A disk of the machine whose power another one has."""

    def __init__(self, disk: MemoryBackend, other: PowerLossBackend) -> None:
        super().__init__(disk)
        self._other = other

    def check_power(self) -> None:
        self._other.check_power()

    @contextmanager
    def change(self, call: Call) -> Iterator[None]:
        with self._other.change(call):
            yield


def crashes(run: Callable[[Backend], object], hot: Backend, cold: Backend) -> Iterator[tuple[str, Backend, Backend]]:
    """Cut the power before and after each change to either part; which change it was, and what is left of both."""
    number = 0
    while True:
        number += 1
        for when in ("before", "after"):
            left = _crash(run, copy_of(hot), copy_of(cold), number, when)
            if left is None:
                return
            yield left


def _crash(
    run: Callable[[Backend], object], hot: MemoryBackend, cold: MemoryBackend, number: int, when: When
) -> tuple[str, Backend, Backend] | None:
    power = PowerLossBackend(cold, at=number, when=when)
    try:
        run(HotColdBackend(_SamePower(hot, power), power))
    except BaseException:
        if not power.lost:
            raise
    else:
        assert not power.lost, f"success without power {when} change {number}"
        return None
    return f"{when} change {number} ({power.changes[-1]})", hot, cold


def check_left(point: str, hot: Backend, cold: Backend) -> None:
    """Both parts together are whole, the cold one alone is, and the hot one lacks nothing of what it should have."""
    for kind in METADATA:
        assert names(cold, kind) <= names(hot, kind), point
    models = [expected(TREE), expected(LATER)]
    for backend in (cold, HotColdBackend(hot, cold)):
        assert misnamed(backend) == [], point
        assert all(found in models for found in restored_snapshots(reopen(backend)).values()), point
    tree_packs = {pack.id.hex() for pack in reopen(cold).index.table.packs() if pack.kind.name == "TREE"}
    assert tree_packs & names(cold, PACK) <= names(hot, PACK), point


def backs_up(tree: dict[str, Item | bytes]) -> Callable[[Backend], object]:
    """A backup in a process of its own."""
    return lambda backend: run_backup(reopen(backend, pack_size=20_000), tree)


def prepared(*trees: dict[str, Item | bytes]) -> tuple[MemoryBackend, MemoryBackend]:
    """Both parts of a repository that the trees were backed up to."""
    hot, cold = MemoryBackend(), MemoryBackend()
    repository = make_repository(HotColdBackend(hot, cold), pack_size=20_000)
    for tree in trees:
        run_backup(repository, tree)
    return hot, cold


def test_init_without_power() -> None:
    """INV-2: an init that is cut short leaves no repository, or a whole one."""
    for point, hot, cold in crashes(make_repository, MemoryBackend(), MemoryBackend()):
        try:
            reopen(cold)
        except RepositoryNotFound:
            assert names(hot, CONFIG) == set(), point


def test_backups_without_power() -> None:
    """INV-1, INV-2: whatever the power leaves of a backup to two parts is whole, and the next backup completes."""
    points = 0
    for point, hot, cold in crashes(backs_up(LATER), *prepared(TREE)):
        check_left(point, hot, cold)
        backs_up(LATER)(HotColdBackend(hot, cold))
        check_left(point, hot, cold)
        points += 1
    assert points >= 20


def test_prunes_without_power() -> None:
    """INV-2, INV-8: whatever the power leaves of a prune of two parts is whole, and the next prune completes."""
    hot, cold = prepared(TREE, LATER)
    first = min(names(cold, ObjectKind.SNAPSHOT))
    HotColdBackend(hot, cold).delete(ObjectKind.SNAPSHOT, first)

    def prunes(backend: Backend) -> object:
        options = PruneOptions(grace=timedelta(0), workers=1)
        return prune(reopen(backend, pack_size=20_000), options, Quiet(), never)

    points = 0
    for point, hot_left, cold_left in crashes(prunes, hot, cold):
        check_left(point, hot_left, cold_left)
        prunes(HotColdBackend(hot_left, cold_left))
        check_left(point, hot_left, cold_left)
        points += 1
    assert points >= 10


def test_deletes_go_to_both_parts(parts: Parts) -> None:
    """What is deleted is gone from both parts, one by one or many at a time."""
    backend = parts.open()
    backend.create()
    kept = stored(backend, ObjectKind.INDEX, b"kept")
    gone = [stored(backend, ObjectKind.INDEX, bytes([number])) for number in range(5)]
    backend.delete(ObjectKind.INDEX, gone[0])
    backend.delete_many(ObjectKind.INDEX, gone[1:])
    assert names(parts.hot, ObjectKind.INDEX) == names(parts.cold, ObjectKind.INDEX) == {kept}
