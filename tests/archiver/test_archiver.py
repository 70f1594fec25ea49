"""From a source to a tree: what is read, what is taken over, what is reported, and that all of it comes back."""

from __future__ import annotations

import errno
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.archiver.archiver import Archiver, ArchiveStats
from bfrepo.archiver.filesaver import FileSaver
from bfrepo.archiver.parent import ParentPolicy, ParentTree
from bfrepo.chunker.base import ChunkerParams, make_chunker
from bfrepo.core.errors import DamagedBlob, Interrupted
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Change, Quiet
from bfrepo.core.units import KIB, MIB
from bfrepo.data.node import Node
from bfrepo.data.references import content_ids, list_blobs
from bfrepo.repository.loader import Loader
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import Saver
from tests.support.backups import incompressible
from tests.support.repositories import SMALL_CHUNKS, make_repository, saver_options
from tests.support.restoring import expected, restored, restored_nodes
from tests.support.sources import DictSource, Item, folder, sparse, written

Tree = Mapping[str, Item | bytes]

LATER = 1_800_000_000_000_000_000
"""A time (ns) after all that happens here: a parent that began then has no racy files."""


class Notes(Quiet):
    """Remembers everything that is reported."""

    wants_items = True

    def __init__(self) -> None:
        super().__init__()
        self.items: list[tuple[bytes, Change, int]] = []
        self.warnings: list[tuple[bytes, str]] = []
        self.problems: list[tuple[bytes, str]] = []

    def item(self, path: bytes, change: Change, size: int) -> None:
        self.items.append((path, change, size))

    def warn(self, path: bytes, message: str) -> None:
        self.warnings.append((path, message))

    def problem(self, path: bytes, message: str) -> None:
        super().problem(path, message)
        self.problems.append((path, message))


@dataclass
class Archived:
    """What came of archiving a tree."""

    repository: Repository
    tree: bytes
    stats: ArchiveStats
    saver: Saver
    source: DictSource
    notes: Notes = field(default_factory=Notes)

    @property
    def opened(self) -> list[str]:
        """The files that were read."""
        return sorted(path.decode() for path in self.source.opened)

    def contents(self) -> dict[str, bytes]:
        """What comes back."""
        return restored(self.repository.loader, self.tree)

    def nodes(self) -> dict[str, Node]:
        """The nodes that come back."""
        return restored_nodes(self.repository.loader, self.tree)


def archive(
    tree: Tree | DictSource,
    *,
    before: Archived | None = None,
    repository: Repository | None = None,
    chunker: ChunkerParams = SMALL_CHUNKS,
    readers: int = 1,
    cancelled: Callable[[], bool] = lambda: False,
    **policy: Any,
) -> Archived:
    """Archive a tree, against what was archived before."""
    source = tree if isinstance(tree, DictSource) else DictSource(tree)
    repository = before.repository if before else repository or make_repository(chunker=chunker)
    repository.refresh_index()
    saver = repository.make_saver(saver_options(repository, workers=2))
    notes = Notes()
    parent = ParentTree(repository.loader, saver, ParentPolicy(**{"started_ns": LATER, **policy})) if before else None
    files = FileSaver(saver, make_chunker(chunker, bytes(32)), cancelled)
    archiver = Archiver(saver, files, parent, notes, cancelled, readers=readers)
    try:
        root = archiver.save(source, before.tree if before else b"")
    finally:
        saver.flush()
        saver.close()
    assert source.open_now == 0
    return Archived(repository, root, archiver.stats, saver, source, notes)


TREE: Tree = {
    "a/one": b"one",
    "a/two": incompressible(1, 100_000),
    "a/b/three": b"three",
    "a/b/empty": b"",
    "a/link": Item(type="symlink", target=b"b/three"),
    "a/pipe": Item(type="fifo"),
    "void": folder(),
}


