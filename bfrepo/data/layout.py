"""Where the blobs of a file go: into what its holes leave, in order. What does not add up is an error, not a write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from bfrepo.core.errors import DamagedObject

_HOLE: Final = struct.Struct("<QQ")


def unpack_holes(size: int, packed: bytes) -> list[tuple[int, int]]:
    """(start, end) of each hole.

    Raises DamagedObject unless they are in order, apart, not empty and inside the file.
    """
    if len(packed) % _HOLE.size:
        raise DamagedObject(f"its list of holes has {len(packed)} bytes, which is no multiple of {_HOLE.size}")
    holes: list[tuple[int, int]] = []
    before = 0
    for start, length in _HOLE.iter_unpack(packed):
        if start < before or length == 0 or start + length > size:
            raise DamagedObject(f"its hole of {length} bytes at {start} overlaps another one or lies outside the file")
        before = start + length
        holes.append((start, before))
    return holes


class Layout:
    """Gives each blob of a file its offset, in order. Used by one thread."""

    def __init__(self, size: int, holes: list[tuple[int, int]]) -> None:
        self._size = size
        self._ranges = _between(size, holes)
        self._next_range()

    def take(self, length: int) -> int:
        """Where a blob of `length` bytes goes. Raises DamagedObject when there is no room for it."""
        offset = self._at
        if length <= 0 or offset + length > self._end:
            raise DamagedObject(f"its content does not fit its size of {self._size} bytes and its holes")
        self._at += length
        if self._at == self._end:
            self._next_range()
        return offset

    def finish(self) -> None:
        """Raises DamagedObject unless the blobs have filled everything that the holes leave."""
        if self._at < self._size:
            raise DamagedObject(f"its content ends at {self._at}, its size is {self._size} bytes")

    def _next_range(self) -> None:
        self._at, self._end = next(self._ranges, (self._size, self._size))


def _between(size: int, holes: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    at = 0
    for start, end in holes:
        if start > at:
            yield at, start
        at = end
    if at < size:
        yield at, size
