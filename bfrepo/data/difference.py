"""What differs between two trees, walked side by side.

Directories whose trees have the same ID are equal, whatever is in them, and are not read. What is read is forgotten
when its directory is left, so memory depends on how deep the trees are and how large their directories, not on how many
files there are.

    added, removed   a name that only one side has; of a directory all that is in it, too
    modified         the content of a file, the target of a symlink, the number of a device
    metadata         only what is about the entry: its mode, owner, times, extended attributes...
    type             a file on one side, a directory or anything else on the other

Sorted by name, a directory before what is in it. Only directories are looked into: a file that was renamed is removed
and added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final, Literal, NamedTuple, TypeAlias

from bfrepo.core.errors import DamagedObject
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.references import content_ids, list_blobs
from bfrepo.data.tree import load_tree_blobs

ChangeKind: TypeAlias = Literal["added", "removed", "modified", "metadata", "type"]

BEFORE: Final = 1
AFTER: Final = 2
"""The sides of a comparison, as bits."""

_METADATA: Final = (
    "mode", "uid", "gid", "user", "group", "mtime_ns", "ctime_ns", "btime_ns", "atime_ns", "inode", "device", "links",
    "xattrs", "flags",
)  # fmt: skip
_metadata = attrgetter(*_METADATA)
_content = attrgetter("size", "content", "content_depth", "holes", "holes_depth", "target", "rdev")

_Pair: TypeAlias = tuple[bytes, Node | None, Node | None]
"""A name, and its entry on each side."""


class Change(NamedTuple):
    """One entry that is not the same on both sides.

    `path` is raw and starts with a slash at the directories that are compared. `fields` names the metadata that differs
    where an entry is on both sides and the same type, if the comparison was asked for it.
    """

    path: bytes
    kind: ChangeKind
    before: Node | None
    after: Node | None
    fields: tuple[str, ...] = ()


@dataclass(slots=True)
class OneSided:
    """Entries that are on one side only; `size` is the bytes of the files."""

    files: int = 0
    dirs: int = 0
    others: int = 0
    size: int = 0

    def count(self, node: Node) -> None:
        """Add an entry."""
        if node.type == "file":
            self.files += 1
            self.size += node.size
        elif node.type == "dir":
            self.dirs += 1
        else:
            self.others += 1


@dataclass(slots=True)
class DifferenceSummary:
    """How much differs. An entry of another type is removed and added.

    `size_before` and `size_after` are the bytes of the files whose content changed.
    """

    added: OneSided = field(default_factory=OneSided)
    removed: OneSided = field(default_factory=OneSided)
    changed_files: int = 0
    changed_others: int = 0
    changed_metadata: int = 0
    changed_types: int = 0
    size_before: int = 0
    size_after: int = 0


class Comparison:
    """Compares two entries and all below them, once; `summary` is complete when `changes` has ended.

    `metadata` asks for entries of which only metadata differs, and for the names of what differs. `on_error` is told
    the path and the reason where a directory cannot be read on one of the sides: what is in it is not compared.
    `on_blobs` is told of the blobs that what was read names on each side: IDs one behind the other, and the side. Used
    by one thread.
    """

    def __init__(
        self,
        loader: BlobLoader,
        *,
        metadata: bool,
        on_error: Callable[[bytes, str], None],
        on_blobs: Callable[[bytes, int], None] | None = None,
    ) -> None:
        self.summary = DifferenceSummary()
        self._loader = loader
        self._metadata = metadata
        self._on_error = on_error
        self._on_blobs = on_blobs

    def changes(self, before: Node, after: Node) -> Iterator[Change]:
        """What differs between two directories, whatever they are called, or between two entries that are none."""
        if before.type == after.type == "dir":
            stack = [(b"/", self._pairs(b"/", before, after))]
        else:
            self._tell_content(b"/", [before], BEFORE)
            self._tell_content(b"/", [after], AFTER)
            stack = [(b"/", iter([(after.name, before, after)] if before != after else []))]
        while stack:
            prefix, pairs = stack[-1]
            pair = next(pairs, None)
            if pair is None:
                stack.pop()
                continue
            name, one, other = pair
            path = prefix + name
            change = self._judge(path, one, other)
            if change is not None:
                yield change
            if (one is not None and one.type == "dir") or (other is not None and other.type == "dir"):
                path += b"/"
                stack.append((path, self._pairs(path, one, other)))

    def _judge(self, path: bytes, before: Node | None, after: Node | None) -> Change | None:
        """What to say of one name, counted; None where only what is in a directory differs, or nobody asked."""
        summary = self.summary
        if after is not None and before is None:
            summary.added.count(after)
            return Change(path, "added", None, after)
        if before is not None and after is None:
            summary.removed.count(before)
            return Change(path, "removed", before, None)
        if before is None or after is None:
            return None
        if before.type != after.type:
            summary.changed_types += 1
            summary.removed.count(before)
            summary.added.count(after)
            return Change(path, "type", before, after)
        fields = _metadata_fields(before, after) if self._metadata else ()
        if before.type != "dir" and _content(before) != _content(after):
            self._count_modified(before, after)
            return Change(path, "modified", before, after, fields)
        if not fields:
            return None
        summary.changed_metadata += 1
        return Change(path, "metadata", before, after, fields)

    def _count_modified(self, before: Node, after: Node) -> None:
        summary = self.summary
        if after.type == "file":
            summary.changed_files += 1
            summary.size_before += before.size
            summary.size_after += after.size
        else:
            summary.changed_others += 1

    def _pairs(self, path: bytes, before: Node | None, after: Node | None) -> Iterator[_Pair]:
        """The names in a directory that are not the same on both sides; nothing where it cannot be read."""
        before_id = before.subtree if before is not None and before.type == "dir" else b""
        after_id = after.subtree if after is not None and after.type == "dir" else b""
        if before_id == after_id:
            return iter(())
        try:
            one = self._load(path, before_id, BEFORE)
            other = self._load(path, after_id, AFTER)
        except DamagedObject as error:
            self._on_error(path.rstrip(b"/") or b"/", str(error))
            return iter(())
        return _merge(one, other)

    def _load(self, path: bytes, tree_id: bytes, side: int) -> list[Node]:
        if not tree_id:
            return []
        nodes, part_ids = load_tree_blobs(self._loader, tree_id)
        if self._on_blobs is not None:
            self._tell(b"".join((tree_id, *part_ids)), side)
            self._tell_content(path, nodes, side)
        return nodes

    def _tell(self, packed_ids: bytes, side: int) -> None:
        if self._on_blobs is not None:
            self._on_blobs(packed_ids, side)

    def _tell_content(self, path: bytes, nodes: list[Node], side: int) -> None:
        self._tell(b"".join([node.content or node.subtree for node in nodes if not node.content_depth]), side)
        for node in nodes:
            if node.content_depth or node.holes_depth:
                try:
                    blob_ids = [*list_blobs(self._loader, node), *content_ids(self._loader, node)]
                except DamagedObject as error:
                    self._on_error(path + node.name, str(error))
                    continue
                self._tell(b"".join(blob_ids), side)


def _merge(before: list[Node], after: list[Node]) -> Iterator[_Pair]:
    """Two lists of nodes, both sorted by name, by name, without those that are the same in both."""
    at, end = 0, len(before)
    for node in after:
        name = node.name
        while at < end and before[at].name < name:
            yield before[at].name, before[at], None
            at += 1
        if at < end and before[at].name == name:
            if before[at] != node:
                yield name, before[at], node
            at += 1
        else:
            yield name, None, node
    for node in before[at:]:
        yield node.name, node, None


def _metadata_fields(before: Node, after: Node) -> tuple[str, ...]:
    values = zip(_METADATA, _metadata(before), _metadata(after), strict=True)
    return tuple(name.removesuffix("_ns") for name, one, other in values if one != other)
