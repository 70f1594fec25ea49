"""Whether a file's blobs and holes add up to its size."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.checker.content import content_fault


def packed(*holes: tuple[int, int]) -> bytes:
    """Holes as a node has them."""
    return b"".join(struct.pack("<QQ", *hole) for hole in holes)


@pytest.mark.parametrize(
    ("size", "holes", "blob_sizes"),
    [
        (0, b"", []),
        (10, b"", [10]),
        (10, b"", [3, 7]),
        (10, packed((0, 10)), []),
        (10, packed((0, 4)), [6]),
        (10, packed((6, 4)), [2, 4]),
        (10, packed((2, 3), (7, 1)), [2, 1, 1, 2]),
        (10, packed((2, 3), (5, 5)), [2]),
    ],
)
def test_what_adds_up(size: int, holes: bytes, blob_sizes: list[int]) -> None:
    """Blobs fill what the holes leave, and none reaches over a hole."""
    assert content_fault(size, holes, blob_sizes) is None


@pytest.mark.parametrize(
    ("size", "holes", "blob_sizes", "said"),
    [
        (10, b"", [], "its blobs have 0 bytes, its size is 10"),
        (10, b"", [11], "its blobs have 11 bytes"),
        (10, b"", [10, -1], "no data"),
        (10, b"", [10, 0], "empty blob"),
        (10, b"short", [10], "no multiple of 16"),
        (10, packed((0, 0)), [10], "empty, overlap or are out of order"),
        (10, packed((4, 2), (5, 2)), [4, 3], "empty, overlap or are out of order"),
        (10, packed((6, 2), (2, 2)), [2, 2, 2], "empty, overlap or are out of order"),
        (10, packed((5, 6)), [5], "a hole ends at 11"),
        (10, packed((1 << 63, 1 << 63)), [10], "a hole ends at"),
        (10, packed((4, 2)), [5, 3], "reaches over byte 4"),
        (10, packed((4, 2)), [4, 5], "reaches over byte 10"),
        (10, packed((4, 2)), [4, 3], "end before byte 10"),
        (10, packed((4, 2)), [4, 4, 1], "more blobs than"),
    ],
)
def test_what_does_not_add_up(size: int, holes: bytes, blob_sizes: list[int], said: str) -> None:
    """Whatever is wrong is said."""
    assert said in (content_fault(size, holes, blob_sizes) or "")


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=12), st.integers(0, 11))
def test_a_model(pieces: list[tuple[bool, int]], where: int) -> None:
    """Any sequence of blobs and holes adds up, and does not when one blob has a byte more."""
    position, holes, blob_sizes = 0, [], []
    for is_hole, length in pieces:
        if is_hole:
            holes.append((position, length))
        else:
            blob_sizes.append(length)
        position += length

    assert content_fault(position, packed(*holes), blob_sizes) is None
    if blob_sizes:
        blob_sizes[where % len(blob_sizes)] += 1
        assert content_fault(position, packed(*holes), blob_sizes) is not None
