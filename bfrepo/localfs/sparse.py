"""Zeros and holes: recognising them, and finding what a file that exists holds where there should be a hole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from bfrepo.localfs.extents import data_extents

_BLOCK: Final = 64 * 1024
_ZEROS: Final = bytes(_BLOCK)


def is_zero(data: memoryview) -> bool:
    """Whether every byte is zero. Takes no time where the first one is not."""
    if len(data) == 0 or data[0]:
        return False
    return all(_ZEROS.startswith(data[at : at + _BLOCK]) for at in range(0, len(data), _BLOCK))


def nonzero_blocks(fd: int, size: int, holes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(offset, length) of blocks of an open file that are not all zero and lie in `holes`, which are (start, end) in
    order.

    What is a hole already is not read. Raises OSError.
    """
    for start, end in _overlaps(data_extents(fd, size), holes):
        for offset in range(start, end, _BLOCK):
            block = os.pread(fd, min(_BLOCK, end - offset), offset)
            if not _ZEROS.startswith(block):
                yield offset, len(block)


def write_zeros(fd: int, offset: int, length: int) -> int:
    """Write `length` zeros at `offset`; returns `length`. Raises OSError."""
    done = 0
    while done < length:
        done += os.pwrite(fd, _ZEROS[: min(_BLOCK, length - done)], offset + done)
    return length


def _overlaps(extents: Iterable[tuple[int, int]], holes: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, end) of what lies both in an extent, given as (offset, length), and in a hole."""
    first = 0
    for offset, length in extents:
        while first < len(holes) and holes[first][1] <= offset:
            first += 1
        each = first
        while each < len(holes) and holes[each][0] < offset + length:
            yield max(offset, holes[each][0]), min(offset + length, holes[each][1])
            each += 1
