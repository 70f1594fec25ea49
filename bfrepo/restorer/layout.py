"""Where the blobs of a file go: one after the other into what its holes leave. Whatever does not add up is an error, never a write."""

from __future__ import annotations

import struct
from typing import Final

from bfrepo.core.errors import DamagedObject

_HOLE: Final = struct.Struct("<QQ")


def unpack_holes(size: int, packed: bytes) -> list[tuple[int, int]]:
    """(start, end) of each hole. Raises DamagedObject unless they are in order, apart, not empty and below `size`."""
    if len(packed) % _HOLE.size:
        raise DamagedObject(f"its list of holes has {len(packed)} bytes, which is no multiple of {_HOLE.size}")
    holes: list[tuple[int, int]] = []
    end = -1
    for start, length in _HOLE.iter_unpack(packed):
        if start <= end or length == 0 or start + length > size:
            raise DamagedObject(f"its hole of {length} bytes at {start} overlaps another or lies outside the file")
        end = start + length
        holes.append((start, end))
    return holes


class Layout:
    """Gives each blob of a file its offset, in order. Used by one thread."""

    def __init__(self, size: int, holes: list[tuple[int, int]]) -> None:
        self._holes = iter([*holes, (size, size)])
        self._at = 0
        self._end = 0
        self._size = size
        self._next_data()

    def take(self, length: int) -> int:
        """Where a blob of `length` bytes goes. Raises DamagedObject when there is no room for it."""
        offset = self._at
        self._at += length
        if length <= 0 or self._at > self._end:
            raise DamagedObject(f"its content does not fit its size of {self._size} bytes and its holes")
        if self._at == self._end:
            self._next_data()
        return offset

    def finish(self) -> None:
        """Raises DamagedObject unless the blobs have filled everything that the holes leave."""
        if self._at < self._size:
            raise DamagedObject(f"its content ends at {self._at}, its size is {self._size} bytes")

    def _next_data(self) -> None:
        """Step over holes to the next range of data; to the end of the file when there is none."""
        while self._at == self._end and self._at < self._size:
            start, end = next(self._holes)
            if start > self._at:
                self._end = start
                self._after = end
                return
            self._at = self._end = end
