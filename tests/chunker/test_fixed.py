"""Chunks of one size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.chunker.fixed import Fixed


@given(before=st.integers(0, 20), length=st.integers(0, 100), size=st.integers(1, 30), final=st.booleans())
def test_cuts_every_size_bytes(before: int, length: int, size: int, final: bool) -> None:
    """All chunks have the size, counted from the start; the rest is a chunk if the file ends there."""
    ends = list(Fixed(size).cut(bytes(before + length), before, before + length, final=final))
    whole = [before + size * number for number in range(1, length // size + 1)]
    rest = [before + length] if final and length % size else []
    assert ends == whole + rest


@pytest.mark.parametrize("start, end", [(-1, 5), (0, 11), (6, 5)])
def test_refuses_a_range_outside_the_data(start: int, end: int) -> None:
    """A range outside the data is an error, as with every chunker."""
    with pytest.raises(ValueError, match="does not lie within 10 bytes"):
        Fixed(4).cut(bytes(10), start, end, final=True)


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_has_bytes(size: int) -> None:
    """A size below one byte is an error."""
    with pytest.raises(ValueError, match="at least one byte"):
        Fixed(size)


def test_tells_its_kind_and_bounds() -> None:
    """Readers size their buffers by what the chunker says of itself."""
    chunker = Fixed(4096)
    assert (chunker.name, chunker.minimum, chunker.maximum) == ("fixed", 4096, 4096)


def test_leaves_the_buffer_free() -> None:
    """A call keeps nothing of the caller's buffer: a bytearray can be resized at once."""
    data = bytearray(10)
    Fixed(4).cut(data, 0, 10, final=True)
    data.clear()
    assert len(data) == 0
