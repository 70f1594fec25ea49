"""The command, something to back up, and file systems of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bfrepo.chunker.base import ChunkerParams
from bfrepo.storage.local import LocalBackend
from tests.support.backups import incompressible
from tests.support.command import Command, with_password, without_encryption
from tests.support.mounts import Mounts, mounts_of_its_own
from tests.support.program import PASSWORD
from tests.support.repositories import make_repository, use_fast_kdf


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the real command with a password; there is no repository yet."""
    return with_password(tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> Command:
    """Runs the real command with an empty repository that is not encrypted."""
    return without_encryption(tmp_path)


@pytest.fixture
def encrypted(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the real command with an empty encrypted repository, whose password takes no time to try."""
    use_fast_kdf(monkeypatch)
    backend = LocalBackend(command.repository)
    make_repository(backend, encryption="aes-256-gcm", password=PASSWORD.encode(), chunker=ChunkerParams()).close()
    return command


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small tree."""
    top = tmp_path / "source"
    (top / "sub").mkdir(parents=True)
    (top / "a").write_bytes(incompressible(1, 200_000))
    (top / "b").write_text("b\n")
    (top / "sub" / "c").write_text("c\n")
    return top


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    """A mount namespace that ends with the test."""
    with mounts_of_its_own() as mounts:
        yield mounts
