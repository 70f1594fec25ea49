"""What every directory of the file system is, whether a snapshot has it or it is made up to find snapshots by."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import Protocol

from bfrepo.data.node import Node

_name = attrgetter("name")


class Listing:
    """The entries of a directory, sorted by their raw names. Never changes.

    `hole_bytes` tells for each file with holes how much of its size they are.
    """

    __slots__ = ("hole_bytes", "nodes")

    def __init__(self, nodes: Sequence[Node], hole_bytes: dict[bytes, int] | None = None) -> None:
        self.nodes = nodes
        self.hole_bytes = hole_bytes or {}

    def position(self, name: bytes) -> int | None:
        """Where an entry is, None for a name that is not there."""
        at = bisect_left(self.nodes, name, key=_name)
        return at if at < len(self.nodes) and self.nodes[at].name == name else None

    def blocks(self, node: Node) -> int:
        """The 512-byte blocks that an entry takes on a disk, as stat shows them: what is in holes takes none."""
        return (node.size - self.hole_bytes.get(node.name, 0) + 511) // 512 if node.type == "file" else 0


class Directory(Protocol):
    """A directory. May be used from any thread."""

    @property
    def path(self) -> bytes:
        """Where it is below the top of the file system, raw and without a slash at either end; for messages."""

    @property
    def lasting(self) -> bool:
        """Whether it has the same entries for ever."""

    @property
    def scope(self) -> object:
        """Where names that share an inode number of the source are names of one file: within one snapshot."""

    def at_hand(self) -> Listing | None:
        """Its entries, if they are known without waiting for anything."""

    def load(self) -> Listing:
        """Its entries, read if need be. Raises ObjectNotFound when it is gone, and what reading raises."""

    def subdirectory(self, node: Node) -> Directory:
        """A directory in it, by its entry."""


def join(path: bytes, name: bytes) -> bytes:
    """The path of an entry."""
    return path + b"/" + name if path else name
