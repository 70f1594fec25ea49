"""Directories of snapshots: what their trees say, kept while there is room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.core.units import KIB
from bfrepo.data.node import Node
from bfrepo.data.tree import load_tree, save_tree
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from bfrepo.vfs.directory import Listing
from bfrepo.vfs.trees import TreeDirectory, Trees
from tests.support.backups import run_backup
from tests.support.browsing import Browser, browsing, listing
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock, make_repository, names, reopen, saver_options
from tests.support.sources import Item, folder, sparse

TREE: dict[str, Item | bytes] = {
    "file": Item(content=b"x" * 1000, mode=0o4750, uid=12, gid=34, xattrs=((b"user.a", b"1"),)),
    "dir": folder(mode=0o1777),
    "dir/link": Item(type="symlink", target=b"../file"),
    "dir/deep/er/file": b"deep",
    "dir/device": Item(type="blockdev", rdev=0x801),
    "names/\udcff\n": b"no text",
    "sparse": sparse(bytes(64 * KIB) + b"y" * 1000 + bytes(KIB), (0, 64 * KIB), (64 * KIB + 1000, KIB)),
}


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A snapshot of TREE, below "here"."""
    repository = make_repository()
    run_backup(repository, TREE)
    with browsing(reopen(repository.backend), ["%h"]) as opened:
        yield opened


def walk(browser: Browser, directory: TreeDirectory) -> Iterator[tuple[bytes, Node]]:
    """Everything below, each with the path that messages name."""
    for node in listing(directory):
        yield directory.path, node
        if node.type == "dir":
            yield from walk(browser, directory.subdirectory(node))


def test_entries_are_those_of_the_trees(browser: Browser) -> None:
    """At every level the entries are what `load_tree` says, which a restore goes by."""
    stack = [browser.directory("here")]
    seen = 0
    while stack:
        directory = stack.pop()
        assert isinstance(directory, TreeDirectory)
        assert directory.load().nodes == load_tree(browser.repository.loader, directory.tree_id)
        stack += [directory.subdirectory(node) for node in directory.load().nodes if node.type == "dir"]
        seen += len(directory.load().nodes)
    assert seen == 10


def test_paths_are_for_people(browser: Browser) -> None:
    """A directory knows its path from the top of the file system."""
    assert browser.directory("here", "dir", "deep", "er").path == b"here/dir/deep/er"


def test_positions() -> None:
    """An entry is found by its name, whatever its bytes, and what is not there is not."""
    nodes = [Node(name=name) for name in (b"\x01", b"a", b"a b", b"\xff")]
    found = Listing(nodes)
    assert [found.position(node.name) for node in nodes] == [0, 1, 2, 3]
    assert [found.position(name) for name in (b"", b"A", b"aa", b"\xff\xff")] == [None] * 4


def test_blocks_are_without_holes(browser: Browser) -> None:
    """A file takes the blocks of what it holds, a directory none."""
    found = browser.directory("here").load()
    by_name = {node.name: found.blocks(node) for node in found.nodes}
    assert by_name == {b"dir": 0, b"file": 2, b"names": 0, b"sparse": 2}


def test_second_look_is_at_hand(browser: Browser) -> None:
    """What was listed once is there without waiting."""
    directory = browser.directory("here", "dir")
    found = directory.load()
    assert directory.at_hand() is found


def test_old_listings_make_room(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many entries are kept; the directory that was read last always is."""
    monkeypatch.setattr("bfrepo.vfs.trees._MOST_NODES", 3)
    trees = Trees(browser.views)
    roots = [node.subtree for node in listing(browser.directory("here")) if node.type == "dir"]
    first, second = (trees.load(root) for root in roots)
    assert trees.load(roots[1]) is second
    assert trees.load(roots[0]) is not first
    assert trees.load(roots[0]).nodes == first.nodes


def test_a_large_directory() -> None:
    """A directory that is kept in several parts has all its entries, and is read by a thread."""
    repository = make_repository(clock=FakeClock())
    nodes = [Node(name=b"%06d" % number) for number in range(10_000)]
    saver = repository.make_saver(saver_options(repository))
    tree_id = save_tree(saver, nodes)
    saver.flush()
    saver.close()
    with browsing(repository) as opened:
        trees = Trees(opened.views)
        trees.views.view(tree_id)
        assert trees.at_hand(tree_id) is None
        assert trees.load(tree_id).nodes == nodes
        assert trees.at_hand(tree_id) is not None


def test_a_damaged_directory_harms_nothing_else() -> None:
    """INV-4: a tree that is not what was written raises for who looks into it, again and again; others are shown."""
    backend = FaultyBackend(MemoryBackend())
    repository: Repository = make_repository(backend, compression="none")
    run_backup(repository, {"a/file": b"1", "b/file": b"2"})
    opened = reopen(backend)
    pack = next(pack for pack in opened.index.table.packs() if pack.kind is BlobKind.TREE)
    with browsing(opened, ["%h"]) as browser:
        bad = browser.node("here", "a").subtree
        place = opened.loader.place(bad)
        offset = opened.index.table.frame(place.frame).offset + place.offset + place.size // 2
    assert pack.id.hex() in names(backend, ObjectKind.PACK)
    backend.flip_byte(ObjectKind.PACK, pack.id.hex(), offset)
    with browsing(reopen(backend), ["%h"]) as browser:
        for _ in range(2):
            directory = browser.directory("here", "a")
            with pytest.raises(DamagedObject):
                directory.load()
        assert browser.content("here", "b", "file") == b"2"