@pytest.mark.parametrize("small", [False, True], ids=["one by one", "many at a time"])
@pytest.mark.parametrize("readers", [1, 4])
def test_everything_comes_back(small: bool, readers: int) -> None:
    """Contents and metadata of every kind of entry come back as they were, however they are read."""
    made = archive(DictSource(TREE, small=small), readers=readers)
    assert made.contents() == expected(TREE)
    stats = made.stats
    assert (stats.files_new, stats.dirs, stats.others, stats.size, stats.errors) == (4, 3, 2, 100_008, 0)
    assert (made.notes.progress.files_done, made.notes.progress.bytes_done) == (4, 100_008)
    assert sorted(made.notes.items) == [
        (b"/a", "changed", 0), (b"/a/b", "changed", 0), (b"/a/b/empty", "new", 0), (b"/a/b/three", "new", 5),
        (b"/a/one", "new", 3), (b"/a/two", "new", 100_000), (b"/void", "changed", 0),
    ]  # fmt: skip


def test_metadata() -> None:
    """Every field that the source gives is in the node."""
    item = Item(
        content=b"x", mode=0o4755, uid=1, gid=2, mtime_ns=-5, ctime_ns=6, inode=7, device=8, links=3,
        xattrs=((b"user.a", b"\x00\xff"),),
    )  # fmt: skip
    device = Item(type="blockdev", rdev=2049, mode=0o660)
    found = archive({"f": item, "dev": device}).nodes()
    content = found["/f"].content
    assert found["/f"] == Node(
        name=b"f", mode=0o4755, uid=1, gid=2, mtime_ns=-5, ctime_ns=6, inode=7, device=8, links=3, size=1,
        xattrs=[(b"user.a", b"\x00\xff")], content=content,
    )  # fmt: skip
    assert (found["/dev"].type, found["/dev"].rdev, found["/dev"].mode) == ("blockdev", 2049, 0o660)


def test_ugly_names() -> None:
    """Names are bytes: whatever the system allows comes back."""
    names = ["\udcff\udcfe", "new\nline", " ", "-rf", "ünï", "a" * 255, "..."]
    tree: dict[str, Item | bytes] = {f"d/{name}": b"x" for name in names}
    assert archive(tree).contents() == expected(tree)


def test_hard_links_are_kept() -> None:
    """Names of one file keep inode, device and link count, by which a restore knows that they are one."""
    linked = Item(content=b"shared", inode=99, device=5, links=2)
    made = archive({"a/one": linked, "b/two": linked})
    nodes = made.nodes()
    assert {(nodes[path].inode, nodes[path].device, nodes[path].links) for path in ("/a/one", "/b/two")} == {(99, 5, 2)}
    assert nodes["/a/one"].content == nodes["/b/two"].content
    assert made.saver.stats.blobs_known == 1


# --- large files, holes


def test_large_file_in_order() -> None:
    """The chunks of a large file are listed in order, though several threads store them."""
    content = incompressible(3, 30 * MIB)
    made = archive({"big": content}, chunker=ChunkerParams())
    node = made.nodes()["/big"]
    ids = content_ids(made.repository.loader, node)
    assert len(ids) > 10
    chunks = [made.repository.loader.load(BlobKind.DATA, each) for each in ids]
    assert b"".join(chunks) == content
    assert all(256 * KIB <= len(chunk) <= 4 * MIB for chunk in chunks[:-1])


def test_cuts_do_not_depend_on_reading() -> None:
    """A file that is changed in one place shares its other chunks with what it was."""
    content = incompressible(4, 20 * MIB)
    first = archive({"big": content}, chunker=ChunkerParams())
    edited = content[: 5 * MIB] + b"inserted" + content[5 * MIB :]
    second = archive(
        {"big": written(edited)}, before=first, chunker=ChunkerParams()
    )  # fmt: skip
    assert second.contents()["/big"] == edited
    assert second.saver.stats.bytes_new < 6 * MIB


