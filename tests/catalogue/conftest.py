"""What tests of the catalogue begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bfrepo.catalogue.catalogue import Catalogue, open_catalogue


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    """An empty catalogue in `tmp_path`."""
    made = open_catalogue(tmp_path, make=True)
    assert made is not None
    with made:
        yield made
