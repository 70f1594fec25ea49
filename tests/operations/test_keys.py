"""Passwords: adding, replacing and removing them, and never the last one."""

from __future__ import annotations

import pytest

from bfrepo.core.errors import BackupForgeError, ObjectNotFound, WrongPassword
from bfrepo.operations.keys import add_key, change_password, list_keys, remove_key
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.repositories import PASSWORD, make_repository, names, reopen, use_fast_kdf

SECOND = b"the second one"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fast_kdf(monkeypatch)


@pytest.fixture
def backend() -> MemoryBackend:
    """A store with an encrypted repository."""
    backend = MemoryBackend()
    make_repository(backend, encryption="aes-256-gcm").close()
    return backend


def current(repository: Repository) -> list[str]:
    """The names of the slots that are said to be in use."""
    return [key.name for key in list_keys(repository) if key.current]


def test_the_slot_that_opened_the_repository_is_known(backend: MemoryBackend) -> None:
    """Whichever password was given, its slot is the one in use."""
    added = add_key(reopen(backend), SECOND, label="laptop", host="there")
    (first,) = names(backend, ObjectKind.KEY) - {added}

    assert current(reopen(backend)) == [first]
    assert current(reopen(backend, password=SECOND)) == [added]


def test_what_a_slot_says_about_itself(backend: MemoryBackend) -> None:
    """Label and host are as they were given."""
    add_key(reopen(backend), SECOND, label="laptop", host="there")

    assert {(key.label, key.host, key.problem) for key in list_keys(reopen(backend))} == {
        ("first", "here", None),
        ("laptop", "there", None),
    }


def test_a_damaged_slot_is_listed_with_its_problem(backend: MemoryBackend) -> None:
    """What does not decode is named, and the others are listed."""
    name = add_key(reopen(backend), SECOND, label="laptop", host="there")
    backend.delete(ObjectKind.KEY, name)
    backend.save(ObjectKind.KEY, name, b"nonsense")

    problems = {key.name: key.problem for key in list_keys(reopen(backend))}

    assert problems[name] is not None
    assert [problem for other, problem in problems.items() if other != name] == [None]


def test_a_changed_password(backend: MemoryBackend) -> None:
    """The new password opens, the old one does not, and the label stays."""
    new, old = change_password(reopen(backend), SECOND, host="there")

    assert names(backend, ObjectKind.KEY) == {new}
    assert old != new
    assert [key.label for key in list_keys(reopen(backend, password=SECOND))] == ["first"]
    with pytest.raises(WrongPassword):
        reopen(backend, password=PASSWORD)


def test_neither_the_last_nor_the_one_in_use_is_removed(backend: MemoryBackend) -> None:
    """The last password, and the one that opened the repository, stay."""
    (first,) = names(backend, ObjectKind.KEY)
    with pytest.raises(BackupForgeError, match="the last one"):
        remove_key(reopen(backend), first[:8])
    second = add_key(reopen(backend), SECOND, label="", host="")
    with pytest.raises(BackupForgeError, match="the one that opened"):
        remove_key(reopen(backend), first[:8])

    assert remove_key(reopen(backend, password=SECOND), first[:8]) == first
    assert names(backend, ObjectKind.KEY) == {second}


def test_a_key_that_is_not_there(backend: MemoryBackend) -> None:
    """A prefix that fits no key is an error."""
    with pytest.raises(ObjectNotFound):
        remove_key(reopen(backend), "0" * 16)


def test_a_repository_without_encryption_has_no_passwords() -> None:
    """There is nothing to list, and nothing can be added, changed or removed."""
    repository = make_repository()

    assert list_keys(repository) == []
    for attempt in (
        lambda: add_key(repository, SECOND, label="", host=""),
        lambda: change_password(repository, SECOND, host=""),
        lambda: remove_key(repository, "0" * 16),
    ):
        with pytest.raises(BackupForgeError, match="not encrypted"):
            attempt()
