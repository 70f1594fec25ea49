"""Opening and looking without being led astray."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bfrepo.localfs._scan import scan, stat_at
from bfrepo.localfs.walk import open_directory, open_waypoint, read_start, stat_path
from tests.support.listing import as_nobody


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """The directory of the test, open to go through."""
    opened = os.open(tmp_path, os.O_PATH)
    yield opened
    os.close(opened)


def test_a_directory_is_opened_for_listing(tmp_path: Path, fd: int) -> None:
    """The descriptor can be scanned."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").touch()
    opened = open_directory(b"d", fd)

    assert [stat.name for stat in scan(opened)[0]] == [b"a"]
    os.close(opened)


@pytest.mark.parametrize("follow", [False, True])
def test_symlinks_are_followed_only_where_that_was_asked_for(tmp_path: Path, fd: int, follow: bool) -> None:
    """A waypoint goes through a symlink on request, a listing never does."""
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")

    with pytest.raises(NotADirectoryError):
        open_directory(b"link", fd)
    if follow:
        opened = open_waypoint(b"link", fd, follow_symlinks=True)
        assert os.fstat(opened).st_ino == os.stat(tmp_path / "d").st_ino
        os.close(opened)
    else:
        with pytest.raises(NotADirectoryError):
            open_waypoint(b"link", fd, follow_symlinks=False)


@pytest.mark.root
def test_a_waypoint_needs_no_permission_to_read(tmp_path: Path, fd: int) -> None:
    """Whoever may only go through a directory can still do that."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").touch()
    (tmp_path / "d").chmod(0o711)
    tmp_path.chmod(0o711)
    with as_nobody():
        opened = open_waypoint(b"d", fd, follow_symlinks=False)
        name = stat_at(opened, b"a").name
        with pytest.raises(PermissionError):
            open_directory(b"d", fd)
    os.close(opened)

    assert name == b"a"


def test_a_look_at_a_path(tmp_path: Path) -> None:
    """Symlinks on the way are followed, a symlink at the end is not."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/end").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("d")

    assert stat_path(os.fsencode(tmp_path / "link/end")).type == "symlink"
    assert stat_path(b"/").type == "dir"


def test_a_look_at_a_path_of_9000_bytes(tmp_path: Path) -> None:
    """A path may be longer than the system takes at once."""
    names = [b"%03d" % number + b"x" * 197 for number in range(45)]
    opened = os.open(tmp_path, os.O_PATH)
    for name in names:
        os.mkdir(name, dir_fd=opened)
        below = os.open(name, os.O_PATH, dir_fd=opened)
        os.close(opened)
        opened = below
    path = b"/".join([os.fsencode(tmp_path), *names])

    assert (len(path) > 9000, stat_path(path).inode) == (True, os.fstat(opened).st_ino)
    with pytest.raises(FileNotFoundError):
        stat_path(path + b"/missing")
    os.close(opened)


def test_a_name_longer_than_any_path(tmp_path: Path) -> None:
    """What the system cannot name is its error."""
    with pytest.raises(OSError, match="name too long") as caught:
        stat_path(b"/" + b"x" * 5000)

    assert caught.value.errno == errno.ENAMETOOLONG


@pytest.mark.parametrize(("limit", "expected"), [(0, b""), (3, b"hel"), (5, b"hello"), (100, b"hello")])
def test_the_start_of_a_file(tmp_path: Path, fd: int, limit: int, expected: bytes) -> None:
    """No more than the limit is read, and less where the file is shorter."""
    (tmp_path / "a").write_bytes(b"hello")

    assert read_start(b"a", fd, limit) == expected


def test_the_start_of_something_else(tmp_path: Path, fd: int) -> None:
    """A symlink is not read through."""
    (tmp_path / "a").write_bytes(b"hello")
    (tmp_path / "link").symlink_to("a")

    with pytest.raises(OSError, match="no longer a regular file"):
        read_start(b"link", fd, 5)
