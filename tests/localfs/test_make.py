"""The kernel that makes files, against what the system says afterwards."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bfrepo.localfs._make import make_files

MTIME, ATIME = 1_600_000_000_123_456_789, 1_500_000_000_987_654_321


@pytest.fixture
def here(tmp_path: Path) -> Iterator[int]:
    """The open directory that files are made in."""
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def file(
    dir_fd: int, name: bytes, content: Any = b"x", mode: int = 0o640, uid: int = -1, gid: int = -1, mtime: int = MTIME
) -> tuple[int, bytes, Any, int, int, int, int, int]:
    """One file to be made."""
    return dir_fd, name, content, mode, uid, gid, ATIME, mtime


def test_files_are_made_complete(here: int, tmp_path: Path) -> None:
    """Each file has its content, mode, owner and times, whatever kind of memory the content came from."""
    big = os.urandom(5_000_000)
    contents = {
        b"empty": b"",
        b"bytes": b"1",
        b"view": memoryview(b"012345")[2:4],
        b"array": bytearray(b"23"),
        b"\xff": big,
    }

    assert make_files([file(here, name, content) for name, content in contents.items()]) == []

    for name, content in contents.items():
        path = os.path.join(bytes(tmp_path), name)
        now = os.stat(path)
        assert Path(os.fsdecode(path)).read_bytes() == bytes(content)
        assert (stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid) == (0o640, os.geteuid(), os.getegid())
    # Reading moved the access time of the others.
    assert make_files([file(here, b"fresh")]) == []
    now = os.stat(tmp_path / "fresh")
    assert (now.st_mtime_ns, now.st_atime_ns) == (MTIME, ATIME)


@pytest.mark.parametrize("mtime", [-1, -(10**9), -(10**9) - 1, 0, 10**9, 1 << 60])
def test_times(here: int, tmp_path: Path, mtime: int) -> None:
    """Times before 1970 are rounded the way the system does."""
    make_files([file(here, b"f", mtime=mtime)])

    os.close(os.open(tmp_path / "reference", os.O_CREAT))
    os.utime(tmp_path / "reference", ns=(ATIME, mtime))
    assert os.stat(tmp_path / "f").st_mtime_ns == os.stat(tmp_path / "reference").st_mtime_ns


def test_modes_are_exact(here: int, tmp_path: Path) -> None:
    """The umask takes nothing away, and setuid and sticky bits are set."""
    modes = [0o000, 0o777, 0o666, 0o4755, 0o2755, 0o1777]

    make_files([file(here, b"%o" % mode, mode=mode) for mode in modes])

    assert [stat.S_IMODE(os.stat(tmp_path / f"{mode:o}").st_mode) for mode in modes] == modes


@pytest.mark.root
def test_owners(here: int, tmp_path: Path) -> None:
    """Owners are changed where they are given, and setuid bits survive it."""
    make_files(
        [
            file(here, b"both", uid=4711, gid=4712, mode=0o6755),
            file(here, b"user", uid=4711),
            file(here, b"group", gid=4712),
        ]
    )

    found = {name: os.stat(tmp_path / name) for name in ("both", "user", "group")}
    assert {name: (now.st_uid, now.st_gid) for name, now in found.items()} == {
        "both": (4711, 4712),
        "user": (4711, 0),
        "group": (0, 4712),
    }
    assert stat.S_IMODE(found["both"].st_mode) == 0o6755


def test_what_exists_is_never_touched(here: int, tmp_path: Path) -> None:
    """Files, symlinks, even dangling ones, and directories in the way are told by index, and the others are made."""
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dir").mkdir()
    names = [b"a", b"file", b"link", b"b", b"dir", b"no/such", b"c"]

    failures = make_files([file(here, name) for name in names])

    assert failures == [(1, errno.EEXIST, 0), (2, errno.EEXIST, 0), (4, errno.EEXIST, 0), (5, errno.ENOENT, 0)]
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c", "dir", "file", "link"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_bad_descriptor(tmp_path: Path) -> None:
    """A descriptor that is no directory is an error of each file."""
    fd = os.open(tmp_path, os.O_PATH)
    os.close(fd)

    assert make_files([file(fd, b"a"), file(fd, b"b")]) == [(0, errno.EBADF, 0), (1, errno.EBADF, 0)]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (("x", b"n", b"", 0, -1, -1, 0, 0), TypeError),
        ((0, "text", b"", 0, -1, -1, 0, 0), TypeError),
        ((0, b"n", "text", 0, -1, -1, 0, 0), TypeError),
        ((0, b"nul\0", b"", 0, -1, -1, 0, 0), ValueError),
        ((0, b"n", b"", 0, -1, -1, 0, 1 << 63), OverflowError),
        ((0, b"n", b"", 0, -1, -1, 0), TypeError),
        ([0, b"n", b"", 0, -1, -1, 0, 0], TypeError),
    ],
)
def test_wrong_arguments(here: int, tmp_path: Path, bad: Any, error: type[Exception]) -> None:
    """Arguments that make no sense raise before any file is made, and give back the buffers that were taken."""
    content = bytearray(b"x")

    with pytest.raises(error):
        make_files([file(here, b"good", content), bad])

    content.extend(b"a buffer in use could not be resized")
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    """A file that does not fit is removed again; those that fit are there."""
    place = tmp_path / "small"
    place.mkdir()
    os.system(f"mount -t tmpfs -o size=256k tmpfs {place}")  # noqa: S605
    fd = os.open(place, os.O_RDONLY)
    try:
        failures = make_files([file(fd, b"a", b"1" * 200_000), file(fd, b"b", b"2" * 200_000), file(fd, b"c")])
        names = sorted(os.listdir(place))
    finally:
        os.close(fd)
        os.system(f"umount {place}")  # noqa: S605

    assert (failures, names) == ([(1, errno.ENOSPC, 0)], ["a", "c"])
