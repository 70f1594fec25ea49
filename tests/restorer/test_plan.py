"""The plan comes in windows: bounded, in the right order, and nobody can tell from the result."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import DamagedObject
from bfrepo.data.layout import Layout, unpack_holes
from bfrepo.data.tree import load_tree
from bfrepo.localfs.apply import MetadataWriter
from bfrepo.localfs.target import Directories, Directory
from bfrepo.restorer.plan import FIRST_WINDOW, LARGEST_WINDOW, Planner, RestoreOptions
from bfrepo.restorer.report import Report
from bfrepo.restorer.window import Window
from tests.restorer.conftest import Restore
from tests.support.blobs import MemoryBlobs
from tests.support.trees import MTIME, Recorder, TreeMaker


def plan(blobs: MemoryBlobs, tree_id: bytes, check: Callable[[], None] = lambda: None) -> list[Window]:
    """The windows for a tree, into nothing."""
    planner = Planner(
        blobs, RestoreOptions(target=b"/nowhere"), Directories(-1), MetadataWriter(), Report(Recorder()), check
    )
    return list(planner.windows(Directory(None, b"", made=True), load_tree(blobs, tree_id)))


def test_windows_are_bounded_and_grow(make: TreeMaker) -> None:
    """No window holds more than its limit, the first is small, and together they hold every piece once."""
    many = [make.directory(f"{i:03}", *(make.file(f"{j}", b"%d.%d" % (i, j)) for j in range(100))) for i in range(300)]

    windows = plan(make.blobs, make.tree(*many))

    weights = [window.weight for window in windows]
    assert weights[0] <= FIRST_WINDOW + 1
    assert max(weights) <= LARGEST_WINDOW + 1
    assert sum(len(segments) for window in windows for segments in window.frames.values()) == 30_000
    assert sum(weights) == 30_000 + 2 * 300


def test_the_first_window_is_large_far_away(make: TreeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a storage is far away what two windows need of a pack would be asked for twice."""
    many = [make.directory(f"{i:03}", *(make.file(f"{j}", b"%d.%d" % (i, j)) for j in range(100))) for i in range(100)]
    monkeypatch.setattr(MemoryBlobs, "readers", native_threads() + 1)
    assert len(plan(make.blobs, make.tree(*many))) == 1


def test_a_file_may_span_windows(run: Restore, make: TreeMaker, target: Path) -> None:
    """A file of more pieces than a window holds is complete in the end, and what is linked to it and holds it is
    right.
    """
    content = struct.pack("<15000Q", *range(15000))
    same: dict[str, Any] = {"inode": 7, "device": 1, "links": 2}
    tiny = TreeMaker(make.blobs, blob_size=8)
    nodes = make.directory("d", tiny.file("a", content, **same)), make.file("z", content, **same)
    assert len(plan(make.blobs, make.tree(*nodes))) > 2

    _, seen = run(*nodes)

    assert seen.errors == []
    assert (target / "d/a").read_bytes() == content
    assert os.stat(target / "d/a").st_ino == os.stat(target / "z").st_ino
    assert [os.stat(target / name).st_mtime_ns for name in ("d/a", "d")] == [MTIME, MTIME]


def test_more_open_files_than_descriptors(make: TreeMaker, run: Restore, target: Path) -> None:
    """Hundreds of files of which every frame holds a piece are written with few descriptors open at a time."""
    tiny = TreeMaker(make.blobs, blob_size=1)
    letters = [bytes([i]) for i in range(200)]
    blobs = MemoryBlobs(frame_size=20)
    tiny = TreeMaker(blobs, blob_size=1)
    tiny.file("all", b"".join(letters))
    contents = {f"{i:03}": b"".join(letters[i:] + letters[:i]) for i in range(150)}
    most = [0]

    def count(frame: int) -> None:
        del frame
        most[0] = max(most[0], len(os.listdir("/proc/self/fd")))

    blobs.before_frame = count
    before = len(os.listdir("/proc/self/fd"))
    make.blobs = blobs

    _, seen = run(*(tiny.file(name, content) for name, content in contents.items()))

    assert seen.errors == []
    assert {name: (target / name).read_bytes() for name in contents} == contents
    assert most[0] - before < 80


def test_planning_can_be_stopped(make: TreeMaker) -> None:
    """What the check raises ends the planning at the next entry."""
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        plan(make.blobs, make.tree(*(make.file(f"{i}") for i in range(10))), check)

    assert len(asked) == 3


@pytest.mark.parametrize(
    ("size", "holes", "lengths", "offsets"),
    [
        (0, [], [], []),
        (10, [], [10], [0]),
        (10, [], [4, 6], [0, 4]),
        (10, [(0, 10)], [], []),
        (10, [(0, 2), (5, 1)], [3, 4], [2, 6]),
        (10, [(0, 2), (2, 2), (8, 2)], [1, 3], [4, 5]),
    ],
)
def test_layout(size: int, holes: list[tuple[int, int]], lengths: list[int], offsets: list[int]) -> None:
    """Blobs fill what the holes leave, in order."""
    packed = b"".join(struct.pack("<QQ", *hole) for hole in holes)
    layout = Layout(size, unpack_holes(size, packed))

    assert [layout.take(length) for length in lengths] == offsets
    layout.finish()


@pytest.mark.parametrize("lengths", [[5], [4, 3], [4, 2, 1], [0], [4], []])
def test_layout_refuses(lengths: list[int]) -> None:
    """Blobs that straddle a hole, are empty, go beyond the end or do not reach it are refused."""
    layout: Any = Layout(8, [(4, 6)])

    def fill() -> None:
        for length in lengths:
            layout.take(length)
        layout.finish()

    with pytest.raises(DamagedObject, match="its content"):
        fill()
