from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.conformance import BackendConformance, Place
from tests.support.sshd import Sshd, serve


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server for all tests that do it no harm."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


class TestSftpBackend(BackendConformance):
    @pytest.fixture
    def place(self, sshd: Sshd, tmp_path: Path) -> Place:
        root = tmp_path / "parent" / "repo"

        def plant(path: str, data: bytes) -> None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)

        return Place(open=lambda: sshd.backend(root), plant=plant)
