"""Calls that fail are made again, and what that must never change."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.core.errors import (
    DamagedObject,
    Interrupted,
    RepositoryExists,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectArchived,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.storage.abilities import SpoolSender
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.limit import LimitedBackend, Limits
from bfrepo.storage.location import open_bare_backend, parse_location
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.pausing import Pausing
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from bfrepo.storage.spool import Spool
from tests.storage.conformance import CONFIG, PACK, BackendConformance, Place, name_of, names, stored, uploaded
from tests.support import rclone
from tests.support.faulty import Call, FaultyBackend, Method
from tests.support.flaky import FlakyBackend
from tests.support.repositories import FakeClock


@dataclass
class Patient:
    """Retries on a clock that goes on only while somebody waits, and what the user was told."""

    clock: FakeClock = field(default_factory=FakeClock)
    said: list[str] = field(default_factory=list)
    chance: float = 0.5
    stop_after_s: float = float("inf")

    def wrap(self, inner: Backend) -> RetryingBackend:
        pausing = Pausing(
            clock=self.clock, sleep=self.clock.advance, cancelled=lambda: self.clock.seconds >= self.stop_after_s
        )
        policy = RetryPolicy(pausing=pausing, random=lambda: self.chance, notify=self.said.append)
        return RetryingBackend(inner, policy)


@pytest.fixture
def faulty() -> FaultyBackend:
    """An empty storage that fails as it is told."""
    return FaultyBackend(MemoryBackend())


def retrying(inner: Backend) -> RetryingBackend:
    """Retries that take no time at all."""
    return Patient(chance=0.0).wrap(inner)


class TestRetryingBackend(BackendConformance):
    """A storage that does what it should does so behind retries."""

    @pytest.fixture
    def place(self) -> Place:
        memory = MemoryBackend()
        return Place(open=lambda: retrying(memory))


class TestFlakyStorage(BackendConformance):
    """A storage that fails every third time cannot be told from one that works."""

    @pytest.fixture
    def place(self) -> Place:
        memory = MemoryBackend()
        return Place(open=lambda: retrying(FlakyBackend(memory, 1 / 3)))


CALLS: dict[Method, Callable[[Backend, str], object]] = {
    "create": lambda backend, name: backend.create(),
    "list": lambda backend, name: list(backend.list(PACK)),
    "size": lambda backend, name: backend.size(PACK, name),
    "load": lambda backend, name: backend.load(PACK, name),
    "read": lambda backend, name: backend.read(PACK, name, 0, 1),
    "read_into": lambda backend, name: backend.read_into(PACK, name, 0, memoryview(bytearray(1))),
    "save": lambda backend, name: stored(backend, PACK, b"new"),
    "upload": lambda backend, name: uploaded(backend, PACK, b"new"),
    "write": lambda backend, name: uploaded(backend, PACK, b"new"),
    "commit": lambda backend, name: uploaded(backend, PACK, b"new"),
    "delete": lambda backend, name: backend.delete(PACK, name),
}


def test_a_spool_that_is_sent(faulty: FaultyBackend) -> None:
    """A backend that takes spools gets them as they are, again and again; another one gets uploads."""
    sent = []

    class Sends(MemoryBackend):
        def send(self, kind: ObjectKind, name: str, spool: Spool, *, cold: bool) -> None:
            sent.append((spool.read(0, 100), cold))
            if len(sent) < 3:
                raise StorageError("not yet")

    uploaded(retrying(Sends()), PACK, b"content")
    assert sent == [(b"content", False)] * 3
    upload = retrying(LimitedBackend(Sends(), Limits(1000, None))).upload(PACK)
    upload.write(b"paced")
    upload.commit(name_of(b"paced"))
    assert len(sent) == 3


@pytest.mark.parametrize("method", CALLS)
def test_what_fails_is_tried_again(faulty: FaultyBackend, method: Method) -> None:
    """Every call succeeds on a storage that fails it a few times."""
    name = stored(faulty, PACK, b"there") if method != "create" else ""
    faulty.calls.clear()
    for number in range(1, 4):
        faulty.fail(method, on_call=number)
    CALLS[method](retrying(faulty), name)
    assert [call.method for call in faulty.calls].count(method) == 4


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize(
    "error",
    [
        StorageObjectMissing("missing"),
        StorageObjectExists("exists"),
        StorageObjectArchived("archived"),
        StorageDenied("denied"),
        StorageFull("full"),
        RepositoryExists("in use"),
        DamagedObject("damaged"),
        ValueError("a mistake"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_will_not_help_is_not_tried(faulty: FaultyBackend, method: Method, error: Exception) -> None:
    """An error that another try cannot change is raised at once, as it is."""
    name = stored(faulty, PACK, b"there")
    faulty.calls.clear()
    faulty.fail(method, error=error, forever=True)
    patient = Patient()
    with pytest.raises(type(error)) as caught:
        CALLS[method](patient.wrap(faulty), name)
    assert (type(caught.value), str(caught.value)) == (type(error), str(error))
    assert [call.method for call in faulty.calls].count(method) == 1
    assert (patient.clock.seconds, patient.said) == (0, [])


# --- listings


class _Breaking:
    """A store whose listings break off, each at the next of the given items, and then work."""

    def __init__(self, breaks: list[int]) -> None:
        self.store = MemoryBackend()
        self.breaks = breaks

    def __getattr__(self, name: str) -> object:
        return getattr(self.store, name)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        stop = self.breaks.pop(0) if self.breaks else None
        for number, info in enumerate(self.store.list(kind)):
            if number == stop:
                break
            yield info
        if stop is not None:
            raise StorageError("the connection was lost")


@given(objects=st.integers(0, 30), breaks=st.lists(st.integers(0, 40), max_size=8))
def test_a_listing_that_breaks_off_is_never_shorter(objects: int, breaks: list[int]) -> None:
    """Wherever a listing breaks off, and however often, it names each object exactly once."""
    storage = _Breaking(breaks)
    expected = {stored(storage.store, ObjectKind.SNAPSHOT, bytes([number])) for number in range(objects)}
    found = [info.name for info in retrying(storage).list(ObjectKind.SNAPSHOT)]  # type: ignore[arg-type]
    assert sorted(found) == sorted(expected)


def test_a_listing_that_cannot_be_had_gives_no_item() -> None:
    """When patience runs out nothing of the listing was passed on, and the error is raised."""
    storage = _Breaking([3] * 10_000)
    for number in range(5):
        stored(storage.store, PACK, bytes([number]))
    listing = Patient().wrap(storage).list(PACK)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="the connection was lost"):
        next(listing)


def test_a_listing_begins_with_its_first_item(faulty: FaultyBackend) -> None:
    """What is stored before the first item is asked for is listed."""
    listing = retrying(faulty).list(PACK)
    name = stored(faulty, PACK, b"late")
    assert [info.name for info in listing] == [name]


# --- config


def test_config_whose_answer_was_lost(faulty: FaultyBackend) -> None:
    """A config that was stored by a try whose answer was lost is not taken for somebody else's."""
    memory = MemoryBackend()

    class LosesOneAnswer(FaultyBackend):
        def save(self, kind: ObjectKind, name: str, data: object) -> None:
            memory.save(kind, name, data)  # type: ignore[arg-type]
            self.enter(Call("save", kind, name))

    storage = LosesOneAnswer(memory)
    storage.fail("save")
    retrying(storage).save(CONFIG, "config", b"ours")
    assert memory.load(CONFIG, "config") == b"ours"


