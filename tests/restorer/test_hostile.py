"""A hostile repository, or a hostile target: nothing is ever written outside the target, and no lie costs memory or
correctness.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node
from bfrepo.localfs.target import MAX_DEPTH
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.restorer import restore, restore_node
from tests.restorer.conftest import Restore
from tests.support.trees import Recorder, TreeMaker, look


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc/x", b"../x", b"a\0b"])
@pytest.mark.parametrize("kind", ["file", "dir", "symlink"])
def test_names_that_leave_their_directory(make: TreeMaker, target: Path, name: bytes, kind: str) -> None:
    """A node with an unsafe name is refused even when it did not come through a tree that was checked."""
    node = make.node(name, kind, target=b"x", subtree=make.tree() if kind == "dir" else b"")
    seen = Recorder()

    summary = restore_node(make.blobs, node, RestoreOptions(target=bytes(target)), seen)

    assert seen.errors == [(b"/" + name, "its name is not allowed")]
    assert summary.errors == 1
    assert look(target.parent) == {b"/target": look(target.parent)[b"/target"]}


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/b"])
def test_trees_with_such_names(make: TreeMaker, run: Restore, target: Path, name: bytes) -> None:
    """A tree that holds such a name is not restored at all; what is beside it is."""
    raw = msgspec.msgpack.encode([1, [Node(name=name)], b""])
    bad = make.directory("bad", subtree=make.blobs.save(BlobKind.TREE, raw))

    _, seen = run(bad, make.file("good", b"1"))

    assert [path for path, _ in seen.errors] == [b"/bad"]
    assert sorted(look(target.parent)) == [b"/target", b"/target/bad", b"/target/good"]


def test_no_path_through_a_restored_symlink(make: TreeMaker, run: Restore, target: Path, tmp_path: Path) -> None:
    """A tree with one name twice, first as a symlink to the outside, then as a directory, writes nothing outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    nodes = [make.symlink("a", bytes(outside)), make.directory("a", make.file("f", b"evil"))]
    raw = make.blobs.save(BlobKind.TREE, msgspec.msgpack.encode([1, nodes, b""]))

    run(make.directory("d", subtree=raw))

    assert os.listdir(outside) == []


def test_no_path_through_an_existing_symlink(make: TreeMaker, run: Restore, target: Path, tmp_path: Path) -> None:
    """A symlink in the target where the snapshot has a directory is replaced, with every overwrite rule that touches
    it.
    """
    outside = tmp_path / "outside"
    outside.mkdir()
    target.mkdir()
    (target / "d").symlink_to(outside)

    _, seen = run(make.directory("d", make.file("f", b"1")), overwrite="never")
    assert seen.outcomes == {b"/d": "skipped"}

    run(make.directory("d", make.file("f", b"1")), delete=True)
    assert (target / "d/f").read_bytes() == b"1"
    assert (os.listdir(outside), (target / "d").is_symlink()) == ([], False)


def test_a_directory_swapped_for_a_symlink_meanwhile(
    make: TreeMaker, run: Restore, target: Path, tmp_path: Path
) -> None:
    """Somebody who replaces a directory by a symlink while a restore writes into it gains nothing."""
    outside = tmp_path / "outside"
    outside.mkdir()

    def swap(frame: int) -> None:
        del frame
        if not (target / "d").is_symlink():
            (target / "d").rename(target / "moved")
            (target / "d").symlink_to(outside)

    make.blobs.before_frame = swap
    _, seen = run(make.directory("d", make.file("f", b"1"), make.file("g", b"2" * 200_000)), threads=1)

    assert os.listdir(outside) == []
    assert (b"/d/f", "Not a directory") in seen.errors or (b"/d/f", "Too many levels of symbolic links") in seen.errors


def test_a_fifo_is_never_opened(make: TreeMaker, run: Restore, target: Path) -> None:
    """A fifo that takes the place of a file while it is restored does not block anything."""
    target.mkdir()
    (target / "f").write_bytes(b"x" * 100)

    def swap(frame: int) -> None:
        del frame
        (target / "f").unlink()
        os.mkfifo(target / "f")

    make.blobs.before_frame = swap
    _, seen = run(make.file("f", b"y" * 100))

    assert seen.errors == []
    assert (target / "f").read_bytes() == b"y" * 100


BLOB = b"b" * 100


