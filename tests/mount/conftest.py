"""A repository, and mounts of it by the real command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bfrepo.core.clock import SystemClock
from bfrepo.repository.repository import Repository
from bfrepo.storage.local import LocalBackend
from tests.support.command import Command, with_password
from tests.support.mounting import Mount, Mounted, mounting, skip_without_fuse
from tests.support.repositories import make_repository


@pytest.fixture(autouse=True, scope="session")
def _fuse() -> None:
    """Without FUSE there is nothing to test here."""
    skip_without_fuse()


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Repository]:
    """An empty repository in a folder, open. It is not encrypted, and cuts files into small pieces."""
    with make_repository(LocalBackend(tmp_path / "repository"), clock=SystemClock()) as made:
        yield made


@pytest.fixture
def command(repository: Repository, tmp_path: Path) -> Command:
    """Runs the real command with the repository."""
    return replace(with_password(tmp_path), environment={"BACKUPFORGE_PASSWORD": None})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder to be backed up."""
    top = tmp_path / "src"
    top.mkdir()
    return top


@pytest.fixture
def mount(command: Command, tmp_path: Path) -> Iterator[Mount]:
    """Mounts the repository until the test ends."""
    with ExitStack() as stack:

        def start(*arguments: str) -> Mounted:
            return stack.enter_context(mounting(command, tmp_path, *arguments))

        yield start
