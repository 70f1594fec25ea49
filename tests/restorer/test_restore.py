"""A restore into an empty place: every kind of entry with all its metadata."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.errors import DamagedObject, TargetError
from bfrepo.core.ids import BlobKind
from bfrepo.data.records import save_records
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import Counts
from bfrepo.restorer.restorer import restore, restore_node
from tests.restorer.conftest import Restore
from tests.support.trees import MTIME, Recorder, TreeMaker, look


def test_a_tree_comes_back(make: TreeMaker, run: Restore, target: Path) -> None:
    """Directories, files small, large and empty, and symlinks are made with content, mode and time."""
    big = os.urandom(300_000)
    summary, seen = run(
        make.directory("a", make.file("deep", b"deep"), make.directory("empty"), mode=0o750, mtime_ns=MTIME + 1),
        make.file("big", big, mode=0o600),
        make.file("nothing"),
        make.symlink("link", b"a/deep"),
    )

    assert seen.errors == []
    found = {path: entry[1:2] + entry[4:6] for path, entry in look(target).items()}
    assert found == {
        b"/a": (0o750, MTIME + 1, None),
        b"/a/deep": (0o644, MTIME, b"deep"),
        b"/a/empty": (0o755, MTIME, None),
        b"/big": (0o600, MTIME, big),
        b"/nothing": (0o644, MTIME, b""),
        b"/link": (0o777, MTIME, b"a/deep"),
    }
    assert (summary.files, summary.directories, summary.others) == (
        Counts(created=3),
        Counts(created=2),
        Counts(created=1),
    )
    assert (summary.bytes_total, summary.bytes_written, seen.bytes_done) == (300_004, 300_004, 300_004)
    assert seen.totals[-1] == (3, 300_004)


def test_restoring_again_changes_nothing(make: TreeMaker, run: Restore, target: Path) -> None:
    """A second restore finds everything as it should be, and writes not one byte."""
    nodes = (
        make.directory("d", make.file("f", b"1" * 100_000, xattrs=[(b"user.a", b"b")])),
        make.file("g", b"2"),
        make.symlink("l", b"d"),
        make.node("p", "fifo", 0o600),
    )
    run(*nodes)
    before = look(target)
    times = {path: os.lstat(os.fsencode(target) + path).st_ctime_ns for path in before if path != b"/d"}

    summary, seen = run(*nodes)

    assert look(target) == before
    assert {path: os.lstat(os.fsencode(target) + path).st_ctime_ns for path in times} == times
    assert set(seen.outcomes.values()) == {"unchanged"}
    assert (summary.bytes_written, summary.errors) == (0, 0)


def test_names_and_targets_are_bytes(make: TreeMaker, run: Restore, target: Path) -> None:
    """Names that are no UTF-8, hold newlines or are 255 bytes long, and targets of 4,000 bytes, come back as they
    were.
    """
    names = [b"\xff\xfe", b"new\nline", b"-rf *", b"n" * 255, "ü€".encode()]
    run(*(make.file(name, name) for name in names), make.symlink("l", b"t" * 4000))

    assert sorted(os.listdir(bytes(target))) == sorted([*names, b"l"])
    assert os.readlink(target / "l") == "t" * 4000


def test_deep_directories(make: TreeMaker, run: Restore, target: Path) -> None:
    """Far more levels than descriptors are kept, on a path longer than the system takes at once, still come back."""
    node = make.file("leaf", b"leaf")
    for _ in range(300):
        node = make.directory("d" * 100, node)

    summary, seen = run(node, threads=1)

    assert seen.errors == []
    assert summary.directories.created == 300
    here = os.open(target, os.O_RDONLY)
    for _ in range(300):
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    assert os.stat(here).st_mtime_ns == MTIME
    assert os.stat("leaf", dir_fd=here).st_size == 4
    os.close(here)


def test_a_directory_of_many(make: TreeMaker, run: Restore, target: Path) -> None:
    """More entries than a window holds in one directory are all made, and its time is right after the last one."""
    summary, _ = run(make.directory("d", *(make.file(f"{i:05}", b"%d" % i) for i in range(3000))))

    assert summary.files.created == 3000
    assert (target / "d/02999").read_bytes() == b"2999"
    assert os.stat(target / "d").st_mtime_ns == MTIME


def test_each_frame_is_read_once(make: TreeMaker, run: Restore) -> None:
    """Within a window a frame is read a single time, however many files want something of it."""
    data = [os.urandom(40_000) for _ in range(60)]
    run(*(make.file(f"{i:03}", data[i % 60]) for i in range(200)))

    data_frames = {make.blobs.place(make.blobs.save(BlobKind.DATA, each)).frame for each in data}
    assert {frame: make.blobs.frames_read[frame] for frame in data_frames} == dict.fromkeys(data_frames, 1)
    assert len(data_frames) == 3


def test_content_lists_that_moved_out(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file whose list of blobs, or of holes, lives in blobs of its own comes back like any other."""
    content = b"".join(struct.pack("<Q", i) for i in range(4000))
    piece = TreeMaker(make.blobs, blob_size=8).file("f", content)
    piece.content, piece.content_depth = save_records(make.blobs, piece.content, 32)
    holes = [(i * 16, 8) for i in range(2000)]
    holed = bytearray(content)
    for offset, length in holes:
        holed[offset : offset + length] = bytes(length)
    sparse = TreeMaker(make.blobs, blob_size=8).file("s", bytes(holed), holes)
    sparse.holes, sparse.holes_depth = save_records(make.blobs, sparse.holes, 16)

    _, seen = run(piece, sparse)

    assert seen.errors == []
    assert (piece.content_depth, sparse.holes_depth) == (1, 1)
    assert (target / "f").read_bytes() == content
    assert (target / "s").read_bytes() == bytes(holed)


