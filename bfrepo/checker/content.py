"""Whether the content of a file adds up: blobs fill, one after the other, what the holes leave of its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from struct import Struct
from typing import Final

_HOLE: Final = Struct("<QQ")


def content_fault(size: int, holes: bytes, blob_sizes: Sequence[int]) -> str | None:
    """What does not add up in a file of `size` bytes, or None.

    `holes` are packed as data/node.py says; sizes are bytes.
    """
    if blob_sizes and min(blob_sizes) <= 0:
        return "it has an empty blob, or one that is no data"
    if not holes:
        total = sum(blob_sizes)
        return None if total == size else f"its blobs have {total} bytes, its size is {size}"
    if len(holes) % _HOLE.size:
        return f"its list of holes has {len(holes)} bytes, which is no multiple of {_HOLE.size}"
    found = [(start, start + length) for start, length in _HOLE.iter_unpack(holes)]
    if any(start >= end for start, end in found) or any(end > start for (_, end), (start, _) in pairwise(found)):
        return "its holes are empty, overlap or are out of order"
    if found[-1][1] > size:
        return f"a hole ends at {found[-1][1]}, its size is {size}"
    return _filling_fault(size, found, iter(blob_sizes))


def _filling_fault(size: int, holes: list[tuple[int, int]], blob_sizes: Iterator[int]) -> str | None:
    position = 0
    for start, end in [*holes, (size, size)]:
        while position < start:
            blob = next(blob_sizes, 0)
            if not blob:
                return f"its blobs end before byte {start}, where they should reach"
            position += blob
        if position > start:
            return f"a blob reaches over byte {start}, where a hole or the end is"
        position = end
    return "it has more blobs than its size and holes leave room for" if next(blob_sizes, 0) else None
