from __future__ import annotations

import pytest

from bfrepo.storage.memory import MemoryBackend
from tests.storage.conformance import BackendConformance, Place


class TestMemoryBackend(BackendConformance):
    @pytest.fixture
    def place(self) -> Place:
        backend = MemoryBackend()
        return Place(open=lambda: backend)
