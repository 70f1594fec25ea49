"""Is it unchanged? Then what the parent snapshot stored is taken over, and the file is not read.

A file counts as unchanged when its modification time, size, inode number and change time (ctime) are those of the
parent. The kernel sets ctime on every change of content or metadata and no program can set it back, so with an equal
ctime the whole node is taken over, extended attributes and all.

A file that changed in the moment the parent was made may have been read before the change and still carry the same
times, as clocks tick in steps. So what changed less than 50 ms before the parent began, or after, is read again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from bfrepo.core.errors import DamagedObject
from bfrepo.core.protocols import BlobLoader, BlobSaver
from bfrepo.data.node import Node, Stat
from bfrepo.data.records import load_records, record_blobs, split_ids
from bfrepo.data.tree import load_tree_blobs

_CLOCK_STEP_NS = 50_000_000


class Reuse(enum.Enum):
    """What of the parent's node still holds."""

    NOTHING = enum.auto()
    CONTENT = enum.auto()
    ALL = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentPolicy:
    """What to compare. `started_ns` is when the parent's backup began; `fresh_atime` asks for access times of now."""

    started_ns: int = 0
    ignore_ctime: bool = False
    ignore_inode: bool = False
    fresh_atime: bool = False

    def reuse(self, node: Node, stat: Stat) -> Reuse:
        """How much of the parent's `node` describes what is there now."""
        same_time = node.ctime_ns == stat.ctime_ns
        if (
            node.mtime_ns != stat.mtime_ns
            or node.type != stat.type
            or (node.size != stat.size and node.type == "file")
            or not (same_time or self.ignore_ctime)
            or (node.inode != stat.inode and not self.ignore_inode)
            or (node.mtime_ns if self.ignore_ctime else node.ctime_ns) > self.started_ns - _CLOCK_STEP_NS
        ):
            return Reuse.NOTHING
        moved = node.links > 1 and (node.device != stat.device or node.inode != stat.inode)
        return Reuse.ALL if same_time and not moved and not self.fresh_atime else Reuse.CONTENT


class ParentTree:
    """The parent snapshot's nodes, directory by directory."""

    def __init__(self, loader: BlobLoader, saver: BlobSaver, policy: ParentPolicy) -> None:
        self._loader = loader
        self._saver = saver
        self.policy = policy

    def nodes(self, tree_id: bytes) -> tuple[dict[bytes, Node], bool]:
        """The nodes of a directory by name, and whether the tree's blobs are where a new snapshot may rely on them.

        Raises DamagedObject when the parent's tree cannot be read.
        """
        nodes, part_ids = load_tree_blobs(self._loader, tree_id)
        held = all(map(self._saver.holds, (tree_id, *part_ids)))
        return {node.name: node for node in nodes}, held

    def holds_content(self, node: Node) -> bool:
        """Whether every blob of the file is still where a new snapshot may rely on it."""
        holds = self._saver.holds
        content = node.content
        if not node.content_depth and not node.holes_depth:
            return holds(content) if len(content) == 32 else all(map(holds, split_ids(content)))
        try:
            lists = [
                *record_blobs(self._loader, node.content, node.content_depth),
                *record_blobs(self._loader, node.holes, node.holes_depth),
            ]
            chunks = split_ids(load_records(self._loader, content, node.content_depth))
        except DamagedObject:
            return False  # the file itself is there to be read
        return all(map(holds, lists)) and all(map(holds, chunks))