def test_fixed_chunks() -> None:
    """With chunks of one size every chunk but the last has it."""
    made = archive({"image": incompressible(5, 100_000)}, chunker=ChunkerParams.fixed(16 * KIB))
    ids = content_ids(made.repository.loader, made.nodes()["/image"])
    sizes = [len(made.repository.loader.load(BlobKind.DATA, each)) for each in ids]
    assert sizes == [16 * KIB] * 6 + [100_000 - 6 * 16 * KIB]


def test_many_chunks() -> None:
    """A file of more chunks than a node should hold keeps their list elsewhere, and comes back."""
    tree = {"image": b"".join(number.to_bytes(4, "big") * 1024 for number in range(600))}
    made = archive(tree, chunker=ChunkerParams.fixed(4 * KIB))
    assert made.nodes()["/image"].content_depth == 1
    assert made.contents() == expected(tree)
    again = archive(tree, before=made, chunker=ChunkerParams.fixed(4 * KIB))
    assert (again.opened, again.tree) == ([], made.tree)


HOLES = [
    sparse(bytes(4096), (0, 4096)),
    sparse(bytes(4096) + b"end", (0, 4096)),
    sparse(b"start" + bytes(4096), (5, 4096)),
    sparse(b"a" * 100 + bytes(1000) + b"b" * 100 + bytes(50) + b"c", (100, 1000), (1200, 50)),
    sparse(bytes(300 * KIB) + incompressible(1, 300 * KIB) + bytes(KIB), (0, 300 * KIB), (600 * KIB, KIB)),
]


@pytest.mark.parametrize("item", HOLES, ids=["all", "front", "end", "between", "large"])
def test_holes(item: Item) -> None:
    """Holes are part of the size, are never read, and no chunk reaches across one."""
    made = archive({"f": item})
    node = made.nodes()["/f"]
    assert made.contents()["/f"] == item.content
    assert node.size == len(item.content)
    assert [node.holes[at : at + 16] for at in range(0, len(node.holes), 16)] == [
        offset.to_bytes(8, "little") + length.to_bytes(8, "little") for offset, length in item.holes
    ]
    data = sum(made.repository.index.table.size(each) for each in content_ids(made.repository.loader, node))
    assert data == len(item.content) - sum(length for _, length in item.holes)


def test_damaged_list_of_chunks() -> None:
    """When the parent's list of chunks cannot be read the file is read again, and the backup goes on."""
    tree = {"image": b"".join(number.to_bytes(4, "big") * 1024 for number in range(600)), "other": b"other"}
    made = archive(tree, chunker=ChunkerParams.fixed(4 * KIB))
    lists = set(list_blobs(made.repository.loader, made.nodes()["/image"]))
    load = Loader.load

    def load_other(self: Loader, kind: BlobKind, blob_id: bytes) -> bytes:
        if blob_id in lists:
            raise DamagedBlob("a list is damaged")
        return load(self, kind, blob_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "load", load_other)
        again = archive(tree, before=made, chunker=ChunkerParams.fixed(4 * KIB))
    assert (again.opened, again.tree) == (["/image"], made.tree)


def test_very_many_holes() -> None:
    """A list of holes that is longer than a node should hold is kept elsewhere."""
    holes = tuple((number * 20, 10) for number in range(1000))
    item = Item(content=(bytes(10) + b"x" * 10) * 1000, holes=holes)
    made = archive({"f": item})
    assert (made.nodes()["/f"].holes_depth, made.contents()["/f"]) == (1, item.content)


# --- against a parent


def test_nothing_changed() -> None:
    """INV-7: against its parent an unchanged tree is not read, and has the same ID."""
    first = archive(TREE)
    second = archive(TREE, before=first)
    assert (second.opened, second.tree, second.saver.stats.blobs_new) == ([], first.tree, 0)
    assert (second.stats.files_unmodified, second.stats.size, second.stats.dirs) == (4, 100_008, 3)
    assert {change for _, change, _ in second.notes.items} == {"unmodified"}


