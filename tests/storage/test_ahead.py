"""Listings that are made before anybody asks: they tell what listings tell that are made then."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from bfrepo.core.errors import StorageError
from bfrepo.storage import ahead
from bfrepo.storage.ahead import AheadBackend
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.distant import DistantBackend
from tests.support.faulty import FaultyBackend
from tests.support.repositories import PASSWORD, FakeClock, make_repository, names

INDEX, SNAPSHOT, PACK = ObjectKind.INDEX, ObjectKind.SNAPSHOT, ObjectKind.PACK
NAMES = {kind: f"{number:064x}" for number, kind in enumerate((INDEX, SNAPSHOT, PACK))}


@pytest.fixture
def faulty() -> FaultyBackend:
    """A store with an object of each kind; its calls are noted."""
    memory = MemoryBackend()
    for kind, name in NAMES.items():
        memory.save(kind, name, b"something")
    return FaultyBackend(memory)


def started(backend: FaultyBackend, *kinds: ObjectKind) -> AheadBackend:
    """A backend that has listed these kinds by now."""
    made = AheadBackend(backend, kinds)
    made.start()
    for thread in threading.enumerate():
        if thread.name == "list-ahead":
            thread.join()
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


def test_opening_lists_while_the_password_is_tried(tmp_path: Path) -> None:
    """A repository that is far away is asked for listings while the password is tried; one that is near is not."""
    from bfrepo.repository.repository import open_repository

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
