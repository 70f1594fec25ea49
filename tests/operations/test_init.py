"""Making a repository: what is checked before anything is written or asked."""

from __future__ import annotations

import pytest

from bfrepo.core.errors import InvalidValue, RepositoryExists
from bfrepo.operations.init import InitOptions, init
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.repositories import FakeClock, make_repository, names, reopen, use_fast_kdf


def nobody() -> bytes:
    """A password that must not be asked for."""
    raise AssertionError("asked for a password")


def test_a_new_repository_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made opens with its password, and is what it was asked to be."""
    use_fast_kdf(monkeypatch)
    backend = MemoryBackend()

    made = init(backend, InitOptions(pack_size=8 << 20, label="mine"), FakeClock(), lambda: b"secret")

    opened = reopen(backend, password=b"secret")
    assert opened.config == made
    assert opened.config.pack_size == 8 << 20


def test_nobody_is_asked_for_a_password_in_vain() -> None:
    """A repository that exists, sizes that make no sense, and no encryption: each time nobody is asked."""
    backend = MemoryBackend()
    make_repository(backend)

    with pytest.raises(RepositoryExists):
        init(backend, InitOptions(), FakeClock(), nobody)
    with pytest.raises(InvalidValue):
        init(MemoryBackend(), InitOptions(pack_size=1), FakeClock(), nobody)
    init(MemoryBackend(), InitOptions(encryption="none"), FakeClock(), nobody)


def test_nothing_is_written_when_the_options_make_no_sense() -> None:
    """A mistake leaves the place as it was."""
    backend = MemoryBackend()

    with pytest.raises(InvalidValue):
        init(backend, InitOptions(encryption="none", pack_size=1), FakeClock(), nobody)

    assert names(backend, ObjectKind.CONFIG) == set()


def test_a_copied_chunker_cuts_at_the_same_places() -> None:
    """Kind, sizes and secret seed are those of the other repository; the identity is not."""
    like = make_repository().config

    made = init(MemoryBackend(), InitOptions(encryption="none", like=like), FakeClock(), nobody)

    assert (made.chunker, made.seed) == (like.chunker, like.seed)
    assert made.repository_id != like.repository_id