def test_config_of_somebody_else(faulty: FaultyBackend) -> None:
    """A config that another client has stored between two tries is refused, and stays (INV-3)."""
    faulty.fail("save", kind=CONFIG)
    backend = retrying(faulty)
    faulty._inner.save(CONFIG, "config", b"theirs")
    with pytest.raises(StorageObjectExists):
        backend.save(CONFIG, "config", b"ours")
    assert backend.load(CONFIG, "config") == b"theirs"


# --- patience


def test_patience_ends(faulty: FaultyBackend) -> None:
    """A storage that has answered before is tried for 15 minutes, one that never did for one; then the error is told
    with how often it was tried."""
    patient = Patient()
    backend = patient.wrap(faulty)
    faulty.fail("size", forever=True)
    with pytest.raises(StorageError, match=r"size failed, .* \(tried \d+ times in 60 s\)"):
        backend.size(PACK, "0" * 64)
    assert patient.clock.seconds == pytest.approx(60)

    backend.delete(PACK, "0" * 64)
    patient.clock.advance(-60)
    with pytest.raises(StorageError, match=r"in 15 min\)") as caught:
        backend.size(PACK, "0" * 64)
    assert patient.clock.seconds == pytest.approx(900)
    assert caught.value.hint
    assert type(caught.value) is StorageError


