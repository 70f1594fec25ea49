"""A part of the plan of a restore: what is to be done, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from bfrepo.data.node import Node, NodeType
from bfrepo.localfs._scan import Stat
from bfrepo.localfs.target import Directory
from bfrepo.restorer.report import Outcome


@dataclass(slots=True)
class FirstName:
    """Where a file with several names is made; `missing` names of it have not come up yet."""

    directory: Directory
    name: bytes
    type: NodeType
    missing: int
    failed: bool = False


class Item:
    """One entry that is no directory, on its way to the disk.

    `old` is the file whose blocks may be kept, `obstacle` says that something must go before it can be made, `parts` is
    how many pieces its content has, `holes` are (start, end), `name` is what further names of it are linked to. A
    `simple` file is new, one blob, and has no metadata that takes more calls than every file does.
    """

    __slots__ = ("directory", "failed", "holes", "name", "node", "obstacle", "old", "parts", "simple")

    def __init__(self, directory: Directory, node: Node) -> None:
        self.directory = directory
        self.node = node
        self.old: Stat | None = None
        self.obstacle = False
        self.parts = 0
        self.simple = False
        self.holes: Sequence[tuple[int, int]] = ()
        self.name: FirstName | None = None
        self.failed = False

    def fail(self) -> None:
        """It is not what it should be: nothing more is done with it, and nothing is linked to it."""
        self.failed = True
        if self.name is not None:
            self.name.failed = True

    @property
    def path(self) -> bytes:
        """From the root of the restore."""
        return self.directory.path + b"/" + self.node.name

    @property
    def outcome(self) -> Outcome:
        """What it is once it is in place."""
        return "updated" if self.obstacle or self.old is not None else "created"


Segment: TypeAlias = tuple[bytes, Item, int]
"""A blob's ID, the file it belongs in, and its offset there."""


@dataclass(frozen=True, slots=True)
class Extra:
    """Something in the target that is not in the snapshot."""

    directory: Directory
    name: bytes
    selected: bool


@dataclass(frozen=True, slots=True)
class Enter:
    """A directory that is made, or that exists and is to be restored."""

    directory: Directory
    old: Stat | None


@dataclass(frozen=True, slots=True)
class Make:
    """Something without content: an empty file, a file that is one hole, a symlink, a device."""

    item: Item


@dataclass(frozen=True, slots=True)
class Mend:
    """Something whose content is right and whose metadata is not."""

    item: Item


Step: TypeAlias = Extra | Enter | Make | Mend


@dataclass(frozen=True, slots=True)
class Link:
    """A further name of a file."""

    item: Item
    source: FirstName


@dataclass(frozen=True, slots=True)
class Closing:
    """A directory that gets its metadata."""

    directory: Directory
    node: Node


@dataclass(slots=True)
class Window:
    """A part of the plan. `checks` are only compared, when the restore verifies; `items` are the files with content."""

    steps: list[Step] = field(default_factory=list)
    frames: dict[int, list[Segment]] = field(default_factory=dict)
    checks: dict[int, list[Segment]] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    closing: list[Closing] = field(default_factory=list)
    weight: int = 0
