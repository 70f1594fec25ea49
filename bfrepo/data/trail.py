"""Where in many snapshots something is: the directories that have it, and the ways down to them.

Trees that snapshots share are in it once. So what takes long, looking into every tree, is done once for all snapshots,
and to say where in a snapshot something is takes no more steps than there are directories on the way.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from bfrepo.core.errors import BackupForgeError
from bfrepo.data.forest import Tree
from bfrepo.data.node import Node


class Found(NamedTuple):
    """An entry that was looked for. `object_id` is the blob on account of which it is; empty where its name is."""

    node: Node
    object_id: bytes = b""


@dataclass(slots=True)
class Trail:
    """By the number of a tree: what was found in it, which trees below lead to more, and what could not be read.

    A found node without a name is the directory itself; a tree below without a name is a part of the same directory.
    """

    entries: dict[int, list[Found]] = field(default_factory=dict)
    below: dict[int, list[tuple[bytes, int]]] = field(default_factory=dict)
    faults: dict[int, BackupForgeError] = field(default_factory=dict)

    def follow(self, root: int) -> Iterator[tuple[bytes, Found | BackupForgeError]]:
        """What is below a tree, with raw absolute paths, in no order: what was found, and what could not be read."""
        stack = [(b"/", root)]
        while stack:
            path, tree = stack.pop()
            directory = path.rstrip(b"/") or b"/"
            if tree in self.faults:
                yield directory, self.faults[tree]
            for found in self.entries.get(tree, ()):
                yield (path + found.node.name if found.node.name else directory), found
            for name, child in self.below.get(tree, ()):
                stack.append((path + name + b"/" if name else path, child))


class TrailMaker:
    """Makes a trail from trees as they come, in any order. Used by one thread."""

    def __init__(self) -> None:
        self._trail = Trail()
        self._numbers: dict[bytes, int] = {}
        self._parents = array("Q")
        self._children = array("Q")
        self._names: list[bytes] = []

    def number(self, tree_id: bytes) -> int:
        """The number of a tree."""
        return self._numbers.setdefault(tree_id, len(self._numbers))

    def add(self, tree: Tree, found: list[Found]) -> None:
        """Take in a tree and what was found in it."""
        parent = self.number(tree.id)
        if tree.error is not None:
            self._trail.faults[parent] = tree.error
        if found:
            self._trail.entries[parent] = found
        for name, child in tree.below():
            self._parents.append(parent)
            self._children.append(self.number(child))
            self._names.append(name)

    def finish(self) -> Trail:
        """The trail, when all trees are in."""
        on_the_way = {*self._trail.entries, *self._trail.faults}
        known = -1
        while known != len(on_the_way):  # a tree that two others refer to may be met before those below it
            known = len(on_the_way)
            for parent, child in zip(reversed(self._parents), reversed(self._children), strict=True):
                if child in on_the_way:
                    on_the_way.add(parent)
        below = defaultdict(list)
        for parent, child, name in zip(self._parents, self._children, self._names, strict=True):
            if child in on_the_way:
                below[parent].append((name, child))
        self._trail.below = dict(below)
        return self._trail
