"""Listings that are made before anybody asks: they tell what listings tell that are made then."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from bfrepo.core.errors import StorageError, StorageObjectMissing
from bfrepo.core.units import MIB
from bfrepo.repository.repository import open_repository
from bfrepo.storage import ahead
from bfrepo.storage.ahead import AheadBackend
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.forwarding import ForwardingBackend
from bfrepo.storage.memory import MemoryBackend
from tests.support.distant import DistantBackend
from tests.support.faulty import FaultyBackend
from tests.support.repositories import PASSWORD, FakeClock, make_repository, names

INDEX, SNAPSHOT, PACK = ObjectKind.INDEX, ObjectKind.SNAPSHOT, ObjectKind.PACK
NAMES = {kind: f"{number:064x}" for number, kind in enumerate((INDEX, SNAPSHOT, PACK))}


def begun(backend: Backend, kinds: Sequence[ObjectKind], *, objects: bool = False) -> AheadBackend:
    """A backend that has done by now what it does by itself."""
    made = AheadBackend(backend, kinds, objects=objects)
    made.start()
    for thread in threading.enumerate():
        if thread.name in ("list-ahead", "read-ahead"):
            thread.join()
    return made


@pytest.fixture
def faulty() -> FaultyBackend:
    """A store with an object of each kind; its calls are noted."""
    memory = MemoryBackend()
    for kind, name in NAMES.items():
        memory.save(kind, name, b"something")
    return FaultyBackend(memory)


def started(backend: FaultyBackend, *kinds: ObjectKind) -> AheadBackend:
    """A backend that has listed these kinds by now."""
    made = begun(backend, kinds)
    assert [call.kind for call in backend.calls] == list(kinds)
    return made


def test_each_listing_is_given_out_once(faulty: FaultyBackend) -> None:
    """What was listed in advance is not listed again; the next listing of the kind is a new one."""
    backend = started(faulty, INDEX, SNAPSHOT)
    assert names(backend, INDEX) == {NAMES[INDEX]}
    assert names(backend, SNAPSHOT) == {NAMES[SNAPSHOT]}
    assert len(faulty.calls) == 2
    faulty.delete(INDEX, NAMES[INDEX])
    assert names(backend, INDEX) == set()


def test_another_order_makes_them_worthless(faulty: FaultyBackend) -> None:
    """Nothing is told that is older than a listing which was made in between: their order has a meaning."""
    backend = started(faulty, INDEX, SNAPSHOT)
    faulty.delete(INDEX, NAMES[INDEX])
    assert names(backend, PACK) == {NAMES[PACK]}
    assert names(backend, INDEX) == set()
    backend = started(faulty_again := FaultyBackend(faulty), INDEX, SNAPSHOT)
    assert names(backend, SNAPSHOT) == {NAMES[SNAPSHOT]}
    assert len(faulty_again.calls) == 3


def test_key_slots_are_no_matter(faulty: FaultyBackend) -> None:
    """Whoever lists key slots beside something else does not make worthless what was listed."""
    backend = started(faulty, INDEX)
    assert names(backend, ObjectKind.KEY) == set()
    assert names(backend, INDEX) == {NAMES[INDEX]}
    assert len(faulty.calls) == 2


def test_old_listings_are_worthless(faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing that has waited for long is made anew."""
    backend = started(faulty, INDEX)
    faulty.delete(INDEX, NAMES[INDEX])
    monkeypatch.setattr(ahead, "_FRESH_S", -1.0)
    assert names(backend, INDEX) == set()


def test_listings_that_failed_are_made_anew(faulty: FaultyBackend) -> None:
    """A failure nobody has asked for is no failure; one that stays is told by the listing that was asked for."""
    faulty.fail("list", kind=INDEX)
    backend = started(faulty, INDEX)
    assert names(backend, INDEX) == {NAMES[INDEX]}
    faulty.fail("list", kind=SNAPSHOT, forever=True)
    with pytest.raises(StorageError):
        names(backend, SNAPSHOT)


