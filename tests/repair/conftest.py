"""The repository that these tests damage is made once; each works on a copy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.damage import SmallRepository, make_small_repository
from tests.support.repositories import use_fast_kdf


@pytest.fixture(autouse=True)
def fast_kdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every test of this area."""
    use_fast_kdf(monkeypatch)


@pytest.fixture(scope="session")
def small() -> Iterator[SmallRepository]:
    """An encrypted repository."""
    with pytest.MonkeyPatch.context() as patch:
        use_fast_kdf(patch)
        yield make_small_repository()


@pytest.fixture
def quarantine(tmp_path: Path) -> Path:
    """Where repairs put what they take out; it is not there yet."""
    return tmp_path / "state" / "quarantine"
