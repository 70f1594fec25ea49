"""Key slots that take no time to open."""

from __future__ import annotations

import pytest

from tests.support.repositories import use_fast_kdf


@pytest.fixture(autouse=True)
def fast_kdf(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every test of this area."""
    use_fast_kdf(monkeypatch)
