"""Reading every tree below many roots, frame by frame."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from bfrepo.core.errors import Interrupted, MissingBlob
from bfrepo.core.ids import BlobKind
from bfrepo.data.forest import Tree, read_forest
from tests.support.backups import never
from tests.support.blobs import MemoryBlobs
from tests.support.trees import TreeMaker


def deep(make: TreeMaker, name: str, depth: int) -> bytes:
    """The root of a tree that is `depth` directories deep, with a file in each."""
    node = make.directory("0", make.file(f"{name}-0"))
    for level in range(1, depth):
        node = make.directory(str(level), node, make.file(f"{name}-{level}"))
    return make.tree(node)


def read(blobs: MemoryBlobs, *roots: bytes) -> dict[bytes, Tree]:
    """All trees by ID; none may come twice."""
    found = list(read_forest(blobs, roots, never))
    assert max(Counter(tree.id for tree in found).values(), default=1) == 1
    return {tree.id: tree for tree in found}


@pytest.mark.parametrize("frame_size", [1, 300, 1 << 20])
def test_every_tree_comes_once(frame_size: int) -> None:
    """Trees that roots share, and directories that are equal, are read once, however they lie in frames."""
    make = TreeMaker(MemoryBlobs(frame_size))
    shared = make.directory("shared", make.directory("inner", make.file("a")))
    roots = [make.tree(shared, make.directory("twin", make.file("a")), make.file(f"{number}")) for number in range(20)]
    roots.append(deep(make, "deep", 12))

    found = read(make.blobs, *roots, roots[0])

    assert set(roots) <= set(found)
    assert sum(tree.nodes[0].name == b"a" for tree in found.values()) == 1
    assert len(found) == 20 + 1 + 1 + 13


def test_a_frame_is_read_about_once() -> None:
    """Directories are stored behind what is in them, so the last frame is taken first and each is met once."""
    make = TreeMaker(MemoryBlobs(2000))
    root = deep(make, "x", 200)

    read(make.blobs, root)

    assert len(make.blobs.frames_read) > 10
    assert set(make.blobs.frames_read.values()) == {1}


def test_parts_are_trees() -> None:
    """A directory so large that it is kept in parts names them, and they come with its nodes."""
    make = TreeMaker()
    root = make.tree(*(make.file(f"{number:05}") for number in range(5000)))

    found = read(make.blobs, root)

    assert not found[root].nodes
    assert [each for _, each in found[root].below()] == found[root].part_ids
    assert sum(len(found[part].nodes) for part in found[root].part_ids) == 5000


def test_what_cannot_be_read_comes_with_its_error() -> None:
    """A missing or damaged tree, or one that makes no sense, does not keep the others from coming."""
    make = TreeMaker(MemoryBlobs(1))
    nodes = [make.directory(name, make.file(f"in {name}")) for name in ("damaged", "missing", "whole")]
    nonsense = make.node("nonsense", "dir", subtree=make.blobs.save(BlobKind.TREE, b"no tree"))
    root, lost_root = make.tree(nonsense, *nodes), make.tree(make.file("lost"))
    make.blobs.damaged.add(nodes[0].subtree)
    make.blobs.missing |= {nodes[1].subtree, lost_root}

    found = read(make.blobs, root, lost_root)

    assert {tree_id for tree_id, tree in found.items() if tree.error is None} == {root, nodes[2].subtree}
    assert isinstance(found[lost_root].error, MissingBlob)
    assert len(found) == 6


def test_a_hostile_name_is_an_error() -> None:
    """A name that could leave its directory makes the tree damaged: nobody prints a path made of it."""
    make = TreeMaker()
    root = make.tree(make.file(b"../../etc/passwd"))

    assert read(make.blobs, root)[root].error is not None


def test_it_can_be_stopped() -> None:
    """Whoever presses Ctrl-C waits for the frames that are being read, not for all."""
    make = TreeMaker(MemoryBlobs(1))
    root = deep(make, "x", 50)

    with pytest.raises(Interrupted):
        list(read_forest(make.blobs, [root], lambda: True))
    assert len(make.blobs.frames_read) < 10


def test_nobody_waits_for_the_rest() -> None:
    """Who takes no more trees ends the threads."""
    make = TreeMaker(MemoryBlobs(1))
    trees = read_forest(make.blobs, [deep(make, "x", 50)], never)
    next(trees)

    trees.close()  # type: ignore[attr-defined]

    assert not [each for each in threading.enumerate() if each.name.startswith("trees")]
