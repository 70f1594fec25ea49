"""A restore over what exists: the overwrite rules, writing only what differs, and never through a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.restorer.conftest import Restore
from tests.support.trees import MTIME, TreeMaker, look

NEWER, OLDER = MTIME + 10**9, MTIME - 10**9


def put(path: Path, content: bytes | bytearray, mtime_ns: int) -> None:
    """An existing file."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns, mtime_ns))


@pytest.mark.parametrize(
    ("overwrite", "mtime_ns", "content", "outcome", "expected"),
    [
        ("always", MTIME, b"old", "updated", b"new"),
        ("always", NEWER, b"old", "updated", b"new"),
        ("always", MTIME, b"new", "unchanged", b"new"),
        ("if-changed", MTIME, b"old", "unchanged", b"old"),
        ("if-changed", NEWER, b"old", "updated", b"new"),
        ("if-changed", MTIME, b"older", "updated", b"new"),
        ("if-newer", OLDER, b"old", "updated", b"new"),
        ("if-newer", MTIME, b"old", "skipped", b"old"),
        ("if-newer", NEWER, b"old", "skipped", b"old"),
        ("never", OLDER, b"old", "skipped", b"old"),
    ],
)
def test_rules(
    make: TreeMaker,
    run: Restore,
    target: Path,
    overwrite: Any,
    mtime_ns: int,
    content: bytes,
    outcome: str,
    expected: bytes,
) -> None:
    """Each rule touches the existing files it says, and no others; files that do not exist are always made."""
    put(target / "f", content, mtime_ns)

    _, seen = run(make.file("f", b"new"), make.file("g", b"more"), overwrite=overwrite)

    assert seen.outcomes == {b"/f": outcome, b"/g": "created"}
    assert (target / "f").read_bytes() == expected
    assert os.stat(target / "f").st_mtime_ns == (mtime_ns if outcome == "skipped" else MTIME)


def test_only_differing_blocks_are_written(make: TreeMaker, run: Restore, target: Path) -> None:
    """Of a large file in which two blocks differ, two blocks are written, into the same file."""
    wanted = os.urandom(10 * 65_536 + 100)
    held = bytearray(wanted)
    held[3 * 65_536 + 5] ^= 1
    held[10 * 65_536 + 99] ^= 1
    put(target / "f", held, NEWER)
    inode = os.stat(target / "f").st_ino

    summary, seen = run(make.file("f", wanted, mode=0o604))

    assert (target / "f").read_bytes() == wanted
    assert summary.bytes_written == 65_536 + 100
    assert (summary.bytes_total, seen.bytes_done) == (len(wanted), len(wanted))
    now = os.stat(target / "f")
    assert (now.st_ino, now.st_mtime_ns, stat.S_IMODE(now.st_mode)) == (inode, MTIME, 0o604)


@pytest.mark.parametrize("held_size", [0, 1, 65_536, 150_000, 400_000])
def test_a_file_of_another_length(make: TreeMaker, run: Restore, target: Path, held_size: int) -> None:
    """A shorter file is filled up and a longer one is cut; what agrees is not written."""
    wanted = os.urandom(200_000)
    held = (wanted + bytes(200_000))[:held_size]
    put(target / "f", held, NEWER)

    summary, _ = run(make.file("f", wanted))

    assert (target / "f").read_bytes() == wanted
    agreeing = min(held_size, 200_000) // 65_536 * 65_536 if held_size < 200_000 else 200_000
    assert summary.bytes_written == 200_000 - agreeing


def test_data_in_a_hole_is_zeroed(make: TreeMaker, run: Restore, target: Path) -> None:
    """What exists where the snapshot has a hole becomes zeros, and only what was not zero is written."""
    size = 8 * 65_536
    wanted = bytearray(os.urandom(size))
    holes = [(65_536, 3 * 65_536), (6 * 65_536, 2 * 65_536)]
    for offset, length in holes:
        wanted[offset : offset + length] = bytes(length)
    held = bytearray(wanted)
    held[2 * 65_536 + 9] = 1
    held[size - 1] = 1
    put(target / "f", held, NEWER)

    summary, _ = run(make.file("f", bytes(wanted), holes))

    assert (target / "f").read_bytes() == bytes(wanted)
    assert summary.bytes_written == 2 * 65_536


