"""The passwords of a repository: several open it, and the last that works stays."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    InvalidValue,
    ObjectNotFound,
    WrongPassword,
)
from bfrepo.crypto.kdf import KdfParams
from bfrepo.crypto.keys import SlotInfo
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.distant import DistantBackend
from tests.support.faulty import FaultyBackend
from tests.support.repositories import PASSWORD, START, FakeClock, cheap_kdf_params, make_repository, names, reopen


@pytest.fixture
def faulty() -> FaultyBackend:
    """Storage of an encrypted repository with one password."""
    backend = FaultyBackend(MemoryBackend())
    make_repository(backend, encryption="aes-256-gcm")
    return backend


def first_key(backend: FaultyBackend) -> str:
    """The only slot."""
    (name,) = names(backend, ObjectKind.KEY)
    return name


def test_each_password_opens(faulty: FaultyBackend) -> None:
    """Every password that was added opens the repository, with the same keys."""
    repository = reopen(faulty)
    repository.add_slot(b"second", label="two", host="there")
    assert reopen(faulty, password=b"second").keys == reopen(faulty).keys == repository.keys


def test_wrong_password(faulty: FaultyBackend) -> None:
    """A password that no slot knows is wrong, and the message says how many were tried."""
    with pytest.raises(WrongPassword, match="none of its 1 key slots opens"):
        reopen(faulty, password=b"wrong")


@pytest.mark.parametrize("password", ["pässwörd".encode(), b"\xff\x00\n", b"", b" " * 5000], ids=repr)
def test_any_bytes_are_a_password(password: bytes) -> None:
    """A password is bytes: nothing is cut off, decoded or stripped."""
    repository = make_repository(encryption="aes-256-gcm", password=password)
    assert reopen(repository.backend, password=password).keys == repository.keys
    with pytest.raises(WrongPassword):
        reopen(repository.backend, password=password + b" ")


def test_what_slots_say(faulty: FaultyBackend) -> None:
    """Slots tell label, host and time; a damaged one tells what is wrong with it."""
    repository = reopen(faulty)
    first = first_key(faulty)
    second = repository.add_slot(b"second", label="two", host="there")
    faulty.flip_byte(ObjectKind.KEY, first, 20)
    slots = dict(reopen(faulty, password=b"second").slots())
    assert slots[second] == SlotInfo(label="two", host="there", created=START.isoformat())
    assert isinstance(slots[first], DamagedObject)


def test_damaged_slot_beside_a_good_one(faulty: FaultyBackend) -> None:
    """A damaged slot does not keep the others from opening; only if no other opens is the damage reported."""
    first = first_key(faulty)
    reopen(faulty).add_slot(b"second", label="", host="")
    faulty.flip_byte(ObjectKind.KEY, first, 20)
    assert reopen(faulty, password=b"second")
    with pytest.raises(DamagedObject, match=f"key {first[:8]}"):
        reopen(faulty)


def test_no_slots_left(faulty: FaultyBackend) -> None:
    """A repository whose slots are gone says that, and not that the password is wrong."""
    faulty.drop(ObjectKind.KEY, first_key(faulty))
    with pytest.raises(ObjectNotFound, match="has no key slots"):
        reopen(faulty)


def test_removed_password_opens_no_more(faulty: FaultyBackend) -> None:
    """Removing a slot by a prefix takes its password, and only that."""
    first = first_key(faulty)
    repository = reopen(faulty)
    repository.add_slot(b"second", label="", host="")
    assert repository.remove_slot(first[:10]) == first
    with pytest.raises(WrongPassword):
        reopen(faulty, password=PASSWORD)
    assert reopen(faulty, password=b"second")


def test_last_one_stays(faulty: FaultyBackend) -> None:
    """The last slot is never removed, nor the last that works when others are damaged or foreign."""
    repository = reopen(faulty)
    first = first_key(faulty)
    refuses_to_remove(repository, first)

    damaged = repository.add_slot(b"second", label="", host="")
    faulty.flip_byte(ObjectKind.KEY, damaged, 20)
    refuses_to_remove(repository, first)

    other = make_repository(encryption="aes-256-gcm")
    (foreign,) = names(other.backend, ObjectKind.KEY)
    faulty.save(ObjectKind.KEY, foreign, other.backend.load(ObjectKind.KEY, foreign))
    refuses_to_remove(repository, first)
    assert repository.remove_slot(damaged) == damaged
    assert reopen(faulty)


def refuses_to_remove(repository: Repository, name: str) -> None:
    """The slot is the last one that works."""
    with pytest.raises(BackupForgeError, match="is the last one that opens memory:"):
        repository.remove_slot(name)
    assert name in names(repository.backend, ObjectKind.KEY)


@pytest.mark.parametrize(
    ("prefix", "error"),
    [("", InvalidValue), ("abc", InvalidValue), ("zzzzzzzz", InvalidValue), ("0" * 8, ObjectNotFound)],
)
def test_no_such_slot(faulty: FaultyBackend, prefix: str, error: type[Exception]) -> None:
    """A prefix that is none, or fits nothing, removes nothing."""
    with pytest.raises(error):
        reopen(faulty).remove_slot(prefix)
    assert len(names(faulty, ObjectKind.KEY)) == 1


def test_strong_profile(faulty: FaultyBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """The profile that was asked for is the one that is used."""
    asked: list[str] = []

    def params(profile: Literal["default", "strong"], salt: bytes) -> KdfParams:
        asked.append(profile)
        return cheap_kdf_params(profile, salt)

    monkeypatch.setattr("bfrepo.crypto.keys.kdf_params", params)
    reopen(faulty).add_slot(b"second", label="", host="", kdf="strong")
    assert asked == ["strong"]


# --- the slot that mostly fits


def test_usual_slot_is_tried_first(tmp_path: Path) -> None:
    """Where a repository is far away, the slot that opened it the last time is read first, and no others are listed."""
    memory = MemoryBackend()
    make_repository(memory, encryption="aes-256-gcm").add_slot(b"another", label="", host="")
    for password in (PASSWORD, b"another"):
        for listings in (1, 0):
            far = DistantBackend(memory, connections=4)
            open_repository(far, FakeClock(), lambda password=password: password, cache_dir=tmp_path)  # type: ignore[misc]
            assert far.requests["list keys"] == listings
    with pytest.raises(WrongPassword, match="none of its 2 key slots"):
        open_repository(DistantBackend(memory, connections=4), FakeClock(), lambda: b"wrong", cache_dir=tmp_path)


@pytest.mark.parametrize("kept", [b"", b"no name", b"\xff" * 64, b"0" * 64, b"1" * 65])
def test_usual_slot_that_is_wrong(tmp_path: Path, kept: bytes) -> None:
    """Whatever this machine has kept, and whatever became of the slot, the others are tried (and counted) as ever."""
    memory = MemoryBackend()
    repository = make_repository(memory, encryption="aes-256-gcm")
    (tmp_path / repository.id.hex()).mkdir()
    (tmp_path / repository.id.hex() / "slot").write_bytes(kept)
    with pytest.raises(WrongPassword, match="none of its 1 key slots"):
        open_repository(DistantBackend(memory, connections=4), FakeClock(), lambda: b"wrong", cache_dir=tmp_path)
    for _ in range(2):
        open_repository(DistantBackend(memory, connections=4), FakeClock(), lambda: PASSWORD, cache_dir=tmp_path)
