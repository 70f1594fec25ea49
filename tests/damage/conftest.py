"""The repository that these tests damage is made once; each works on a copy, or through faults that leave it alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.damage import SmallRepository, make_small_repository
from tests.support.repositories import use_fast_kdf


@pytest.fixture(scope="session")
def small() -> Iterator[SmallRepository]:
    """An encrypted repository."""
    with pytest.MonkeyPatch.context() as patch:
        use_fast_kdf(patch)
        yield make_small_repository()
