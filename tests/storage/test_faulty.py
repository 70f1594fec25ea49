"""The fault kit itself: a kit that lets faults through would make every test that rests on it worthless."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import chain, pairwise

import pytest

from bfrepo.core.errors import DamagedObject, StorageError, StorageFull, StorageObjectMissing
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.storage.conformance import PACK, BackendConformance, Place, name_of, names, stored, uploaded
from tests.support.faulty import Call, FaultyBackend, Method, PowerLossBackend, PowerLost, copy_of, crash_points

INDEX = ObjectKind.INDEX
DATA = b"0123456789"
NAME = name_of(DATA)


class TestFaultyBackendWithoutFaults(BackendConformance):
    @pytest.fixture
    def place(self) -> Place:
        inner = MemoryBackend()
        return Place(open=lambda: FaultyBackend(inner))


class TestPowerLossBackendWithPower(BackendConformance):
    @pytest.fixture
    def place(self) -> Place:
        disk = MemoryBackend()
        return Place(open=lambda: PowerLossBackend(disk))


@pytest.fixture
def faulty() -> FaultyBackend:
    """A kit around a store of one pack."""
    inner = MemoryBackend()
    stored(inner, PACK, DATA)
    return FaultyBackend(inner)


# --- scripted faults


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("create", lambda backend: backend.create()),
        ("list", lambda backend: list(backend.list(PACK))),
        ("size", lambda backend: backend.size(PACK, NAME)),
        ("load", lambda backend: backend.load(PACK, NAME)),
        ("read", lambda backend: backend.read(PACK, NAME, 0, 1)),
        ("read_into", lambda backend: backend.read_into(PACK, NAME, 0, memoryview(bytearray(1)))),
        ("save", lambda backend: stored(backend, PACK, b"x")),
        ("upload", lambda backend: uploaded(backend, PACK, b"x")),
        ("write", lambda backend: uploaded(backend, PACK, b"x")),
        ("commit", lambda backend: uploaded(backend, PACK, b"x")),
        ("delete", lambda backend: backend.delete(PACK, NAME)),
    ],
)
def test_every_method_can_fail(method: Method, call: Callable[[Backend], object]) -> None:
    """A failure can be scripted for every call, replaces it, and happens once."""
    inner = MemoryBackend()
    if method != "create":
        stored(inner, PACK, DATA)
    faulty = FaultyBackend(inner)
    faulty.fail(method)
    with pytest.raises(StorageError, match="as the test wants it"):
        call(faulty)
    assert names(inner, PACK) == (set() if method == "create" else {NAME})
    call(faulty)


def test_failure_waits_for_its_call(faulty: FaultyBackend) -> None:
    """A failure may be for the n-th call that matches kind and name, and with any error."""
    faulty.fail("save", kind=INDEX, on_call=2, error=StorageFull("full"))
    stored(faulty, INDEX, b"1")
    stored(faulty, PACK, b"2")
    with pytest.raises(StorageFull, match="full"):
        stored(faulty, INDEX, b"3")
    stored(faulty, INDEX, b"4")
    assert names(faulty, INDEX) == {name_of(b"1"), name_of(b"4")}


def test_failure_may_go_on(faulty: FaultyBackend) -> None:
    """A failure may be for its call and all that follow, until the kit is healed."""
    faulty.fail("load", name=NAME, on_call=2, forever=True)
    results: list[object] = []
    for _ in range(4):
        try:
            results.append(faulty.load(PACK, NAME))
        except StorageError:
            results.append("failed")
    faulty.heal()
    assert [*results, faulty.load(PACK, NAME)] == [DATA, "failed", "failed", "failed", DATA]


def test_calls_are_recorded(faulty: FaultyBackend) -> None:
    """The kit tells which calls were made, in order, the failed ones too."""
    faulty.fail("size")
    with suppress(StorageError):
        faulty.size(PACK, NAME)
    name = uploaded(faulty, PACK, b"xy")
    assert faulty.calls == [
        Call("size", PACK, NAME),
        Call("upload", PACK),
        Call("write", PACK),
        Call("write", PACK),
        Call("commit", PACK, name),
    ]
    assert str(faulty.calls[0]) == f"size pack {NAME[:8]}"


def read_all_ways(backend: Backend, offset: int, length: int) -> list[bytes]:
    """The range as each of the reading methods gives it."""
    buffer = bytearray(length)
    backend.read_into(PACK, NAME, offset, memoryview(buffer))
    return [
        backend.load(PACK, NAME)[offset : offset + length],
        backend.read(PACK, NAME, offset, length),
        bytes(buffer),
    ]


def test_flipped_byte(faulty: FaultyBackend) -> None:
    """A flipped byte is seen by whatever reads it, and only there."""
    faulty.flip_byte(PACK, NAME, 3)
    faulty.flip_byte(PACK, NAME, -1, mask=0x80)
    assert read_all_ways(faulty, 2, 3) == [b"224"] * 3
    assert read_all_ways(faulty, 8, 2) == [b"8\xb9"] * 3
    assert read_all_ways(faulty, 4, 4) == [b"4567"] * 3


def test_truncated_object(faulty: FaultyBackend) -> None:
    """A truncated object is short in every respect."""
    faulty.truncate(PACK, NAME, 4)
    assert (faulty.load(PACK, NAME), faulty.size(PACK, NAME)) == (b"0123", 4)
    assert list(faulty.list(PACK)) == [ObjectInfo(NAME, 4)]
    assert faulty.read(PACK, NAME, 2, 2) == b"23"
    with pytest.raises(DamagedObject):
        faulty.read(PACK, NAME, 2, 3)


def test_dropped_object(faulty: FaultyBackend) -> None:
    """A dropped object is neither listed nor read."""
    faulty.drop(PACK, NAME)
    assert names(faulty, PACK) == set()
    for call in (faulty.load, faulty.size):
        with pytest.raises(StorageObjectMissing):
            call(PACK, NAME)
    with pytest.raises(StorageObjectMissing):
        read_all_ways(faulty, 0, 1)


def test_lying_listing(faulty: FaultyBackend) -> None:
    """A listing can leave out what is there and name what is not."""
    faulty.hide(PACK, NAME)
    faulty.invent(PACK, ObjectInfo(name_of(b"ghost"), 5))
    assert list(faulty.list(PACK)) == [ObjectInfo(name_of(b"ghost"), 5)]
    assert faulty.load(PACK, NAME) == DATA
    faulty.heal()
    assert names(faulty, PACK) == {NAME}


# --- power cuts


def backup(backend: Backend) -> None:
    """A pack, an index, a snapshot; then an old snapshot goes."""
    uploaded(backend, PACK, b"pack")
    stored(backend, INDEX, b"index")
    stored(backend, ObjectKind.SNAPSHOT, b"snapshot")
    backend.delete(ObjectKind.SNAPSHOT, name_of(b"old"))


def contents(backend: Backend) -> set[bytes]:
    """The bytes of all objects."""
    return {backend.load(kind, info.name) for kind in ObjectKind for info in backend.list(kind)}


def test_every_crash_point_is_visited() -> None:
    """The power goes before and after each change, in order, and leaves exactly what was finished by then."""
    disk = MemoryBackend()
    stored(disk, ObjectKind.SNAPSHOT, b"old")
    states = [
        {b"old"},
        {b"old", b"pack"},
        {b"old", b"pack", b"index"},
        {b"old", b"pack", b"index", b"snapshot"},
        {b"pack", b"index", b"snapshot"},
    ]
    points = list(crash_points(backup, disk=disk))
    assert [(point.number, point.when, point.call.method) for point in points] == [
        (number, when, method)
        for number, method in enumerate(["commit", "save", "save", "delete"], start=1)
        for when in ("before", "after")
    ]
    assert [contents(point.disk) for point in points] == list(chain.from_iterable(pairwise(states)))
    assert contents(disk) == {b"old"}
    assert str(points[0]) == f"power lost before change 1 (commit pack {name_of(b'pack')[:8]})"


def test_operation_without_changes_has_no_crash_point() -> None:
    """What changes nothing cannot be cut."""
    assert list(crash_points(lambda backend: list(backend.list(PACK)))) == []


def test_everything_fails_without_power() -> None:
    """After the cut no call of any kind does anything, not even those of an upload that is open."""
    backend = PowerLossBackend(MemoryBackend(), at=1, when="after")
    upload = backend.upload(PACK)
    upload.write(b"lost")
    with pytest.raises(PowerLost):
        stored(backend, PACK, DATA)
    calls: list[Callable[[], object]] = [
        backend.create,
        lambda: list(backend.list(PACK)),
        lambda: backend.size(PACK, NAME),
        lambda: read_all_ways(backend, 0, 1),
        lambda: stored(backend, PACK, b"x"),
        lambda: backend.upload(PACK),
        lambda: upload.write(b"x"),
        lambda: upload.commit(name_of(b"lost")),
        lambda: backend.delete(PACK, NAME),
    ]
    for call in calls:
        with pytest.raises(PowerLost):
            call()
    upload.abort()
    assert contents(backend.disk) == {DATA}


def test_no_handler_of_errors_survives_a_cut() -> None:
    """An operation that handles every Exception is cut all the same."""

    def careless(backend: Backend) -> None:
        with suppress(Exception):
            stored(backend, PACK, b"x")

    assert len(list(crash_points(careless))) == 2


def test_success_without_power_is_found_out() -> None:
    """An operation that swallows the cut and claims to have worked is an error of the test."""

    def deaf(backend: Backend) -> None:
        with suppress(BaseException):
            stored(backend, PACK, b"x")

    with pytest.raises(AssertionError, match="reports success"):
        list(crash_points(deaf))


def test_errors_before_the_cut_are_not_hidden() -> None:
    """If the operation fails for another reason the test hears of it."""

    def broken(backend: Backend) -> None:
        backend.load(PACK, NAME)

    with pytest.raises(StorageObjectMissing):
        list(crash_points(broken))


def test_copy_is_its_own_store() -> None:
    """A copy has the same objects, and what is done to it is not done to the original."""
    original = MemoryBackend()
    stored(original, PACK, DATA)
    original.save(ObjectKind.CONFIG, "config", b"c")
    copy = copy_of(original)
    assert contents(copy) == {DATA, b"c"}
    copy.delete(PACK, NAME)
    assert contents(original) == {DATA, b"c"}