def test_metadata_is_mended_without_content(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file with the right size and time gets its mode and xattrs back, and no byte is written."""
    put(target / "f", b"same", MTIME)
    (target / "f").chmod(0o600)
    os.setxattr(target / "f", "user.wrong", b"1")

    summary, seen = run(make.file("f", b"same", mode=0o640, xattrs=[(b"user.right", b"2")]))

    entry = look(target)[b"/f"]
    assert (entry[1], entry[6]) == (0o640, {"user.right": b"2"})
    assert (summary.bytes_written, seen.outcomes, seen.errors) == (0, {b"/f": "updated"}, [])


def test_xattrs_off_leaves_them(make: TreeMaker, run: Restore, target: Path) -> None:
    """With xattrs off, none is set and none is taken away."""
    put(target / "f", b"same", MTIME)
    (target / "f").chmod(0o644)
    os.setxattr(target / "f", "user.kept", b"1")

    _, seen = run(
        make.file("f", b"same", xattrs=[(b"user.x", b"2")]), make.file("g", xattrs=[(b"user.x", b"2")]), xattrs=False
    )

    assert seen.outcomes == {b"/f": "unchanged", b"/g": "created"}
    assert (os.listxattr(target / "f"), os.listxattr(target / "g")) == (["user.kept"], [])


@pytest.mark.parametrize("overwrite", ["always", "if-changed"])
@pytest.mark.parametrize("mtime_ns", [MTIME, NEWER])
def test_a_linked_file_is_not_written_through(
    make: TreeMaker, run: Restore, target: Path, tmp_path: Path, overwrite: Any, mtime_ns: int
) -> None:
    """An existing file that has another name somewhere else is replaced: the other name keeps everything it had."""
    put(tmp_path / "elsewhere", b"old", mtime_ns)
    (tmp_path / "elsewhere").chmod(0o600)
    target.mkdir()
    (target / "f").hardlink_to(tmp_path / "elsewhere")

    _, seen = run(make.file("f", b"new", links=2, inode=1, device=1), overwrite=overwrite)

    now = os.stat(tmp_path / "elsewhere")
    assert ((tmp_path / "elsewhere").read_bytes(), stat.S_IMODE(now.st_mode), now.st_mtime_ns) == (
        b"old",
        0o600,
        mtime_ns,
    )
    assert now.st_nlink == 1
    assert (target / "f").read_bytes() == b"new"
    assert seen.errors == []


def test_links_that_the_snapshot_does_not_have_are_broken(make: TreeMaker, run: Restore, target: Path) -> None:
    """Two existing names of one file that are two files in the snapshot become two, even when size and time agree."""
    put(target / "a", b"same", MTIME)
    (target / "b").hardlink_to(target / "a")
    (target / "a").chmod(0o644)

    run(make.file("a", b"same"), make.file("b", b"same"))

    assert [os.stat(target / name).st_nlink for name in ("a", "b")] == [1, 1]


def test_crossed_links_are_set_right(make: TreeMaker, run: Restore, target: Path) -> None:
    """Four names that are one file in the target and two pairs in the snapshot become two pairs."""
    put(target / "a", b"same", MTIME)
    (target / "a").chmod(0o644)
    for name in "bcd":
        (target / name).hardlink_to(target / "a")
    pairs = {"a": 1, "b": 1, "c": 2, "d": 2}

    run(*(make.file(name, b"same", inode=inode, device=1, links=2) for name, inode in pairs.items()))

    inodes = {name: os.stat(target / name).st_ino for name in pairs}
    assert inodes["a"] == inodes["b"] != inodes["c"] == inodes["d"]
    assert {name: (target / name).read_bytes() for name in pairs} == dict.fromkeys(pairs, b"same")


def test_a_link_is_never_made_to_a_file_that_was_left_alone(make: TreeMaker, run: Restore, target: Path) -> None:
    """With `never`, a name whose other name exists with other content gets the snapshot's content, not a link."""
    put(target / "a", b"mine", NEWER)
    same: dict[str, Any] = {"inode": 7, "device": 1, "links": 2}

    run(make.file("a", b"saved", **same), make.file("b", b"saved", **same), overwrite="never")

    assert ((target / "a").read_bytes(), (target / "b").read_bytes()) == (b"mine", b"saved")


def test_anything_but_a_directory_gives_way(make: TreeMaker, run: Restore, target: Path, tmp_path: Path) -> None:
    """Symlinks, fifos and files in the way are replaced, not followed, opened or kept."""
    (tmp_path / "outside").mkdir()
    put(tmp_path / "precious", b"precious", MTIME)
    target.mkdir()
    (target / "a").symlink_to(tmp_path / "precious")
    os.mkfifo(target / "b")
    (target / "c").symlink_to(tmp_path / "outside")
    put(target / "d", b"file", MTIME)
    put(target / "e", b"file", MTIME)
    (target / "f").mkdir()

    _, seen = run(
        make.file("a", b"precious"),
        make.file("b", b"large" * 50_000),
        make.directory("c", make.file("inside", b"1")),
        make.symlink("d", b"there"),
        make.node("e", "fifo", 0o600),
        make.file("f", b"an empty directory gives way"),
    )

    assert seen.errors == []
    assert {path: entry[5] for path, entry in look(target).items()} == {
        b"/a": b"precious",
        b"/b": b"large" * 50_000,
        b"/c": None,
        b"/c/inside": b"1",
        b"/d": b"there",
        b"/e": None,
        b"/f": b"an empty directory gives way",
    }
    assert os.listdir(tmp_path / "outside") == []
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_full_directory_does_not_give_way(make: TreeMaker, run: Restore, target: Path) -> None:
    """A directory with something in it is not removed for a file: that item fails, the others do not."""
    target.mkdir()
    put(target / "f/kept", b"kept", MTIME)

    summary, seen = run(make.file("f", b"file"), make.symlink("g", b"x"))

    assert seen.errors == [(b"/f", "Directory not empty")]
    assert (summary.errors, (target / "f/kept").read_bytes(), os.readlink(target / "g")) == (1, b"kept", "x")


def test_a_symlink_is_changed(make: TreeMaker, run: Restore, target: Path) -> None:
    """A symlink that points elsewhere is made anew; one that points right gets its time."""
    target.mkdir()
    (target / "a").symlink_to("elsewhere")
    (target / "b").symlink_to("right")

    run(make.symlink("a", b"right"), make.symlink("b", b"right"))

    assert [os.readlink(target / name) for name in ("a", "b")] == ["right", "right"]
    assert [os.lstat(target / name).st_mtime_ns for name in ("a", "b")] == [MTIME, MTIME]


def test_a_running_program_is_replaced(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file that cannot be written to because it is being executed is replaced by a new one."""
    target.mkdir()
    program = target / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    child = os.posix_spawn(program, ["sleep", "60"], {})
    try:
        _, seen = run(make.file("sleep", b"#!/bin/sh\n", mode=0o755))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)

    assert seen.errors == []
    assert program.read_bytes() == b"#!/bin/sh\n"


def test_new_content_is_not_shown_by_an_old_permission(make: TreeMaker, run: Restore, target: Path) -> None:
    """Before the first byte goes into an existing file, it loses the permissions that the snapshot does not give."""
    put(target / "f", b"public" * 50_000, NEWER)
    (target / "f").chmod(0o666)
    seen_modes = []
    make_frame = make.blobs.before_frame

    def before_frame(frame: int) -> None:
        make_frame(frame)
        seen_modes.append(stat.S_IMODE(os.stat(target / "f").st_mode))

    make.blobs.before_frame = before_frame
    parts = [os.urandom(65_536) for _ in range(40)]
    run(make.file("f", b"".join(parts), mode=0o600), threads=1)

    assert seen_modes[1:] == [0o600] * (len(seen_modes) - 1)
    assert len(seen_modes) > 1


def test_directories_get_their_metadata_back(make: TreeMaker, run: Restore, target: Path) -> None:
    """An existing directory is restored like everything else, unless nothing that exists may be touched."""
    (target / "d").mkdir(parents=True)
    (target / "d").chmod(0o777)
    node = make.directory("d", make.file("f", b"x"), mode=0o750)

    _, never = run(node, overwrite="never")
    assert stat.S_IMODE(os.stat(target / "d").st_mode) == 0o777

    _, seen = run(node)
    now = os.stat(target / "d")
    assert (stat.S_IMODE(now.st_mode), now.st_mtime_ns) == (0o750, MTIME)
    assert (never.outcomes, seen.outcomes[b"/d"]) == ({b"/d/f": "created"}, "updated")
