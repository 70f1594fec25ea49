"""Content of many files read ahead: in order, whole, and within bounds."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.errors import DamagedObject, Interrupted
from bfrepo.exporter import content
from bfrepo.exporter.content import Holes, write_entries
from bfrepo.exporter.entries import Entry, walk_entries
from tests.support.backups import incompressible, never
from tests.support.blobs import MemoryBlobs
from tests.support.trees import TreeMaker

KIB = 1024


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches so small that little content makes many."""
    monkeypatch.setattr(content, "_BATCH", 32 * KIB)
    monkeypatch.setattr(content, "_LARGEST_BATCH", 64 * KIB)


class Collector:
    """An EntryWriter that puts files together."""

    def __init__(self) -> None:
        self.files: dict[bytes, bytearray] = {}
        self.holes: dict[bytes, Holes] = {}
        self.order: list[bytes] = []
        self.skipped: set[bytes] = set()
        self._size = 0

    def wants_content(self, entry: Entry) -> bool:
        return entry.path not in self.skipped

    def begin(self, entry: Entry, holes: Holes) -> None:
        self._pad()
        self._size = entry.node.size
        self.order.append(entry.path)
        self.files[entry.path] = bytearray()
        self.holes[entry.path] = holes

    def data(self, offset: int, content: bytes) -> None:
        file = self.files[self.order[-1]]
        assert offset >= len(file)
        file += bytes(offset - len(file)) + content

    def finish(self) -> dict[bytes, bytes]:
        self._pad()
        return {path: bytes(file) for path, file in self.files.items()}

    def _pad(self) -> None:
        if self.order and self.order[-1] not in self.skipped:
            file = self.files[self.order[-1]]
            file += bytes(self._size - len(file))


def make_files(make: TreeMaker, sizes: list[int]) -> tuple[list[Entry], dict[bytes, bytes]]:
    """Files of these sizes, and what is in them."""
    contents = {b"%03d" % number: incompressible(number, size) for number, size in enumerate(sizes)}
    return [Entry(path, make.file(path, data)) for path, data in contents.items()], contents


@given(st.lists(st.one_of(st.integers(0, 3 * KIB), st.integers(0, 200 * KIB)), max_size=30))
def test_files_of_any_size(sizes: list[int]) -> None:
    """Everything arrives whole and in order, in however many pieces and batches."""
    make = TreeMaker(MemoryBlobs(frame_size=16 * KIB), blob_size=10 * KIB)
    entries, expected = make_files(make, sizes)
    found = Collector()

    write_entries(make.blobs, entries, found, never)

    assert (found.order, found.finish()) == (list(expected), expected)


def test_frames_are_read_once() -> None:
    """Content that lies in order is read frame by frame, although batches end anywhere."""
    make = TreeMaker(MemoryBlobs(frame_size=8 * KIB))
    entries, _ = make_files(make, [700] * 500)

    write_entries(make.blobs, entries, Collector(), never)

    assert set(make.blobs.frames_read.values()) == {1}
    assert len(make.blobs.frames_read) > 40


def test_little_is_read_ahead() -> None:
    """However large the content is, only some batches are in memory."""
    make = TreeMaker(MemoryBlobs(frame_size=8 * KIB), blob_size=8 * KIB)
    entries, _ = make_files(make, [4000 * KIB])
    written, ahead, lock = 0, [0], threading.Lock()

    class Counter(Collector):
        def data(self, offset: int, content: bytes) -> None:
            nonlocal written
            with lock:
                written += 1
                ahead.append(sum(make.blobs.frames_read.values()) - written)

    write_entries(make.blobs, entries, Counter(), never)

    assert written == 500
    assert max(ahead) * 8 * KIB <= 5 * 64 * KIB