def test_hard_links(make: TreeMaker, run: Restore, target: Path) -> None:
    """Names of one file become names of one file again, across directories, for files, symlinks and fifos."""
    same: dict[str, Any] = {"inode": 7, "device": 1, "links": 3}
    fifo: dict[str, Any] = {"inode": 8, "device": 1, "links": 2}
    other: dict[str, Any] = {"inode": 7, "device": 2, "links": 2}  # the same number on another device is another file
    summary, seen = run(
        make.directory("d", make.file("b", b"shared", **same), make.node("q", "fifo", 0o600, **fifo)),
        make.file("a", b"shared", **same),
        make.file("c", b"shared", **same),
        make.node("p", "fifo", 0o600, **fifo),
        make.file("x", b"other", **other),
    )

    assert seen.errors == []
    inodes = {name: os.lstat(target / name).st_ino for name in ("a", "c", "d/b", "p", "d/q", "x")}
    assert inodes["a"] == inodes["c"] == inodes["d/b"]
    assert inodes["p"] == inodes["d/q"]
    assert len(set(inodes.values())) == 3
    assert os.stat(target / "d").st_mtime_ns == MTIME
    assert (summary.files.created, summary.bytes_written) == (4, 11)


def test_hard_links_stay(make: TreeMaker, run: Restore, target: Path) -> None:
    """Names that share a file already are found to do so."""
    same: dict[str, Any] = {"inode": 7, "device": 1, "links": 2}
    nodes = make.file("a", b"shared", **same), make.file("b", b"shared", **same)
    run(*nodes)
    inode = os.stat(target / "a").st_ino

    _, seen = run(*nodes)

    assert seen.outcomes == {b"/a": "unchanged", b"/b": "unchanged"}
    assert os.stat(target / "a").st_ino == inode


def test_fifos_and_sockets(make: TreeMaker, run: Restore, target: Path) -> None:
    """Fifos and sockets are made with mode and time."""
    run(make.node("p", "fifo", 0o620), make.node("s", "socket", 0o755))

    assert [stat.filemode(os.lstat(target / name).st_mode) for name in ("p", "s")] == ["prw--w----", "srwxr-xr-x"]
    assert os.lstat(target / "s").st_mtime_ns == MTIME


@pytest.mark.root
def test_devices(make: TreeMaker, run: Restore, target: Path) -> None:
    """Devices come back with their numbers."""
    run(
        make.node("b", "blockdev", 0o660, rdev=os.makedev(7, 300)),
        make.node("c", "chardev", 0o666, rdev=os.makedev(1, 3)),
    )

    found = {name: os.lstat(target / name) for name in ("b", "c")}
    assert stat.filemode(found["b"].st_mode) == "brw-rw----"
    assert stat.filemode(found["c"].st_mode) == "crw-rw-rw-"
    assert (found["b"].st_rdev, found["c"].st_rdev) == (os.makedev(7, 300), os.makedev(1, 3))


@pytest.mark.root
def test_owners_and_setuid(make: TreeMaker, run: Restore, target: Path) -> None:
    """Owners of every kind of entry come back, and setuid bits survive that."""
    who: dict[str, Any] = {"uid": 4711, "gid": 4712}
    _, seen = run(
        make.file("small", b"x", mode=0o6755, **who),
        make.file("large", b"x" * 200_000, mode=0o4711, **who),
        make.directory("d", mode=0o3770, **who),
        make.symlink("l", b"nowhere", **who),
        make.node("p", "fifo", 0o600, **who),
    )

    assert seen.errors == []
    assert {entry[2:4] for entry in look(target).values()} == {(4711, 4712)}
    assert {path: entry[1] for path, entry in look(target).items()} == {
        b"/small": 0o6755,
        b"/large": 0o4711,
        b"/d": 0o3770,
        b"/l": 0o777,
        b"/p": 0o600,
    }


