"""Inode numbers, as the kernel counts on them."""

from __future__ import annotations

import pytest

from bfrepo.data.node import Node
from bfrepo.vfs.directory import Listing
from mount.inodes import ROOT, Folder, Inodes


class Made:
    """A directory that is made up: what it has may be changed unless it is lasting."""

    path = b""

    def __init__(self, *nodes: Node, lasting: bool = True, scope: object = b"one") -> None:
        self.nodes = list(nodes)
        self.lasting = lasting
        self.scope = scope

    def at_hand(self) -> Listing:
        return Listing(self.nodes)

    def load(self) -> Listing:
        return Listing(self.nodes)

    def subdirectory(self, node: Node) -> Made:
        return Made(Node(name=b"below " + node.name), lasting=self.lasting, scope=self.scope)


def numbers(inodes: Inodes, folder: Folder) -> list[int]:
    """The inodes of all entries of a directory."""
    return [inodes.number(folder, at, node) for at, node in enumerate(folder.directory.load().nodes)]


def root_of(inodes: Inodes) -> Folder:
    """The top."""
    return inodes.above(ROOT)


def test_numbers_lead_back() -> None:
    """An entry is found by its inode, which no other has, nor the top."""
    nodes = [Node(name=name, type="dir", subtree=bytes(32)) for name in (b"a", b"b", b"c")]
    inodes = Inodes(Made(*nodes))
    given = numbers(inodes, root_of(inodes))
    assert len({ROOT, 0, *given}) == 5
    assert [inodes.node(inode, Listing(nodes)) for inode in given] == nodes
    below = [inodes.enter(inode, node) for inode, node in zip(given, nodes, strict=True)]
    assert len({*given, *(each for folder in below for each in numbers(inodes, folder))}) == 6
    assert [folder.parent for folder in below] == [ROOT] * 3


def test_a_directory_is_entered_once() -> None:
    """Looking into a directory again finds the numbers that were given before."""
    node = Node(name=b"a", type="dir", subtree=bytes(32))
    inodes = Inodes(Made(node))
    (inode,) = numbers(inodes, root_of(inodes))
    assert inodes.enter(inode, node) is inodes.enter(inode, node) is inodes.known(inode)


def test_names_of_one_file_share_a_number() -> None:
    """Hard links have one inode within a snapshot, and others in another one."""
    first, second, other = (
        Node(name=name, links=2, inode=5, device=7, size=3, content=bytes(32)) for name in (b"a", b"b", b"c")
    )
    inodes = Inodes(Made(first, second, Node(name=b"x", inode=5, device=7), Node(name=b"y", type="dir")))
    one, two, three, _ = numbers(inodes, root_of(inodes))
    assert one == two != three
    again = Inodes(Made(first, scope=b"two"))
    assert numbers(again, root_of(again)) == [one]  # its own numbers begin anew
    folder = inodes.enter(numbers(inodes, root_of(inodes))[3], Node(name=b"y", type="dir"))
    folder.directory = Made(other)
    assert numbers(inodes, folder) == [one]
    folder.directory = Made(other, scope=b"two")
    assert numbers(inodes, folder) != [one]


@pytest.mark.parametrize(
    "change", [{"content": b"\1" * 32}, {"size": 4}, {"device": 8}, {"inode": 6}, {"links": 1}, {"inode": 0}]
)
def test_what_is_not_the_same_file_has_its_own(change: dict[str, object]) -> None:
    """Entries that differ in where they come from, or in content, are never taken for one file."""
    plain: dict[str, object] = {"links": 2, "inode": 5, "device": 7, "size": 3, "content": bytes(32)}
    inodes = Inodes(Made(Node(name=b"a", **plain), Node(name=b"b", **{**plain, **change})))  # type: ignore[arg-type]
    one, two = numbers(inodes, root_of(inodes))
    assert one != two


def test_versions_are_never_one_file() -> None:
    """Where entries come from many snapshots, the same inode of the source says nothing."""
    nodes = [Node(name=name, links=2, inode=5, device=7) for name in (b"a", b"b")]
    inodes = Inodes(Made(*nodes, lasting=False, scope=None))
    assert len(set(numbers(inodes, root_of(inodes)))) == 2


