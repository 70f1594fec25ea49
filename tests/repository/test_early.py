"""What opens a repository is asked for while the program gets ready: nothing else changes by that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from bfrepo.core.errors import RepositoryNotFound, StorageDenied, StorageError, WrongPassword
from bfrepo.operations.init import InitOptions, init
from bfrepo.repository.early import EarlyBackend
from bfrepo.repository.repository import open_repository
from bfrepo.storage.base import CONFIG_NAME, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.distant import DistantBackend
from tests.support.faulty import FaultyBackend
from tests.support.repositories import PASSWORD, FakeClock, make_repository, names


@pytest.fixture
def far() -> DistantBackend:
    """An encrypted repository on a storage that is far away, whose calls are counted."""
    memory = MemoryBackend()
    make_repository(memory, encryption="aes-256-gcm")
    return DistantBackend(memory)


def test_opening_takes_no_more_calls(far: DistantBackend, tmp_path: Path) -> None:
    """Each call is made once, whoever made it; and the key slots need not be listed the second time."""
    for listed in (1, 0):
        far.forget()
        early = EarlyBackend(far, tmp_path)
        open_repository(early, FakeClock(), lambda: PASSWORD, cache_dir=tmp_path)
        assert far.total == 2 + listed
        assert far.requests["list keys"] == listed


def test_config_and_slot_come_at_once(tmp_path: Path) -> None:
    """Neither waits for the other; who made the repository here knows the slot; a wrong guess only costs calls."""
    memory = MemoryBackend()
    far = DistantBackend(memory, latency_s=0.02)
    init(far, InitOptions(), FakeClock(), lambda: PASSWORD, cache_dir=tmp_path)
    far.forget()
    early = EarlyBackend(far, tmp_path)
    open_repository(early, FakeClock(), lambda: PASSWORD, cache_dir=tmp_path)
    assert (far.total, far.requests["list keys"], far.most_at_once) == (2, 0, 2)
    for name in [*names(memory, ObjectKind.KEY), CONFIG_NAME]:
        memory.delete(ObjectKind.CONFIG if name == CONFIG_NAME else ObjectKind.KEY, name)
    other = init(far, InitOptions(), FakeClock(), lambda: b"other")
    opened = open_repository(EarlyBackend(far, tmp_path), FakeClock(), lambda: b"other", cache_dir=tmp_path)
    assert opened.id == other.repository_id


def test_what_was_read_is_given_out_once(far: DistantBackend) -> None:
    """Whoever asks a second time is told what is there by then."""
    early = EarlyBackend(far, None)
    [slot] = names(early, ObjectKind.KEY)
    assert early.load(ObjectKind.KEY, slot)
    assert early.load(ObjectKind.CONFIG, CONFIG_NAME)
    far.delete(ObjectKind.KEY, slot)
    assert names(early, ObjectKind.KEY) == set()
    with pytest.raises(StorageError):
        early.load(ObjectKind.KEY, slot)


def test_a_second_password_is_tried(far: DistantBackend) -> None:
    """After a wrong password the same backend opens the repository with the right one."""
    early = EarlyBackend(far, None)
    with pytest.raises(WrongPassword):
        open_repository(early, FakeClock(), lambda: b"wrong")
    assert open_repository(early, FakeClock(), lambda: PASSWORD).keys.encrypted


@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_only_what_is_needed_is_asked_for(encryption: Literal["aes-256-gcm", "none"]) -> None:
    """Where nothing is encrypted no key slot is read; that there is none a listing tells, made beside the config."""
    memory = MemoryBackend()
    make_repository(memory, encryption=encryption)
    far = DistantBackend(memory)
    open_repository(EarlyBackend(far, None), FakeClock(), lambda: PASSWORD)
    assert far.total == (2 if encryption == "none" else 3)


def fail_config(backend: FaultyBackend) -> None:
    """A storage that refuses us."""
    backend.fail("load", kind=ObjectKind.CONFIG, error=StorageDenied("no"), forever=True)


def lose_config(backend: FaultyBackend) -> None:
    """A place without a repository."""
    backend.delete(ObjectKind.CONFIG, CONFIG_NAME)


def fail_listing(backend: FaultyBackend) -> None:
    """A storage whose key slots cannot be listed."""
    backend.fail("list", kind=ObjectKind.KEY, forever=True)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [(fail_config, StorageDenied), (lose_config, RepositoryNotFound), (fail_listing, StorageError)],
)
def test_errors_are_those_of_opening(
    far: DistantBackend, spoil: Callable[[FaultyBackend], None], error: type[Exception]
) -> None:
    """What goes wrong is told by the opening, as without it."""
    faulty = FaultyBackend(far)
    spoil(faulty)
    with pytest.raises(error):
        open_repository(EarlyBackend(faulty, None), FakeClock(), lambda: PASSWORD)


def test_a_slot_that_was_removed(far: DistantBackend, tmp_path: Path) -> None:
    """The slot that this machine remembers may be gone: then the others are listed and tried."""
    repository = open_repository(far, FakeClock(), lambda: PASSWORD, cache_dir=tmp_path)
    assert repository.opened_by is not None
    added = repository.add_slot(b"another", label="", host="")
    far.delete(ObjectKind.KEY, repository.opened_by)
    opened = open_repository(EarlyBackend(far, tmp_path), FakeClock(), lambda: b"another", cache_dir=tmp_path)
    assert opened.opened_by == added
