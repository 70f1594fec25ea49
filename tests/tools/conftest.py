from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.assistants import Desk, make_desk


@pytest.fixture(scope="session")
def model_desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk to copy."""
    return make_desk(tmp_path_factory.mktemp("desk"))


@pytest.fixture
def desk(model_desk: Desk, tmp_path: Path) -> Desk:
    """A desk of the test's own; its snapshots are of the directory of the desk that it is a copy of."""
    shutil.copytree(model_desk.home, tmp_path / "home")
    shutil.copytree(model_desk.repository, tmp_path / "repository")
    return Desk(tmp_path / "home", tmp_path / "repository", model_desk.source)