def test_holes() -> None:
    """They are told, and no content is given for them; a file may be nothing else."""
    make = TreeMaker(blob_size=4 * KIB)
    data = bytes(10 * KIB) + b"x" * 5000 + bytes(20 * KIB) + b"y" * 100 + bytes(KIB)
    holes = [(0, 10 * KIB), (10 * KIB + 5000, 20 * KIB), (len(data) - KIB, KIB)]
    entries = [Entry(b"f", make.file("f", data, holes)), Entry(b"h", make.file("h", bytes(9), [(0, 9)]))]
    found = Collector()

    write_entries(make.blobs, entries, found, never)

    assert found.finish() == {b"f": data, b"h": bytes(9)}
    assert found.holes == {b"f": [(start, start + length) for start, length in holes], b"h": [(0, 9)]}


def test_what_is_not_wanted_is_not_read() -> None:
    """A writer that needs no content of an entry costs none."""
    make = TreeMaker()
    entries, _ = make_files(make, [5000])
    found = Collector()
    found.skipped.add(b"000")

    write_entries(make.blobs, entries, found, never)

    assert (found.order, make.blobs.frames_read) == ([b"000"], {})


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_the_first_blob_that_cannot_be_had(how: str) -> None:
    """The error names file and blob; what comes before it is given, nothing behind it."""
    make = TreeMaker(MemoryBlobs(frame_size=8 * KIB), blob_size=10 * KIB)
    entries, contents = make_files(make, [20 * KIB] * 20)
    victim = entries[10].node.content[32:]
    getattr(make.blobs, how).add(victim)
    found = Collector()

    with pytest.raises(DamagedObject, match=rf"^/010: blob {victim[:4].hex()}"):
        write_entries(make.blobs, entries, found, never)

    complete = {path: bytes(file) for path, file in found.files.items() if path != b"010"}
    assert complete == {path: data for path, data in contents.items() if path < b"010"}
    assert bytes(found.files.get(b"010", b"")) in (b"", contents[b"010"][: 10 * KIB])


def test_content_that_does_not_fit_its_size() -> None:
    """A node that promises another size than its blobs have is damaged: no byte of it is given."""
    make = TreeMaker()
    node = make.file("f", b"x" * 100)
    for size in (99, 101):
        node.size = size
        found = Collector()
        with pytest.raises(DamagedObject, match="size"):
            write_entries(make.blobs, [Entry(b"f", node)], found, never)
        assert found.order == []


def test_a_stop() -> None:
    """Who asks to stop does not wait for all that is left."""
    make = TreeMaker(blob_size=8 * KIB)
    entries, _ = make_files(make, [100 * KIB] * 50)
    found = Collector()

    with pytest.raises(Interrupted):
        write_entries(make.blobs, entries, found, lambda: len(found.order) > 5)

    assert len(found.order) < 20


def test_the_order_of_a_directory() -> None:
    """First what is no directory, then one subdirectory after the other: the order in which content is stored."""
    make = TreeMaker()
    below = make.directory("b", make.file("x"), make.directory("a", make.file("y")))
    top = make.directory("top", make.file("c"), below, make.file("a"))

    paths = [entry.path for entry in walk_entries(make.blobs, top)]

    assert paths == [b"a", b"c", b"b", b"b/x", b"b/a", b"b/a/y"]


def test_names_of_one_file() -> None:
    """A further name points to the first one, of the same type only."""
    make = TreeMaker()
    linked: dict[str, Any] = {"inode": 5, "device": 1, "links": 3}
    top = make.directory(
        "top",
        make.file("a", **linked),
        make.node("b", "fifo", **linked),
        make.node("c", "fifo", **linked),
        make.file("d"),
    )

    found = {entry.path: entry.link for entry in walk_entries(make.blobs, top)}

    assert found == {b"a": None, b"b": None, b"c": b"b", b"d": None}


def test_a_directory_that_cannot_be_read() -> None:
    """The error names it."""
    make = TreeMaker()
    below = make.directory("below", make.file("x"))
    make.blobs.damaged.add(below.subtree)

    with pytest.raises(DamagedObject, match=r"^/below: blob"):
        list(walk_entries(make.blobs, make.directory("top", below)))
