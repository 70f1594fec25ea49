"""The content of a file: which blob is where in it, and what a reader at an offset gets."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from ctypes import addressof, c_char
from itertools import accumulate
from typing import Final, cast

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import ID_SIZE
from bfrepo.core.protocols import BlobViews, Buffer
from bfrepo.core.units import MIB
from bfrepo.data.layout import Layout, unpack_holes
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, split_ids

_AHEAD: Final = 24 * MIB
_MOST_AHEAD: Final = 64
"""Bytes and blobs at most that are opened ahead of who reads on: as many as are in flight to a distant storage."""
_STEADY: Final = 8
"""Blobs that are opened ahead of who has read on for a while, and will go on."""
_BEHIND: Final = 4 * MIB
"""Bytes that are kept behind who reads on: for reads that are still under way."""


class File:
    """What a file holds, holes as zeros. May be read from several threads.

    Raises DamagedObject when its blobs and holes do not add up to its size, and what loading its lists raises.
    """

    def __init__(self, views: BlobViews, node: Node) -> None:
        self.size = node.size
        self._views = views
        self._ids = load_records(views, node.content, node.content_depth)
        self._starts, self._ends = self._layout(node)
        self._next = 0  # where the last read ended
        self._window = 0  # blobs to open ahead
        self._begun = 0  # the first of them that is not begun yet
        self._done = 0  # the first blob that was not let go

    def peek(self, offset: int, size: int) -> list[Buffer] | None:
        """As `pieces`, or None when that would take a while."""
        return self._pieces(offset, size, self._views.peek)

    def pieces(self, offset: int, size: int) -> list[Buffer]:
        """What is in a range, as far as the file goes: views of cached memory, one after the other.

        Raises MissingBlob, DamagedBlob and StorageError.
        """
        return self._pieces(offset, size, self._views.view) or []

    def read(self, offset: int, size: int) -> Buffer:
        """As `pieces`, in one."""
        return joined(self.pieces(offset, size))

    def whole(self) -> Buffer | None:
        """All of a file of one blob, if it is at hand; None for any other."""
        if len(self._ids) != ID_SIZE or self._ends[0] - self._starts[0] != self.size:
            return None
        return self._blob(0, self._views.peek)

    def begin(self) -> None:
        """Begin to read the first of it, for somebody who is about to."""
        if self._ids:
            self._views.prefetch([self._ids[:ID_SIZE]])

    def advance(self, offset: int, size: int) -> None:
        """Take notice of a read: who goes on where the last one ended has what comes next opened in advance.

        What lies behind is let go, as whoever has read it keeps it as long as it is of use. For one reader; what
        another does at the same time costs speed at most.
        """
        expected, self._next = self._next, offset + size
        count = len(self._starts)
        if count < 2:
            return
        if offset != expected:
            self._window = self._begun = 0
            self._done = bisect_right(self._ends, offset)
            return
        self._release(offset - _BEHIND)
        at = bisect_right(self._starts, self._next)
        if at == count or at + self._window // 2 < self._begun:
            return
        self._window = min(max(2 * self._window, 1), _MOST_AHEAD)
        first = end = max(at, self._begun)
        while end < min(at + self._window, count) and self._ends[end] - self._next <= _AHEAD:
            end += 1
        if first < end:
            after = self._id(first - 1) if self._window >= _STEADY else None
            self._views.prefetch(map(self._id, range(first, end)), after)
        self._begun = end

    def _release(self, offset: int) -> None:
        while self._done < len(self._ends) and self._ends[self._done] <= offset:
            self._views.release(self._id(self._done))
            self._done += 1

    def _pieces(self, offset: int, size: int, get: Callable[[bytes], memoryview | None]) -> list[Buffer] | None:
        end = min(offset + size, self.size)
        pieces: list[Buffer] = []
        at = bisect_right(self._starts, offset) - 1
        at += at < 0 or self._ends[at] <= offset
        while offset < end:
            start = self._starts[at] if at < len(self._starts) else end
            if offset < start:  # a hole
                pieces.append(bytes(min(start, end) - offset))
                offset = start
                continue
            blob = self._blob(at, get)
            if blob is None:
                return None
            pieces.append(blob[offset - start : end - start])
            offset = self._ends[at]
            at += 1
        return pieces

    def _blob(self, at: int, get: Callable[[bytes], memoryview | None]) -> memoryview | None:
        blob = get(self._id(at))
        if blob is not None and len(blob) != self._ends[at] - self._starts[at]:
            raise DamagedObject(f"its content does not fit its size of {self.size} bytes")
        return blob

    def _id(self, at: int) -> bytes:
        return self._ids[at * ID_SIZE : (at + 1) * ID_SIZE]

    def _layout(self, node: Node) -> tuple[array[int], array[int]]:
        """Where in the file each blob starts and ends."""
        if len(self._ids) == ID_SIZE and not node.holes:
            return array("Q", [0]), array("Q", [node.size])
        sizes = self._views.data_sizes(split_ids(self._ids))
        if not node.holes:
            ends = array("Q", accumulate(max(size, 0) for size in sizes))
            if (ends[-1] if ends else 0) != node.size:
                raise DamagedObject(f"its content has another size than its {node.size} bytes")
            return array("Q", [0, *ends[:-1]]) if ends else array("Q"), ends
        layout = Layout(node.size, unpack_holes(node.size, load_records(self._views, node.holes, node.holes_depth)))
        starts = array("Q", map(layout.take, sizes))
        layout.finish()
        return starts, array("Q", (start + size for start, size in zip(starts, sizes, strict=True)))


def joined(pieces: list[Buffer], memory: bytearray | None = None) -> Buffer:
    """Pieces as one: a view of them where they lie side by side, else a copy, in `memory` if that is large enough."""
    if len(pieces) == 1:
        return pieces[0]
    if pieces and (together := _side_by_side(pieces)) is not None:
        return together
    size = sum(map(len, pieces))
    if memory is None or size > len(memory):
        return b"".join(pieces)
    at = 0
    for piece in pieces:
        memory[at : at + len(piece)] = piece
        at += len(piece)
    return memoryview(memory)[:size]


def _side_by_side(pieces: list[Buffer]) -> memoryview | None:
    """One view of all pieces, if each begins in memory where the one before ends."""
    if not all(isinstance(piece, memoryview) and len(piece) and not piece.readonly for piece in pieces):
        return None
    whole = cast(bytearray, cast(memoryview, pieces[0]).obj)
    start = end = _address(pieces[0])
    for piece in cast("list[memoryview]", pieces):
        if piece.obj is not whole or _address(piece) != end:
            return None
        end += len(piece)
    base = _address(whole)
    return memoryview(whole)[start - base : end - base]


def _address(memory: Buffer) -> int:
    return addressof(c_char.from_buffer(memory))