@pytest.mark.parametrize(
    ("size", "holes", "blobs", "why"),
    [
        (99, [], 1, "its content has 100 bytes, its size is 99"),
        (101, [], 1, "its content has 100 bytes, its size is 101"),
        (150, [], 2, "its content does not fit"),
        (250, [], 2, "its content ends at 200, its size is 250"),
        (10, [], 0, "its content ends at 0, its size is 10"),
        (0, [], 1, "its content has 100 bytes, its size is 0"),
        (200, [(50, 100)], 1, "its content does not fit"),
        (200, [(0, 100), (50, 50)], 1, "its hole of 50 bytes at 50 overlaps"),
        (200, [(150, 51)], 1, "its hole of 51 bytes at 150"),
        (200, [(100, 0)], 2, "its hole of 0 bytes at 100"),
        (200, [(1 << 63, 1 << 63)], 2, "its hole of 9223372036854775808 bytes"),
        (300, [(0, 100)], 1, "its content ends at 200"),
        ((1 << 63) - 1, [], 1, "its content has 100 bytes"),
    ],
)
def test_sizes_that_do_not_add_up(
    make: TreeMaker, run: Restore, target: Path, size: int, holes: list[tuple[int, int]], blobs: int, why: str
) -> None:
    """A file whose size, holes and content disagree is reported and not made; an existing one is not touched."""
    content = make.blobs.save(BlobKind.DATA, BLOB) * blobs
    packed = b"".join(struct.pack("<QQ", *hole) for hole in holes)
    target.mkdir()
    (target / "old").write_bytes(b"old")

    _, seen = run(*(make.node(name, "file", size=size, holes=packed, content=content) for name in ("new", "old")))

    assert [path for path, _ in seen.errors] == [b"/new", b"/old"]
    assert seen.errors[0][1].startswith(why)
    assert os.listdir(target) == ["old"]
    assert (target / "old").read_bytes() == b"old"


def test_lists_of_odd_length(make: TreeMaker, run: Restore, target: Path) -> None:
    """Lists of blobs or holes that are cut off are errors of that file."""
    _, seen = run(
        make.node("a", "file", size=1, content=b"x" * 33),
        make.node("b", "file", size=99, holes=b"x" * 17),
        make.node("c", "file", size=1, content=b"x" * 32, content_depth=4),
    )

    assert [path for path, _ in seen.errors] == [b"/a", b"/b", b"/c"]
    assert os.listdir(target) == []


def test_a_size_that_no_file_system_has(make: TreeMaker, run: Restore, target: Path) -> None:
    """A file of 2^63-1 bytes of hole takes neither memory nor time; where it cannot be made, it alone fails."""
    size = (1 << 63) - 1

    summary, seen = run(make.node("f", "file", size=size, holes=struct.pack("<QQ", 0, size)), make.file("g", b"1"))

    assert (target / "g").read_bytes() == b"1"
    assert summary.errors == len(seen.errors) == (0 if (target / "f").exists() else 1)


def test_trees_deeper_than_anything(make: TreeMaker, run: Restore, target: Path) -> None:
    """A chain of directories deeper than the bound ends there with one error; Python's own stack is not used for it."""
    node = make.file("leaf", b"1")
    for _ in range(MAX_DEPTH + 3):
        node = make.directory("d", node)

    summary, seen = run(node, make.file("beside", b"2"))

    assert [len(path) for path, _ in seen.errors] == [2 * (MAX_DEPTH + 1)]
    assert "directories deep" in seen.errors[0][1]
    assert (summary.directories.created, (target / "beside").read_bytes()) == (MAX_DEPTH, b"2")
    os.system(f"rm -rf {target}")  # noqa: S605  (what pytest clears away with takes a stack frame for each level)


def test_a_tree_bomb_is_walked_lazily(make: TreeMaker, target: Path) -> None:
    """Trees that hold another tree ten times, twenty levels deep, cost nothing until somebody has seen enough."""
    tree = make.tree(make.file("f", b"1"))
    for _ in range(20):
        tree = make.tree(*(make.directory(f"{i}", subtree=tree) for i in range(10)))
    seen = Recorder()

    def enough() -> bool:
        return bool(seen.totals)

    with pytest.raises(Exception, match="interrupted"):
        restore(make.blobs, tree, RestoreOptions(target=bytes(target), dry_run=True), seen, cancelled=enough)

    assert len(seen.totals) == 1


def test_hard_links_of_different_kinds(make: TreeMaker, run: Restore, target: Path) -> None:
    """Nodes that claim to be one file but are of two types are never linked."""
    same: dict[str, Any] = {"inode": 7, "device": 1, "links": 9}

    _, seen = run(make.symlink("a", b"/etc/passwd", **same), make.file("b", b"1", **same))

    assert seen.errors == []
    assert (os.readlink(target / "a"), (target / "b").read_bytes()) == ("/etc/passwd", b"1")


def test_metadata_that_no_system_takes(make: TreeMaker, run: Restore, target: Path) -> None:
    """Xattr names, targets, owners and times that the system refuses are reported; the rest of the entry is right."""
    summary, seen = run(
        make.file("a", b"1", xattrs=[(b"user.nul\0", b""), (b"", b"")]),
        make.symlink("b", b"nul\0"),
        make.symlink("c", b""),
        make.file("d", b"1", uid=0xFFFF_FFFF, mode=0o4755),
        make.file("e", b"1" * 100_000, mtime_ns=-(1 << 63)),
        make.node("f", "chardev", rdev=1 << 63),
        make.file("g", b"1", user="no\0body"),
    )

    assert sorted({path for path, _ in seen.errors}) in ([b"/a", b"/b", b"/c"], [b"/a", b"/b", b"/c", b"/f"])
    assert summary.errors == len(seen.errors)
    assert [(target / name).read_bytes()[:1] for name in "adeg"] == [b"1"] * 4
    assert os.stat(target / "d").st_mode & 0o7777 == 0o755
