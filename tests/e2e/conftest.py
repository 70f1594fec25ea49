"""The command with a home and a repository of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command import Command, with_password, without_encryption


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the real command with a password; there is no repository yet."""
    return with_password(tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> Command:
    """Runs the real command with an empty repository that is not encrypted."""
    return without_encryption(tmp_path)
