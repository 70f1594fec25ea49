"""A repository, and mounts of it by the real command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.command import Command, without_encryption
from tests.support.mounting import Mount, Mounted, mounting, skip_without_fuse


@pytest.fixture(autouse=True, scope="session")
def _fuse() -> None:
    """Without FUSE there is nothing to test here."""
    skip_without_fuse()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the real command with an empty repository that is not encrypted."""
    return without_encryption(tmp_path)


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
