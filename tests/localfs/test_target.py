"""Directories below a target: reached without symlinks, with few descriptors, and bounded."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from bfrepo.core.errors import TargetError
from bfrepo.localfs.target import MAX_DEPTH, MAX_PATH, Directories, Directory, open_target


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    """The open target."""
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def root() -> Directory:
    """The target."""
    return Directory(None, b"", made=False)


def chain(root: Directory, names: str) -> list[Directory]:
    """Directories inside each other."""
    found = [root]
    for name in names:
        found.append(Directory(found[-1], name.encode(), made=False))
    return found[1:]


def identity(fd: int) -> int:
    """Which directory a descriptor is of."""
    return os.fstat(fd).st_ino


def test_every_directory_is_found_again(tmp_path: Path, root_fd: int, root: Directory) -> None:
    """With room for few descriptors, any directory opens as itself, in any order, and all are closed in the end."""
    names = "abcdefghij"
    (tmp_path / "/".join(names)).mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    directories = Directories(root_fd, capacity=3)
    each = chain(root, names)

    for index in [0, 9, 4, 9, 0, 1, 8, 8, 2]:
        expected = os.stat(tmp_path / "/".join(names[: index + 1])).st_ino
        assert identity(directories.open(each[index])) == expected
        assert len(os.listdir("/proc/self/fd")) - before <= 4
    assert directories.open(root) == root_fd
    directories.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_what_waits_is_done_before_a_descriptor_closes(tmp_path: Path, root_fd: int, root: Directory) -> None:
    """`before_close` runs while all descriptors that were handed out since the last time are still good."""
    for name in "abcdefgh":
        (tmp_path / name).mkdir()
    handed: dict[str, int] = {}
    told = []

    def before_close() -> None:
        told.append(list(handed))
        assert {name: identity(fd) for name, fd in handed.items()} == {
            name: os.stat(tmp_path / name).st_ino for name in handed
        }
        handed.clear()

    directories = Directories(root_fd, capacity=4, before_close=before_close)
    for name in "abcdefgh":
        handed[name] = directories.open(Directory(root, name.encode(), made=False))
    directories.close()

    assert told == [["a", "b", "c", "d"], ["e", "f", "g"]]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_no_component_may_be_a_symlink(tmp_path: Path, root_fd: int, root: Directory, position: int) -> None:
    """A symlink anywhere on the way, even one that leads to the right place, is refused."""
    (tmp_path / "real/b/c").mkdir(parents=True)
    (tmp_path / "real/b/real").mkdir()
    (tmp_path / "real/x").symlink_to("b")
    (tmp_path / "a").symlink_to("real")
    (tmp_path / "real/b/y").symlink_to("c")
    names = [["a", "b", "c"], ["real", "x", "c"], ["real", "b", "y"]][position]
    directory = root
    for name in names:
        directory = Directory(directory, name.encode(), made=False)
    directories = Directories(root_fd)

    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        directories.open(directory)
    directories.close()


def test_made_directories_are_private_and_bare(tmp_path: Path, root_fd: int, root: Directory) -> None:
    """A directory is made for its owner alone, and rid of the ACL that its parent hands down."""
    entries = [(1, 7, 0xFFFFFFFF), (2, 7, 4711), (4, 5, 0xFFFFFFFF), (0x10, 7, 0xFFFFFFFF), (0x20, 5, 0xFFFFFFFF)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(tmp_path, "system.posix_acl_default", acl)
    directories = Directories(root_fd)
    directories.learn_acl(root)
    directory = Directory(root, b"d", made=True)

    directories.make(directory)
    directories.close()

    assert root.inherits_acl
    assert os.stat(tmp_path / "d").st_mode & 0o7777 == 0o700
    assert os.listxattr(tmp_path / "d") == []


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0"])
def test_names(root: Directory, name: bytes) -> None:
    """A name that is no single component is refused."""
    with pytest.raises(TargetError, match="no name for a directory"):
        Directory(root, name, made=True)


def test_depth_and_length_are_bounded(root: Directory) -> None:
    """Directories go so deep, and paths grow so long, and no further."""
    deep = root
    for _ in range(MAX_DEPTH):
        deep = Directory(deep, b"d", made=True)
    with pytest.raises(TargetError, match="directories deep"):
        Directory(deep, b"d", made=True)

    long = root
    for _ in range(MAX_PATH // 256):
        long = Directory(long, b"n" * 255, made=True)
    with pytest.raises(TargetError, match="a path longer than"):
        Directory(long, b"n", made=True)


def test_open_target(tmp_path: Path) -> None:
    """An existing target is opened, a missing one made or, when nothing may be made, only told about."""
    missing = bytes(tmp_path / "a/b")
    assert open_target(missing, make=False) == (-1, True)
    assert os.listdir(tmp_path) == []

    fd, made = open_target(missing, make=True)
    os.close(fd)
    assert made
    fd, made = open_target(missing, make=True)
    os.close(fd)
    assert not made


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("file", "file is not a directory"),
        ("file/x", "file/x is not a directory"),
        ("dangling", "cannot use"),
        ("nul\0", "cannot use"),
    ],
)
def test_targets_that_cannot_be(tmp_path: Path, path: str, message: str) -> None:
    """A file, a place below a file, a dangling symlink and a path that is none are refused by name."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nowhere")

    with pytest.raises(TargetError, match=message):
        open_target(os.fsencode(f"{tmp_path}/{path}"), make=True)