@pytest.mark.parametrize(
    ("changes", "read", "unmodified"),
    [
        ({"a/one": written(b"new")}, ["/a/one"], 3),
        ({"a/new": b"new"}, ["/a/new"], 4),
        ({"a/one": replace(Item(content=b"one"), ctime_ns=1)}, ["/a/one"], 3),
        ({"a/one": Item(content=b"one", inode=12345)}, ["/a/one"], 3),
        ({"a/link": b"a file now"}, ["/a/link"], 4),
        ({"a/two": folder(), "a/two/inside": b"x"}, ["/a/two/inside"], 3),
        ({"a/b": Item(type="symlink", target=b"x"), "a/b/three": None, "a/b/empty": None}, [], 2),
        ({"a/one": None}, [], 3),
    ],
    ids=["content", "new", "ctime", "inode", "symlink to file", "file to directory", "directory to symlink", "removed"],
)
def test_changes(changes: dict[str, Item | bytes | None], read: list[str], unmodified: int) -> None:
    """What changed is read, what did not is taken over; names that are gone are gone."""
    tree = {path: item for path, item in {**TREE, **changes}.items() if item is not None}
    made = archive(tree, before=archive(TREE))
    assert made.contents() == expected(tree)
    assert (made.opened, made.stats.files_unmodified) == (read, unmodified)
    assert archive(tree, repository=made.repository).tree == made.tree


def test_metadata_that_changed_without_content() -> None:
    """With --ignore-ctime a file whose ctime alone differs is not read, but its fresh metadata is stored."""
    chmodded = replace(Item(content=b"one"), ctime_ns=1, mode=0o600)
    made = archive({**TREE, "a/one": chmodded}, before=archive(TREE), ignore_ctime=True)
    assert (made.nodes()["/a/one"].mode, made.contents()) == (0o600, expected(TREE))
    assert (made.stats.files_unmodified, made.stats.files_changed, made.saver.stats.bytes_known) == (4, 0, 0)


def test_renumbered_inodes() -> None:
    """With --ignore-inode a file system that gives new inode numbers each time is not read again."""
    first = archive(TREE)
    moved: dict[str, Item | bytes] = {
        path: replace(item if isinstance(item, Item) else Item(content=item), inode=1_000_000 + number)
        for number, (path, item) in enumerate(TREE.items())
    }
    assert archive(moved, before=first, ignore_inode=True).opened == []
    assert len(archive(moved, before=first).opened) == 4


def test_racy_files_are_read() -> None:
    """A file that changed as the parent began is read again, whatever its times say."""
    when = LATER - 10_000_000
    first = archive({"f": Item(content=b"old", ctime_ns=when, mtime_ns=when)})
    second = archive({"f": Item(content=b"new", ctime_ns=when, mtime_ns=when)}, before=first)
    assert second.contents()["/f"] == b"new"


def test_metadata_of_directories() -> None:
    """A directory whose times changed is stored with its new ones; what is in it is taken over."""
    first = archive(TREE)
    second = archive({**TREE, "a": folder(mtime_ns=5, ctime_ns=5, mode=0o700, inode=1)}, before=first)
    assert (second.opened, second.nodes()["/a"].mode, second.nodes()["/a"].mtime_ns) == ([], 0o700, 5)
    assert second.contents() == expected(TREE)


trees = st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join),
    st.builds(
        lambda seed, size, age: replace(written(incompressible(seed, size), again=age)),
        seed=st.integers(0, 9), size=st.sampled_from([0, 1, 5000, 40_000]), age=st.integers(0, 10_000),
    ),
    max_size=8,
)  # fmt: skip


def without_conflicts(tree: dict[str, Item]) -> dict[str, Item | bytes]:
    """Leave out files whose path another one needs as a directory."""
    return {path: item for path, item in tree.items() if not any(other.startswith(path + "/") for other in tree)}