def test_pauses_grow_and_are_bound(faulty: FaultyBackend) -> None:
    """Pauses lie below a bound that doubles from half a second to half a minute."""
    patient = Patient(chance=1.0)
    backend = patient.wrap(faulty)
    backend.delete(PACK, "0" * 64)
    times: list[float] = []
    faulty.fail("size", forever=True)
    enter = faulty.enter

    def note(call: Call) -> None:
        times.append(patient.clock.seconds)
        enter(call)

    faulty.enter = note  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        backend.size(PACK, "0" * 64)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[:8] == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30])
    assert max(gaps) == pytest.approx(30)


@settings(max_examples=50)
@given(chances=st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_pauses_are_random(chances: list[float]) -> None:
    """Where a pause lies between nothing and its bound is left to chance alone."""
    clock, faulty = FakeClock(), FaultyBackend(MemoryBackend())
    drawn = iter(chances)
    policy = RetryPolicy(pausing=Pausing(clock=clock, sleep=clock.advance), random=lambda: next(drawn))
    for number in range(1, 6):
        faulty.fail("list", on_call=number)
    assert list(RetryingBackend(faulty, policy).list(PACK)) == []
    expected = sum(chance * bound for chance, bound in zip(chances, (0.5, 1, 2, 4, 8), strict=True))
    assert clock.seconds == pytest.approx(expected)


def test_the_storage_says_when(faulty: FaultyBackend) -> None:
    """A storage that says how long it wants to be left alone is left alone for so long."""
    patient = Patient(chance=0.0)
    faulty.fail("size", error=StorageError("slow down", retry_after_s=20))
    name = stored(faulty, PACK, b"x")
    assert patient.wrap(faulty).size(PACK, name) == 1
    assert patient.clock.seconds == pytest.approx(20)


def test_a_storage_that_wants_more_time_than_there_is(faulty: FaultyBackend) -> None:
    """Nobody waits for a storage that says that it will not answer in time."""
    patient = Patient()
    faulty.fail("size", error=StorageError("closed until tomorrow", retry_after_s=86_400), forever=True)
    with pytest.raises(StorageError, match="closed until tomorrow"):
        patient.wrap(faulty).size(PACK, "0" * 64)
    assert patient.clock.seconds == 0


def test_the_user_is_told(faulty: FaultyBackend) -> None:
    """A moment of silence is nobody's concern; a longer one is told about once a minute, and that it is over."""
    patient = Patient()
    backend = patient.wrap(faulty)
    name = stored(backend, PACK, b"x")
    faulty.fail("size")
    backend.size(PACK, name)
    assert patient.said == []

    faulty.fail("load", on_call=13)
    for number in range(1, 14):
        faulty.fail("load", on_call=number)
    backend.load(PACK, name)
    assert 60 < patient.clock.seconds < 180
    assert patient.said[0] == "the storage does not answer, trying again for 15 min: " + str(
        StorageError("load failed, as the test wants it")
    )
    assert 3 <= len(patient.said) <= 5
    assert patient.said[-1] == "memory: answers again"


def test_waiting_ends_when_the_user_wants(faulty: FaultyBackend) -> None:
    """Who asks to stop does not wait for the storage, and the error says what was waited for."""
    patient = Patient(chance=1.0, stop_after_s=3.2)
    faulty.fail("size", forever=True)
    with pytest.raises(Interrupted, match="size failed"):
        patient.wrap(faulty).size(PACK, "0" * 64)
    assert patient.clock.seconds == pytest.approx(3.3, abs=0.15)


# --- what a network has changed


def test_changed_bytes_are_asked_for_again(faulty: FaultyBackend) -> None:
    """A whole object that does not hash to its name is loaded again; if that helps nobody notices."""
    memory = MemoryBackend()
    name = stored(memory, ObjectKind.INDEX, b"as written")

    class ChangesOnce(FaultyBackend):
        def load(self, kind: ObjectKind, name: str) -> bytes:
            data = super().load(kind, name)
            return data if len(self.calls) > 1 else b"As written"

    assert retrying(ChangesOnce(memory)).load(ObjectKind.INDEX, name) == b"as written"


def test_damage_is_returned_as_it_is(faulty: FaultyBackend) -> None:
    """Bytes that stay wrong are loaded three times, then given to whoever can say what they are."""
    name = stored(faulty, ObjectKind.INDEX, b"as written")
    faulty.flip_byte(ObjectKind.INDEX, name, 0, 0x20)
    assert retrying(faulty).load(ObjectKind.INDEX, name) == b"As written"
    assert [call.method for call in faulty.calls].count("load") == 3


# --- uploads


def test_an_upload_is_sent_again_from_its_beginning(faulty: FaultyBackend) -> None:
    """However far an upload had come, the object is whole in the end."""
    data = os.urandom(5 << 20)
    for on_call in (1, 3, 8):
        faulty.fail("write", on_call=on_call)
    faulty.fail("commit", on_call=1)
    name = uploaded(retrying(faulty), PACK, data)
    assert faulty.load(PACK, name) == data


def test_nothing_is_sent_before_the_commit(faulty: FaultyBackend) -> None:
    """Who writes does not wait for the storage, and an upload that is given up costs no call."""
    upload = retrying(faulty).upload(PACK)
    upload.write(b"never mind")
    upload.abort()
    assert faulty.calls == []


@pytest.mark.parametrize("size", [0, 1000, 5 << 20])
def test_a_spool_is_sent_to_a_rest_server(tmp_path: Path, size: int) -> None:
    """What waits in memory or in a file arrives whole, and nothing of it is copied on the way."""
    data = os.urandom(size)
    with rclone.serve("restic", tmp_path) as server:
        inner = open_bare_backend(parse_location(f"rest:{server.url}repo/"))
        assert isinstance(inner, SpoolSender)
        # With the real clock: a server that goes on failing is to end the test with its error, not to hang it.
        with closing(RetryingBackend(inner, RetryPolicy())) as backend:
            backend.create()
            assert backend.load(PACK, uploaded(backend, PACK, data)) == data


def test_a_view_of_a_spool_outlives_an_error(tmp_path: Path) -> None:
    """An error that still holds a part of the bytes is the error that is told."""
    spool = Spool()
    spool.write(bytes(2 << 20))
    held: list[memoryview] = []

    def fail() -> None:
        with spool.view() as view:
            held.append(view[:10])
            raise StorageError("lost")

    with pytest.raises(StorageError, match="lost"):
        fail()
    assert bytes(held[0]) == bytes(10)
    spool.close()


def test_a_cold_upload_stays_one() -> None:
    """The storage is told that an object may be cold."""
    told = []

    class Notes(MemoryBackend):
        def upload(self, kind: ObjectKind, *, cold: bool = False):  # type: ignore[no-untyped-def]
            told.append(cold)
            return super().upload(kind)

    for cold in (True, False):
        retrying(Notes()).upload(PACK, cold=cold).commit(name_of(b""))
    assert told == [True, False]


def test_flaky_listing_and_reading(faulty: FaultyBackend) -> None:
    """A storage that fails every third time shows all it holds, and gives the bytes that were stored."""
    memory = MemoryBackend()
    contents = {stored(memory, PACK, os.urandom(1000)): None for _ in range(200)}
    flaky = FlakyBackend(memory, 1 / 3, seed=7)
    backend = retrying(flaky)
    assert names(backend, PACK) == contents.keys()
    for name in contents:
        buffer = memoryview(bytearray(500))
        backend.read_into(PACK, name, 100, buffer)
        assert buffer == memory.read(PACK, name, 100, 500)
    assert flaky.failures > 50
