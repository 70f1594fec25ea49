"""How fast the chunker scans: `pytest benchmarks/micro/test_chunker_bench.py`. Aim: over 4 GB/s with the default sizes.

The buffer is reused and stays warm, as in a backup, where the data has just been read into it.
"""

from __future__ import annotations

import pytest
from blake3 import blake3
from pytest_benchmark.fixture import BenchmarkFixture

from bfrepo.chunker import _gear
from bfrepo.chunker.base import ChunkerParams, make_chunker
from bfrepo.core.units import MIB

SIZE = 8 * MIB


@pytest.mark.parametrize("content", ["random", "zeros"])
@pytest.mark.parametrize("text", ["fastcdc", "fastcdc:64K:256K:1M", "fastcdc:4K:16K:64K"])
def test_cut(benchmark: BenchmarkFixture, text: str, content: str) -> None:
    """A buffer of 8 MiB, cut."""
    chunker = make_chunker(ChunkerParams.parse(text), bytes(range(32)))
    data = bytearray(blake3(b"noise").digest(length=SIZE) if content == "random" else SIZE)
    benchmark(chunker.cut, data, 0, SIZE, final=True)
    benchmark.extra_info["GB/s"] = round(SIZE / benchmark.stats["min"] / 1e9, 2)


def test_is_zero(benchmark: BenchmarkFixture) -> None:
    """A buffer of 8 MiB of zeros, recognised."""
    data = bytearray(SIZE)
    assert benchmark(_gear.is_zero, data, 0, SIZE)
    benchmark.extra_info["GB/s"] = round(SIZE / benchmark.stats["min"] / 1e9, 2)