@settings(max_examples=40)
@given(first=trees, second=trees)
def test_random_trees_and_edits(first: dict[str, Item], second: dict[str, Item]) -> None:
    """Whatever the tree was and became, archived against its parent or alone it is the same, and comes back."""
    before = archive(without_conflicts(first))
    tree = without_conflicts(second)
    made = archive(tree, before=before)
    assert made.contents() == expected(tree)
    assert archive(tree).tree == archive(tree, readers=3).tree
    assert made.tree == archive(tree, repository=make_repository()).tree


# --- files that change, vanish or cannot be read


def test_changed_while_it_was_read() -> None:
    """A file that is written to while it is read is stored as it was found, with a warning."""
    made = archive({"f": Item(content=b"torn", torn=True), "g": b"g"})
    assert (made.notes.warnings, made.stats.warnings) == ([(b"/f", "changed while it was read")], 1)
    assert (made.contents(), made.stats.errors) == ({"/f": b"torn", "/g": b"g"}, 0)


@pytest.mark.parametrize("size", [100, 400_000])
@pytest.mark.parametrize("left", [0, 10])
def test_became_shorter(size: int, left: int) -> None:
    """A file that is shorter than it looked is stored with the length that was read."""
    made = archive({"f": Item(content=b"x" * left, length=size, torn=True)})
    assert (made.contents(), made.nodes()["/f"].size) == ({"/f": b"x" * left}, left)


def test_grew() -> None:
    """Of a file that grows while it is read, as much is stored as it had when it was opened."""
    made = archive({"f": Item(content=b"x" * 1000, length=100, torn=True)})
    assert (made.contents(), made.nodes()["/f"].size) == ({"/f": b"x" * 100}, 100)


@pytest.mark.parametrize("readers", [1, 3])
def test_vanished(readers: int) -> None:
    """What vanishes between the listing and the reading is a warning, not an error."""
    gone = FileNotFoundError(errno.ENOENT, "No such file or directory")
    tree: Tree = {
        "d/file": Item(open_error=gone), "d/link": Item(type="symlink", open_error=gone),
        "d/sub": folder(open_error=gone), "d/here": b"here",
    }  # fmt: skip
    made = archive(tree, readers=readers)
    assert sorted(path for path, _ in made.notes.warnings) == [b"/d/file", b"/d/link", b"/d/sub"]
    assert (made.stats.warnings, made.stats.errors) == (3, 0)
    assert made.contents() == expected({"d/here": b"here"})


@pytest.mark.parametrize("readers", [1, 3])
def test_unreadable(readers: int) -> None:
    """What cannot be read is reported, counted and left out, and the rest is stored."""
    denied, broken = PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "Input/output error")
    tree: Tree = {
        "d/file": Item(open_error=denied), "d/bad": Item(content=b"x" * 9, read_error=broken),
        "d/large": Item(content=b"x" * MIB, read_error=broken), "d/sub": folder(open_error=denied), "d/here": b"here",
    }  # fmt: skip
    made = archive(tree, readers=readers)
    assert sorted(made.notes.problems) == [
        (b"/d/bad", "Input/output error"), (b"/d/file", "Permission denied"),
        (b"/d/large", "Input/output error"), (b"/d/sub", "Permission denied"),
    ]  # fmt: skip
    assert (made.stats.errors, made.notes.progress.errors, made.stats.warnings) == (4, 4, 0)
    assert made.contents() == expected({"d/here": b"here"})


def test_directory_that_cannot_be_listed() -> None:
    """A directory that can be opened but not listed is reported; it stays, empty."""
    source = DictSource({"d/sub/x": b"x", "d/y": b"y"}, list_errors={"/d/sub": PermissionError(errno.EACCES, "Denied")})
    made = archive(source)
    assert made.notes.problems == [(b"/d/sub", "Denied")]
    assert made.contents() == {"/d": b"<dir>", "/d/sub": b"<dir>", "/d/y": b"y"}


