"""Zeros: recognising them, and finding what lies in holes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.localfs.sparse import _overlaps, is_zero, nonzero_blocks, write_zeros

BLOCK = 64 * 1024


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """An empty file, open."""
    file = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    yield file
    os.close(file)


@pytest.mark.parametrize("size", [1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_is_zero(size: int) -> None:
    """Zeros of any length are recognised, and one other byte anywhere is seen."""
    data = bytearray(size)
    assert is_zero(memoryview(data))

    for at in {0, size // 2, size - 1}:
        data[at] = 1
        assert not is_zero(memoryview(data))
        data[at] = 0


def test_nothing_is_not_zero() -> None:
    """An empty piece holds no zeros that a hole could stand for."""
    assert not is_zero(memoryview(b""))


def test_blocks_that_are_not_zero(fd: int) -> None:
    """Only blocks with data in a hole are told, cut to the hole."""
    size = 10 * BLOCK
    os.ftruncate(fd, size)
    os.pwrite(fd, b"x", BLOCK + 10)
    os.pwrite(fd, b"\0" * BLOCK, 5 * BLOCK)
    os.pwrite(fd, b"y", size - 1)

    found = list(nonzero_blocks(fd, size, [(0, 2 * BLOCK), (4 * BLOCK, 7 * BLOCK), (8 * BLOCK, size)]))

    assert [os.pread(fd, length, offset).strip(b"\0") for offset, length in found] == [b"x", b"y"]


def test_write_zeros(fd: int) -> None:
    """So many zeros are written, there and nowhere else."""
    os.pwrite(fd, b"1" * 200_000, 0)

    assert write_zeros(fd, 10, 150_000) == 150_000

    assert os.pread(fd, 300_000, 0) == b"1" * 10 + bytes(150_000) + b"1" * 49_990


RANGES = st.lists(st.integers(0, 60), max_size=10, unique=True).map(
    lambda cuts: [(a, b) for a, b in zip(*[iter(sorted(cuts))] * 2, strict=False)]
)


@given(RANGES, RANGES)
def test_overlaps(extents: list[tuple[int, int]], holes: list[tuple[int, int]]) -> None:
    """What is found is exactly what lies in both, in order and without anything twice."""
    found = [each for a, b in _overlaps(((a, b - a) for a, b in extents), holes) for each in range(a, b)]

    data = {each for a, b in extents for each in range(a, b)}
    assert found == [each for a, b in holes for each in range(a, b) if each in data]
