"""Where files have data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bfrepo.localfs.extents import data_extents

BLOCK = 1 << 16


@pytest.fixture
def make_file(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Makes a file of `size` bytes with one block of data at each of some offsets."""
    fds: list[int] = []

    def make(size: int, *offsets: int) -> int:
        fd = os.open(tmp_path / f"{len(fds)}", os.O_RDWR | os.O_CREAT)
        fds.append(fd)
        os.truncate(fd, size)
        for offset in offsets:
            os.pwrite(fd, b"x" * min(BLOCK, size - offset), offset)
        return fd

    yield make
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize(
    ("size", "offsets", "expected"),
    [
        (0, [], []),
        (10 * BLOCK, [], []),
        (BLOCK, [0], [(0, BLOCK)]),
        (10 * BLOCK, [0], [(0, BLOCK)]),
        (10 * BLOCK, [9 * BLOCK], [(9 * BLOCK, BLOCK)]),
        (10 * BLOCK, [BLOCK, 2 * BLOCK, 5 * BLOCK], [(BLOCK, 2 * BLOCK), (5 * BLOCK, BLOCK)]),
        (10 * BLOCK + 100, [10 * BLOCK], [(10 * BLOCK, 100)]),
    ],
)
def test_extents_are_where_something_was_written(
    make_file: Callable[..., int], size: int, offsets: list[int], expected: list[tuple[int, int]]
) -> None:
    """Holes at the beginning, in the middle and at the end are left out."""
    assert list(data_extents(make_file(size, *offsets), size)) == expected


def test_twenty_gigabytes_of_nothing(make_file: Callable[..., int]) -> None:
    """An enormous hole has no data at all."""
    assert list(data_extents(make_file(20 << 30), 20 << 30)) == []


def test_only_what_lies_below_the_size_counts(make_file: Callable[..., int]) -> None:
    """A file that has grown since is seen as long as it was."""
    fd = make_file(8 * BLOCK, 0, 2 * BLOCK, 6 * BLOCK)

    assert list(data_extents(fd, 2 * BLOCK + 10)) == [(0, BLOCK), (2 * BLOCK, 10)]


def test_a_file_cut_short_meanwhile_has_what_is_left(make_file: Callable[..., int]) -> None:
    """Behind the new end there is no data."""
    fd = make_file(BLOCK, 0)

    assert list(data_extents(fd, 5 * BLOCK)) == [(0, BLOCK)]


def test_behind_the_most_holes_everything_is_data(make_file: Callable[..., int]) -> None:
    """The records of holes are bounded; the rest of the file is read as it is."""
    fd = make_file(10 * BLOCK, BLOCK, 3 * BLOCK, 5 * BLOCK)

    assert list(data_extents(fd, 10 * BLOCK, max_holes=2)) == [
        (BLOCK, BLOCK),
        (3 * BLOCK, BLOCK),
        (4 * BLOCK, 6 * BLOCK),
    ]


def test_a_file_system_that_cannot_tell_has_only_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """EINVAL from the system means that there is no answer."""

    def lseek(fd: int, position: int, how: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", lseek)

    assert list(data_extents(0, 1000)) == [(0, 1000)]


def test_other_errors_are_raised(tmp_path: Path) -> None:
    """A descriptor that is none is an error, not a file of data."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        list(data_extents(9999, 10))