def test_objects_are_read_once(faulty: FaultyBackend) -> None:
    """What was listed is read in advance, but for packs; each object is given out once, and then read anew."""
    backend = begun(faulty, (SNAPSHOT, INDEX, PACK), objects=True)
    calls = [(call.method, call.kind) for call in faulty.calls]
    assert calls[:1] == [("list", SNAPSHOT)]
    assert len(calls) == 5
    assert {*calls[1:]} == {("load", SNAPSHOT), ("list", INDEX), ("load", INDEX), ("list", PACK)}
    for kind in (SNAPSHOT, INDEX):
        assert backend.load(kind, NAMES[kind]) == b"something"
    assert len(faulty.calls) == 5
    faulty.delete(INDEX, NAMES[INDEX])
    with pytest.raises(StorageObjectMissing):
        backend.load(INDEX, NAMES[INDEX])


def test_objects_that_failed_are_read_anew(faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure that nobody has asked for is no failure, and what has waited for long is not given out."""
    faulty.fail("load", kind=INDEX)
    backend = begun(faulty, (SNAPSHOT, INDEX), objects=True)
    assert backend.load(INDEX, NAMES[INDEX]) == b"something"
    faulty.delete(SNAPSHOT, NAMES[SNAPSHOT])
    monkeypatch.setattr(ahead, "_FRESH_S", -1.0)
    with pytest.raises(StorageObjectMissing):
        backend.load(SNAPSHOT, NAMES[SNAPSHOT])


def test_many_objects_are_left_to_others() -> None:
    """Where there are many objects, or large ones, they are read when they are wanted, by many threads."""
    memory = MemoryBackend()
    for number in range(9):
        memory.save(INDEX, f"{number:064x}", b"something")
    memory.save(SNAPSHOT, NAMES[SNAPSHOT], bytes(8 * MIB + 1))
    faulty = FaultyBackend(memory)
    begun(faulty, (INDEX, SNAPSHOT), objects=True)
    assert {call.method for call in faulty.calls} == {"list"}


def test_an_object_that_is_not_begun_is_read_by_who_wants_it() -> None:
    """Nobody waits for an object behind another one that takes its time."""
    memory = MemoryBackend()
    first, second = f"{1:064x}", f"{2:064x}"
    memory.save(INDEX, first, b"first")
    memory.save(INDEX, second, b"second")
    entered, go_on = threading.Event(), threading.Event()

    class Slow(ForwardingBackend):
        def load(self, kind: ObjectKind, name: str) -> bytes:
            if name == first:
                entered.set()
                assert go_on.wait(30)
            return super().load(kind, name)

    backend = AheadBackend(Slow(memory), (INDEX,), objects=True)
    backend.start()
    assert entered.wait(30)
    assert backend.load(INDEX, second) == b"second"
    go_on.set()
    assert backend.load(INDEX, first) == b"first"


def test_opening_reads_what_nothing_is_known_of(tmp_path: Path) -> None:
    """Objects are read in advance where there is no cache of the repository, and only there."""
    memory = MemoryBackend()
    make_repository(memory, encryption="aes-256-gcm")
    memory.save(INDEX, NAMES[INDEX], b"something")
    for reads in (1, 0):
        far = DistantBackend(memory)
        open_repository(far, FakeClock(), lambda: PASSWORD, cache_dir=tmp_path, ahead=[INDEX])
        for thread in threading.enumerate():
            if thread.name in ("list-ahead", "read-ahead"):
                thread.join()
        assert far.requests["load index"] == reads


def test_opening_lists_while_the_password_is_tried(tmp_path: Path) -> None:
    """A repository that is far away is asked for listings while the password is tried; one that is near is not."""
    memory = MemoryBackend()
    make_repository(memory, encryption="aes-256-gcm")
    for connections, listed in ((8, 1), (1, 0)):
        far = DistantBackend(memory, connections=connections)
        repository = open_repository(far, FakeClock(), lambda: PASSWORD, ahead=[INDEX])
        while far.requests["list index"] < listed:
            pass
        assert far.requests["list index"] == listed
        assert list(repository.backend.list(INDEX)) == []
        assert far.requests["list index"] == 1
