"""Chunks of one size: for block devices and disk images, where data changes in place and never moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Fixed:
    """A `Chunker` that cuts every `size` bytes, whatever they hold. Any thread may use it."""

    __slots__ = ("_size",)

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a chunk has at least one byte, not {size}")
        self._size = size

    @property
    def name(self) -> str:
        """As in the configuration of a repository."""
        return "fixed"

    @property
    def minimum(self) -> int:
        """The size: only the last chunk is shorter."""
        return self._size

    @property
    def maximum(self) -> int:
        """The size."""
        return self._size

    def cut(self, data: Buffer, start: int, end: int, *, final: bool) -> Sequence[int]:
        """The end offsets of the chunks in `data[start:end]`; see `Chunker.cut`."""
        with memoryview(data) as view:
            length = view.nbytes
        if not 0 <= start <= end <= length:
            raise ValueError(f"range {start}:{end} does not lie within {length} bytes")
        ends = list(range(start + self._size, end + 1, self._size))
        if final and (end - start) % self._size:
            ends.append(end)
        return ends
