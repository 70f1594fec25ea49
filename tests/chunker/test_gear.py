"""The kernel's own duties: arguments, buffers, runs of zeros."""

from __future__ import annotations

import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.chunker import _gear
from bfrepo.chunker.fastcdc import gear_table

TABLE = gear_table(bytes(32))
SIZES = (64, 128, 512)
BAD_RANGES = [(-1, 5), (0, 1001), (6, 5), (1001, 1001), (-5, -2), (0, sys.maxsize), (-sys.maxsize - 1, sys.maxsize)]


@pytest.mark.parametrize("start, end", BAD_RANGES)
def test_cut_refuses_a_range_outside_the_data(start: int, end: int) -> None:
    """No byte outside the buffer is ever looked at."""
    with pytest.raises(ValueError, match="does not lie within 1000 bytes"):
        _gear.cut(bytes(1000), start, end, True, TABLE, *SIZES)


@pytest.mark.parametrize("start, end", BAD_RANGES)
def test_is_zero_refuses_a_range_outside_the_data(start: int, end: int) -> None:
    """No byte outside the buffer is ever looked at."""
    with pytest.raises(ValueError, match="does not lie within 1000 bytes"):
        _gear.is_zero(bytes(1000), start, end)


@pytest.mark.parametrize("table", [b"", TABLE[:-1], TABLE + b"\0"])
def test_cut_refuses_a_table_of_another_size(table: bytes) -> None:
    """A gear table has 256 numbers of 8 bytes."""
    with pytest.raises(ValueError, match="must have 2048 bytes"):
        _gear.cut(b"", 0, 0, True, table, *SIZES)


@pytest.mark.parametrize("data", ["text", None, 5, memoryview(bytes(10))[::2]])
def test_data_is_contiguous_bytes(data: object) -> None:
    """What is not bytes-like, or not in one piece, is refused."""
    with pytest.raises((TypeError, BufferError)):
        _gear.cut(data, 0, 0, True, TABLE, *SIZES)  # type: ignore[arg-type]
    with pytest.raises((TypeError, BufferError)):
        _gear.is_zero(data, 0, 0)  # type: ignore[arg-type]


def test_numbers_beyond_the_machine_are_refused() -> None:
    """A number that no offset can have is an error and is never truncated."""
    with pytest.raises(OverflowError):
        _gear.cut(b"", 0, 1 << 64, True, TABLE, *SIZES)


def test_buffers_are_released() -> None:
    """Neither a result nor an error keeps the caller's buffers exported: a bytearray can be resized at once."""
    data, table = bytearray(1000), bytearray(TABLE)
    _gear.cut(data, 0, 1000, True, table, *SIZES)
    _gear.is_zero(data, 0, 1000)
    for start, end in BAD_RANGES:
        with pytest.raises(ValueError, match="range"):
            _gear.cut(data, start, end, True, table, *SIZES)
        with pytest.raises(ValueError, match="range"):
            _gear.is_zero(data, start, end)
    data.clear()
    table.clear()


def test_references_are_balanced() -> None:
    """A thousand calls leave the reference counts of their arguments where they were."""
    data, table = bytes(5000), bytes(bytearray(TABLE))
    before = sys.getrefcount(data), sys.getrefcount(table)
    for _ in range(1000):
        _gear.cut(data, 0, 5000, True, table, *SIZES)
        _gear.is_zero(data, 0, 5000)
    assert (sys.getrefcount(data), sys.getrefcount(table)) == before


def test_any_buffer_will_do() -> None:
    """Offsets count bytes, in a memoryview or an array as in bytes."""
    data = bytes(range(256)) * 8
    expected = _gear.cut(data, 0, len(data), True, TABLE, *SIZES)
    assert _gear.cut(memoryview(data), 0, len(data), True, TABLE, *SIZES) == expected
    assert _gear.cut(array("Q", data), 0, len(data), True, TABLE, *SIZES) == expected


@given(size=st.integers(0, 300), start=st.integers(0, 300), end=st.integers(0, 300), dirt=st.integers(0, 299))
def test_is_zero_looks_at_every_byte_of_the_range(size: int, start: int, end: int, dirt: int) -> None:
    """One byte that is not zero is found wherever it lies within the range, and does not matter outside."""
    start, end = sorted((min(start, size), min(end, size)))
    data = bytearray(size)
    data[dirt : dirt + 1] = b"\x01" * len(data[dirt : dirt + 1])
    assert _gear.is_zero(data, start, end) == (not any(data[start:end]))


def test_equal_bytes_are_not_zeros() -> None:
    """A run of another byte than zero is no hole."""
    assert not _gear.is_zero(b"\xff" * 100, 0, 100)
