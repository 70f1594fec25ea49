"""Where a file has data and where it has holes, from the file system itself, so that holes are never read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

MAX_HOLES = 1_000_000
"""Holes that are looked for in one file: their records take 16 bytes each. What follows the last counts as data."""


def data_extents(fd: int, size: int, *, max_holes: int = MAX_HOLES) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data of an open file below `size` bytes, in order and without overlap.

    A file system that cannot tell has only data. Moves the position of the descriptor. Raises OSError.
    """
    position = 0
    for _ in range(max_holes):
        start = _next_data(fd, position, size)
        if start >= size:
            return
        end = _next_hole(fd, start, size)
        yield start, end - start
        position = end
    if position < size:
        yield position, size - position


def _next_data(fd: int, position: int, size: int) -> int:
    """The first byte of data from `position` on; `size` where nothing but a hole follows."""
    if position >= size:
        return size
    try:
        return os.lseek(fd, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno in (errno.EINVAL, errno.ENOTSUP):
            return position
        raise


def _next_hole(fd: int, start: int, size: int) -> int:
    """Where the data that begins at `start` ends, at most `size`."""
    try:
        return min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        # ENXIO: cut short a moment ago. Reading finds the new end.
        if error.errno in (errno.ENXIO, errno.EINVAL, errno.ENOTSUP):
            return size
        raise
