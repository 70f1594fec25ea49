"""Trees without what is lost: found first, written later.

    file that lacks content         left out: a file that silently lacks bytes is worse than one that is not there
    directory whose tree is lost    kept, empty
    directory of several parts      what stands in the parts that are left is kept
    names that no path may have     left out

Lost is what no pack holds any more by the index. What a pack should hold and does not give is for `repair packs` to
decide, which comes first. A storage that fails, or a tree of a newer version, is no damage. All of these raise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

from bfrepo.checker.content import content_fault
from bfrepo.core.errors import BackupForgeError, DamagedBlob, DamagedObject, Interrupted
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import BlobLoader, BlobSaver, BlobSizes
from bfrepo.data.node import Node, is_safe_name
from bfrepo.data.records import load_records
from bfrepo.data.references import content_ids
from bfrepo.data.tree import decode_tree, load_tree_blobs, save_tree

_FIRST: Final = "run 'backupforge repair packs' first: it finds out what is lost"

What: TypeAlias = Literal["file", "directory", "entries"]


class LostPath(NamedTuple):
    """What a snapshot is made without: a file, all that is in a directory, or some of its entries. The path is raw."""

    path: bytes
    what: What


@dataclass(slots=True)
class _DamagedTree:
    """What is wrong in one directory, and which of its subdirectories are damaged."""

    itself: What | None
    files: list[bytes]
    below: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class _Level:
    """A directory that is being gone through: what is wrong in it, and the trees below it that are still to come."""

    tree_id: bytes
    damage: _DamagedTree
    directories: list[tuple[bytes, bytes]]
    coming: list[bytes]


class TreeMender:
    """Finds damaged trees, and makes new ones. Each tree is looked at once. Used by one thread.

    `is_gone` says of a blob whether all packs that should hold it are missing.
    """

    def __init__(
        self,
        loader: BlobLoader,
        sizes: BlobSizes,
        is_gone: Callable[[bytes], bool],
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        self._loader = loader
        self._sizes = sizes
        self._is_gone = is_gone
        self._progress = progress
        self._cancelled = cancelled
        self._sound: set[bytes] = set()
        self._damaged: dict[bytes, _DamagedTree] = {}  # every tree stands behind those below it

    def find(self, root: bytes) -> bool:
        """Whether anything in or below the tree is lost.

        Raises UnsupportedFormat, StorageError, Interrupted, and BackupForgeError when packs have to be repaired first.
        """
        stack = [] if root in self._sound or root in self._damaged else [self._enter(root)]
        while stack:
            level = stack[-1]
            if level.coming:
                child = level.coming.pop()
                if child not in self._sound and child not in self._damaged:
                    stack.append(self._enter(child))
                continue
            stack.pop()
            damage = level.damage
            damage.below = [(name, tree) for name, tree in level.directories if tree in self._damaged]
            if damage.itself or damage.files or damage.below:
                self._damaged[level.tree_id] = damage
            else:
                self._sound.add(level.tree_id)
        return root in self._damaged

    def is_lost_altogether(self, root: bytes) -> bool:
        """Whether nothing can be told of what is in the tree."""
        return root in self._damaged and self._damaged[root].itself == "directory"

    def lost_paths(self, root: bytes) -> Iterator[LostPath]:
        """What is lost below a tree that `find` has looked at, parents first."""
        stack = [(b"/", root)] if root in self._damaged else []
        while stack:
            path, tree_id = stack.pop()
            damage = self._damaged[tree_id]
            if damage.itself:
                yield LostPath(path, damage.itself)
            prefix = path if path.endswith(b"/") else path + b"/"
            yield from (LostPath(prefix + name, "file") for name in damage.files)
            stack.extend((prefix + name, tree) for name, tree in reversed(damage.below))

    def save_mended(self, saver: BlobSaver, roots: Iterable[bytes]) -> dict[bytes, bytes]:
        """Store a new tree for each that is damaged, in and below `roots`; the new IDs by the old ones."""
        wanted, stack = set(roots), list(roots)
        while stack:
            below = {tree for _, tree in self._damaged[stack.pop()].below} - wanted
            wanted |= below
            stack.extend(below)
        new: dict[bytes, bytes] = {}
        for tree_id, damage in self._damaged.items():
            if tree_id in wanted:
                left_out = frozenset(damage.files)
                nodes = (node for node in self._load(tree_id)[0] if node.name not in left_out)
                new[tree_id] = save_tree(saver, [_point_to(node, new) for node in nodes])
        return new

    def _enter(self, tree_id: bytes) -> _Level:
        if self._cancelled():
            raise Interrupted("stopped while looking for what is lost")
        nodes, itself = self._load(tree_id)
        self._progress.files_done += len(nodes)
        directories = [(node.name, node.subtree) for node in nodes if node.type == "dir"]
        damage = _DamagedTree(itself, self._lost_files(nodes))
        return _Level(tree_id, damage, directories, [tree for _, tree in directories])

    def _load(self, tree_id: bytes) -> tuple[list[Node], What | None]:
        """What is left of a directory, and how much of it is lost."""
        with suppress(DamagedObject):
            return load_tree_blobs(self._loader, tree_id)[0], None
        first = self._load_part(tree_id)
        if first is None:
            return [], "directory"
        nodes, parts = first
        for part in parts:
            more = self._load_part(part)
            nodes.extend(more[0] if more is not None else [])
        allowed = {node.name: node for node in nodes if _is_allowed(node)}
        return [allowed[name] for name in sorted(allowed)], "entries"

    def _load_part(self, blob_id: bytes) -> tuple[list[Node], list[bytes]] | None:
        try:
            return decode_tree(blob_id, self._loader.load(BlobKind.TREE, blob_id))
        except DamagedBlob as error:
            raise BackupForgeError(str(error), hint=_FIRST) from error
        except DamagedObject:
            return None

    def _lost_files(self, nodes: list[Node]) -> list[bytes]:
        """The names of files that lack content: those of one blob all at once, as they are the most."""
        lost: list[bytes] = []
        simple: list[Node] = []
        for node in nodes:
            if node.type != "file":
                continue
            if len(node.content) == ID_SIZE and not node.content_depth and not node.holes:
                simple.append(node)
            elif self._lacks_content(node):
                lost.append(node.name)
        known = self._sizes.data_sizes([node.content for node in simple])
        for node, size in zip(simple, known, strict=True):
            if size != node.size:
                lost.append(node.name)
            else:
                self._refuse_gone(node.content)
        return sorted(lost)

    def _lacks_content(self, node: Node) -> bool:
        try:
            blob_ids = content_ids(self._loader, node)
            holes = load_records(self._loader, node.holes, node.holes_depth)
        except DamagedBlob as error:
            raise BackupForgeError(str(error), hint=_FIRST) from error
        except DamagedObject:
            return True
        if content_fault(node.size, holes, self._sizes.data_sizes(blob_ids)) is not None:
            return True
        for blob_id in blob_ids:
            self._refuse_gone(blob_id)
        return False

    def _refuse_gone(self, blob_id: bytes) -> None:
        if self._is_gone(blob_id):
            raise BackupForgeError(f"blob {short_id(blob_id)} is only in packs that are missing", hint=_FIRST)


def _is_allowed(node: Node) -> bool:
    return is_safe_name(node.name) and (node.type != "dir" or len(node.subtree) == ID_SIZE)


def _point_to(node: Node, new: dict[bytes, bytes]) -> Node:
    if node.type != "dir" or node.subtree not in new:
        return node
    return msgspec.structs.replace(node, subtree=new[node.subtree])
