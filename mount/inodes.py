"""Inode numbers: what the kernel knows entries by, and for how long.

A directory whose entries were looked at gets a number, and an entry's inode number is made of that and its position:

    bits 32-62  number of the directory        bits 0-31  position among its entries

So a walk over a million files keeps an object for each directory, not for each file. A directory whose entries the
kernel has all forgotten is kept for a while: an NFS server comes back with numbers that it alone remembers. Its number
is never given out again. Names of one file (same device and inode in the source, within one snapshot) share the number
of the one that was met first. The top is number 1, by FUSE's rule.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, TypeAlias

from bfrepo.data.node import Node
from bfrepo.vfs.directory import Directory, Listing

ROOT: Final = 1
_SHIFT: Final = 32
_POSITION: Final = (1 << _SHIFT) - 1
_MOST_IDLE: Final = 20_000
"""Directories that are kept though the kernel knows nothing of them any more, at about 700 bytes each."""


class Folder:
    """A directory that the kernel has looked into.

    `inode` is its own number, `parent` that of the directory it was found in. `uses` counts what keeps it here: each
    look-up of an entry that the kernel has not forgotten, and each open handle. `opened` has a 1 at the position of
    each file that was opened since the kernel came to know it; `changing` is None where nothing changes.
    """

    __slots__ = ("changing", "directory", "inode", "links", "number", "opened", "parent", "uses")

    def __init__(self, number: int, inode: int, parent: int, directory: Directory) -> None:
        self.number = number
        self.inode = inode
        self.parent = parent
        self.directory = directory
        self.uses = 0
        self.opened: bytearray | None = None
        self.links: list[Hashable] | None = None
        self.changing = None if directory.lasting else _Positions()


class _Positions:
    """Gives entries that come and go positions that they keep."""

    def __init__(self) -> None:
        self.keys: list[_Key] = []
        self._by_key: dict[_Key, int] = {}

    def of(self, node: Node) -> int:
        """The position of an entry: that which it had, or one that none ever had."""
        key = _key(node)
        position = self._by_key.setdefault(key, len(self.keys))
        if position == len(self.keys):
            self.keys.append(key)
        return position


class Inodes:
    """All entries that the kernel knows. Belongs to the event loop's thread."""

    def __init__(self, root: Directory) -> None:
        self._last = 1
        self._folders: dict[int, Folder] = {}
        self._by_inode: dict[int, Folder] = {}
        self._links: dict[Hashable, int] = {}
        self._idle: OrderedDict[int, Folder] = OrderedDict()
        self._root = self._by_inode[ROOT] = Folder(self._last, ROOT, ROOT, root)
        self._folders[self._last] = self._folders[ROOT >> _SHIFT] = self._root  # it lies in itself

    def __len__(self) -> int:
        """How many directories are known."""
        return len(self._by_inode)

    def above(self, inode: int) -> Folder:
        """The directory that an entry is in. Raises KeyError for one that is not known any more."""
        return self._folders[inode >> _SHIFT]

    def known(self, inode: int) -> Folder | None:
        """The directory with that inode, if the kernel has looked into it."""
        return self._by_inode.get(inode)

    def enter(self, inode: int, node: Node) -> Folder:
        """The directory with that inode, which is `node` in the one above."""
        folder = self._by_inode.get(inode)
        if folder is None:
            above = self.above(inode)
            self._last += 1
            folder = Folder(self._last, inode, above.inode, above.directory.subdirectory(node))
            self._by_inode[inode] = self._folders[self._last] = folder
        return folder

    def node(self, inode: int, listing: Listing) -> Node | None:
        """The entry with that inode in the listing of the directory it is in; None when it is gone."""
        folder, position = self._folders[inode >> _SHIFT], inode & _POSITION
        if folder.changing is None:
            return listing.nodes[position]
        key = folder.changing.keys[position]
        at = listing.position(key[0])
        return listing.nodes[at] if at is not None and _key(listing.nodes[at]) == key else None

    def number(self, folder: Folder, position: int, node: Node) -> int:
        """The inode of an entry."""
        if folder.changing is not None:
            position = folder.changing.of(node)
        inode = (folder.number << _SHIFT) | position
        if node.links > 1 and node.inode and node.type != "dir" and folder.directory.scope is not None:
            return self._first_name(folder, inode, node)
        return inode

    def first_open(self, inode: int) -> bool:
        """Whether a file is opened for the first time since the kernel came to know it."""
        folder, position = self._folders[inode >> _SHIFT], inode & _POSITION
        if folder.opened is None:
            folder.opened = bytearray()
        opened = folder.opened
        if position >= len(opened):
            opened.extend(bytes(position + 1 - len(opened)))
        first = not opened[position]
        opened[position] = 1
        return first

    def hold(self, inode: int) -> None:
        """The kernel was told of an entry once more."""
        self.use(self._folders[inode >> _SHIFT])

    def use(self, folder: Folder) -> None:
        """Something more keeps a directory here."""
        folder.uses += 1
        if folder.uses == 1:
            self._idle.pop(folder.number, None)

    def release(self, inode: int, count: int) -> None:
        """The kernel forgets an entry that it was told of `count` times."""
        folder = self._folders.get(inode >> _SHIFT)
        if folder is not None:
            position = inode & _POSITION
            if folder.opened is not None and position < len(folder.opened):
                folder.opened[position] = 0
            self.drop(folder, count)

    def drop(self, folder: Folder, count: int = 1) -> None:
        """Count down what keeps a directory here, and let go of those that nothing keeps when they become many."""
        folder.uses -= count
        if folder.uses > 0 or folder is self._root:
            return
        self._idle[folder.number] = folder
        while len(self._idle) > _MOST_IDLE:
            _, oldest = self._idle.popitem(last=False)
            del self._folders[oldest.number], self._by_inode[oldest.inode]
            for key in oldest.links or ():
                self._links.pop(key, None)

    def _first_name(self, folder: Folder, inode: int, node: Node) -> int:
        """The inode of the name of a file that was met first. Names whose content differs are no names of one file."""
        key = (folder.directory.scope, node.device, node.inode, node.size, node.content, node.target)
        first = self._links.get(key)
        if first is None:
            self._links[key] = inode
            if folder.links is None:
                folder.links = []
            folder.links.append(key)
            return inode
        return first


_Key: TypeAlias = tuple[bytes, bytes, bytes, int]


def _key(node: Node) -> _Key:
    """What makes an entry the same one in a directory whose entries come and go."""
    return node.name, node.subtree, node.content or node.target, node.mtime_ns if node.type == "file" else 0