def test_times_of_all_ages(make: TreeMaker, run: Restore, target: Path) -> None:
    """Times before 1970, with every nanosecond, and recorded access times come back."""
    run(
        make.file("old", b"1", mtime_ns=-1),
        make.file("seen", b"1", atime_ns=MTIME - 7),
        make.file("large", b"1" * 100_000, mtime_ns=-1_000_000_001, atime_ns=3),
    )

    assert os.stat(target / "old").st_mtime_ns == -1
    assert os.stat(target / "seen").st_atime_ns == MTIME - 7
    assert os.stat(target / "large").st_mtime_ns == -1_000_000_001


def test_holes_take_no_room(make: TreeMaker, run: Restore, target: Path) -> None:
    """Recorded holes and blobs of zeros are holes again, at the front, between and at the end."""
    size = 1 << 20
    content = bytearray(size)
    content[65_536:131_072] = b"x" * 65_536
    holes = [(0, 65_536), (524_288, size - 524_288)]
    _, seen = run(make.file("s", bytes(content), holes), make.file("all", bytes(size), [(0, size)]))

    assert seen.errors == []
    assert (target / "s").read_bytes() == bytes(content)
    assert (target / "all").read_bytes() == bytes(size)
    assert os.stat(target / "s").st_blocks * 512 <= 65_536 + 8192
    assert os.stat(target / "all").st_blocks == 0


def test_without_sparse_zeros_take_room(make: TreeMaker, run: Restore, target: Path) -> None:
    """With sparse off, holes and zeros are allocated."""
    size = 1 << 18
    run(make.file("h", bytes(size), [(0, size)]), make.file("z", bytes(size)), sparse=False)

    assert [os.stat(target / name).st_blocks * 512 >= size for name in ("h", "z")] == [True, True]


def test_a_huge_hole_costs_nothing(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file of many GB of holes is made at once."""
    size = 20 << 30
    end = make.blobs.save(BlobKind.DATA, b"end")

    _, seen = run(make.node("huge", "file", size=size, holes=struct.pack("<QQ", 0, size - 3), content=end))

    assert seen.errors == []
    assert os.stat(target / "huge").st_size == size
    with open(target / "huge", "rb") as file:
        file.seek(size - 4)
        assert file.read() == b"\0end"


def test_one_file(make: TreeMaker, target: Path) -> None:
    """A node that is no directory lands in the target under its own name."""
    summary = restore_node(make.blobs, make.file("f", b"one"), RestoreOptions(target=bytes(target)), Recorder())

    assert (target / "f").read_bytes() == b"one"
    assert summary.files == Counts(created=1)


def test_selection(make: TreeMaker, run: Restore, target: Path) -> None:
    """Only what is selected is made, with the directories around it and nothing else."""
    asked = []

    def selection(path: bytes, is_dir: bool) -> tuple[bool, bool]:
        asked.append((path, is_dir))
        return path.endswith(b".c"), is_dir and path != b"/skipped"

    _, seen = run(
        make.directory("a", make.directory("b", make.file("x.c", b"x"), make.file("x.h", b"x")), mode=0o700),
        make.directory("none", make.file("y.h", b"y")),
        make.directory("skipped", make.file("z.c", b"z")),
        selection=selection,
    )

    assert sorted(look(target)) == [b"/a", b"/a/b", b"/a/b/x.c"]
    assert look(target)[b"/a"][1] == 0o700
    assert seen.errors == []
    assert (b"/skipped/z.c", False) not in asked


def test_a_target_that_is_a_file(make: TreeMaker, run: Restore, target: Path) -> None:
    """A target that is no directory is refused by name, with a hint."""
    target.write_text("here already")

    with pytest.raises(TargetError, match="target is not a directory") as caught:
        run(make.file("f", b"x"))

    assert caught.value.hint == "give a directory as --target"
    assert target.read_text() == "here already"


def test_a_target_is_made_with_its_parents(make: TreeMaker, tmp_path: Path) -> None:
    """A target several levels below what exists is made."""
    options = RestoreOptions(target=bytes(tmp_path / "a/b/c"))
    restore(make.blobs, make.tree(make.file("f", b"x")), options, Recorder())

    assert (tmp_path / "a/b/c/f").read_bytes() == b"x"


def test_a_root_that_cannot_be_loaded(make: TreeMaker, target: Path) -> None:
    """Nothing can be restored without the root tree: an error, and no target is made."""
    with pytest.raises(DamagedObject):
        restore(make.blobs, bytes(32), RestoreOptions(target=bytes(target)), Recorder())

    assert not target.exists()


def test_an_existing_socket_is_kept(make: TreeMaker, run: Restore, target: Path) -> None:
    """A special file that is there already is not made again."""
    target.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(target, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/s")
        os.close(here)
        inode = os.lstat(target / "s").st_ino

        _, seen = run(make.node("s", "socket", 0o700))

    assert seen.outcomes == {b"/s": "updated"}
    assert (os.lstat(target / "s").st_ino, os.lstat(target / "s").st_mtime_ns) == (inode, MTIME)