def test_numbers_stay_while_entries_come_and_go() -> None:
    """In a directory that changes an entry keeps its number, whatever comes before it, until it goes."""
    top = Made(Node(name=b"b"), lasting=False)
    inodes = Inodes(top)
    (before,) = numbers(inodes, root_of(inodes))
    top.nodes.insert(0, Node(name=b"a"))
    new, after = numbers(inodes, root_of(inodes))
    assert (after, inodes.node(after, top.load())) == (before, top.nodes[1])
    del top.nodes[1]
    assert inodes.node(before, top.load()) is None
    assert inodes.node(new, top.load()) == top.nodes[0]
    top.nodes[0] = Node(name=b"a", type="symlink", target=b"elsewhere")
    assert numbers(inodes, root_of(inodes)) != [new]


def test_what_the_kernel_forgets_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory stays while the kernel knows an entry of it or has it open, and may go with the last of them."""
    monkeypatch.setattr("mount.inodes._MOST_IDLE", 0)
    node = Node(name=b"a", type="dir", subtree=bytes(32))
    inodes = Inodes(Made(node))
    (inode,) = numbers(inodes, root_of(inodes))
    folder = inodes.enter(inode, node)
    (child,) = numbers(inodes, folder)
    for _ in range(3):
        inodes.hold(child)
    inodes.use(folder)  # as an open handle does
    inodes.release(child, 2)
    inodes.release(child, 1)
    assert inodes.known(inode) is folder
    inodes.drop(folder)
    assert inodes.known(inode) is None
    with pytest.raises(KeyError):
        inodes.above(child)
    assert len(inodes) == 1
    again = inodes.enter(inode, node)
    assert numbers(inodes, again) != [child]


def test_what_was_forgotten_is_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest directories that the kernel has forgotten have their numbers still, and those that it has not."""
    monkeypatch.setattr("mount.inodes._MOST_IDLE", 2)
    nodes = [Node(name=b"%d" % number, type="dir", subtree=bytes(32)) for number in range(5)]
    inodes = Inodes(Made(*nodes))
    given = numbers(inodes, root_of(inodes))
    folders = [inodes.enter(inode, node) for inode, node in zip(given, nodes, strict=True)]
    children = [numbers(inodes, folder)[0] for folder in folders]
    for child in children:
        inodes.hold(child)
    for child in (children[1], children[0], children[2], children[3]):
        inodes.release(child, 1)
    inodes.hold(children[2])
    inodes.release(children[4], 1)
    assert [inodes.known(inode) for inode in given] == [None, None, *folders[2:]]
    inodes.hold(children[3])
    inodes.release(children[3], 1)
    assert inodes.known(given[3]) is folders[3]


def test_hard_links_are_let_go_with_their_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the directory of the first name is gone, the next name that is met has the file's new number."""
    monkeypatch.setattr("mount.inodes._MOST_IDLE", 0)
    linked = Node(name=b"x", links=2, inode=5, device=7)
    nodes = [Node(name=name, type="dir", subtree=bytes(32)) for name in (b"a", b"b")]
    inodes = Inodes(Made(*nodes))
    first, second = (
        inodes.enter(inode, node) for inode, node in zip(numbers(inodes, root_of(inodes)), nodes, strict=True)
    )
    first.directory = second.directory = Made(linked)
    (child,) = numbers(inodes, first)
    inodes.hold(child)
    assert numbers(inodes, second) == [child]
    inodes.release(child, 1)
    (new,) = numbers(inodes, second)
    assert new != child
    inodes.hold(new)
    assert inodes.above(new) is second


def test_first_open() -> None:
    """A file is opened for the first time once, until the kernel has forgotten it."""
    inodes = Inodes(Made(Node(name=b"a"), Node(name=b"b")))
    one, two = numbers(inodes, root_of(inodes))
    assert [inodes.first_open(inode) for inode in (one, one, two)] == [True, False, True]
    inodes.hold(one)
    inodes.release(one, 1)
    assert [inodes.first_open(inode) for inode in (one, two)] == [True, False]