def test_unreadable_file_is_read_next_time() -> None:
    """A file that could not be read is new when it can; one that was readable before is not taken from the parent."""
    denied = PermissionError(errno.EACCES, "Permission denied")
    first = archive({"d/f": Item(open_error=denied), "d/g": b"g"})
    second = archive({"d/f": b"f", "d/g": b"g"}, before=first)
    assert (second.opened, second.contents()["/d/f"]) == (["/d/f"], b"f")
    third = archive({"d/f": Item(content=b"f", ctime_ns=1, open_error=denied), "d/g": b"g"}, before=second)
    assert (third.stats.errors, set(third.contents())) == (1, {"/d", "/d/g"})


# --- stopping


@pytest.mark.parametrize("readers", [1, 3])
def test_interrupted(readers: int) -> None:
    """A request to stop ends the walk soon, with what was read stored, and nothing left open."""
    stop = threading.Event()
    tree: dict[str, Item | bytes] = {f"d{number:02}/f": b"%d" % number for number in range(50)}
    tree["d20/f"] = Item(content=b"stop", on_read=stop.set)
    source = DictSource(tree)
    repository = make_repository()
    with pytest.raises(Interrupted):
        archive(source, repository=repository, readers=readers, cancelled=stop.is_set)
    assert source.open_now == 0
    assert len(source.opened) >= 20
    assert readers > 1 or len(source.opened) == 21
    repository.refresh_index()
    assert len(repository.index.table) >= 20


def test_interrupted_in_a_large_file() -> None:
    """A request to stop is heard in the middle of a file too."""
    stop = threading.Event()
    reads: list[int] = []

    def once() -> None:
        reads.append(1)
        stop.set()

    with pytest.raises(Interrupted):
        archive({"big": Item(content=bytes(40 * MIB), on_read=once)}, cancelled=stop.is_set)
    assert reads == [1]


# --- size


def test_deep_tree() -> None:
    """Depth is bounded by nothing but memory: 2,000 directories in one another come back."""
    path = "/".join(["d"] * 2000)
    made = archive({f"{path}/f": b"deep"})
    assert made.stats.dirs == 2000
    assert made.contents()[f"/{path}/f"] == b"deep"
    assert archive({f"{path}/f": b"deep"}, before=made).tree == made.tree


@pytest.mark.parametrize("readers", [1, 2])
def test_wide_directory(readers: int) -> None:
    """A directory of 20,000 files comes back, and one more file stores little."""
    tree: dict[str, Item | bytes] = {f"d/{number:05}": b"%d" % (number % 100) for number in range(20_000)}
    made = archive(DictSource(tree, small=True), readers=readers)
    assert made.stats.files_new == 20_000
    assert made.contents() == expected(tree)
    more = {**tree, "d/10000x": b"new"}
    again = archive(more, before=made)
    assert again.opened == ["/d/10000x"]
    assert again.saver.stats.bytes_new < made.saver.stats.bytes_new / 4


def test_many_directories_with_large_files() -> None:
    """Directories whose large files are still being stored do not hold up the walk, nor do they pile up without end."""
    tree = {f"d/{number:03}/f": incompressible(number, 300 * KIB) for number in range(60)}
    assert archive(tree, chunker=ChunkerParams()).contents() == expected(tree)


def random_tree(seed: int) -> dict[str, Item | bytes]:
    """Files of all sizes in directories of all depths."""
    chance = random.Random(seed)
    return dict(_random_files(chance))


def _random_files(chance: random.Random) -> Iterator[tuple[str, bytes]]:
    for number in range(120):
        depth = chance.randrange(4)
        path = "/".join([*(f"d{chance.randrange(3)}" for _ in range(depth)), f"f{number}"])
        yield path, incompressible(number, chance.choice([0, 10, 3000, 60_000, 400_000]))


@pytest.mark.parametrize("seed", range(3))
def test_readers_make_no_difference(seed: int) -> None:
    """However many threads read, and however, the tree is the same."""
    tree = random_tree(seed)
    roots = {
        archive(DictSource(tree, small=small), readers=readers).tree for readers in (1, 2, 5) for small in (False, True)
    }
    assert len(roots) == 1
