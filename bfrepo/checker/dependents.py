"""The second walk, made only when something is wrong: which snapshots and which files depend on it.

A *cause* is what is to blame: a pack, the index as a whole, or one tree that makes no sense. Trees below which nothing
is wrong are looked at once; those with a cause are gone through for every path that leads to them, so that each file is
named under each of its paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from bfrepo.checker.findings import LISTED, AffectedSnapshot
from bfrepo.checker.structure import file_blobs, file_fault, tree_blobs
from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted
from bfrepo.core.protocols import BlobLoader, BlobSizes
from bfrepo.data.node import Node
from bfrepo.data.tree import load_tree

_COUNTED: Final = 100_000


class Cause(NamedTuple):
    """What is to blame: a pack by its ID, the index (no ID), or a tree by its ID."""

    what: Literal["pack", "index", "tree"]
    id: bytes


@dataclass(slots=True)
class Dependents:
    """What depends on one cause. Each snapshot and path counts once; `files_count` is exact up to 100,000."""

    snapshots: list[AffectedSnapshot] = field(default_factory=list)
    files: dict[bytes, None] = field(default_factory=dict)
    _hashes: set[int] = field(default_factory=set)

    @property
    def files_count(self) -> int:
        return len(self._hashes)

    def add_file(self, path: bytes) -> None:
        """Take in the raw path of a file or directory."""
        if len(self.files) < LISTED:
            self.files[path] = None
        if len(self._hashes) < _COUNTED:
            self._hashes.add(hash(path))


@dataclass(slots=True)
class _Tree:
    """What is to blame for a directory itself, for each of its files, and where its subdirectories are."""

    own: set[Cause]
    files: list[tuple[bytes, set[Cause]]] = field(default_factory=list)
    below: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class _Level:
    """A directory that is being gone through:

    the causes found so far, and the trees below it that are still to come.
    """

    tree_id: bytes
    causes: set[Cause]
    below: list[bytes]


class DependentsWalk:
    """Collects what depends on each cause.

    `cause_of` tells which pack, or the index, is to blame for a blob, or None.
    """

    def __init__(
        self,
        loader: BlobLoader,
        sizes: BlobSizes,
        cause_of: Callable[[bytes], Cause | None],
        cancelled: Callable[[], bool],
    ) -> None:
        self.found: dict[Cause, Dependents] = {}
        self.tree_errors: dict[bytes, BackupForgeError] = {}
        self._loader = loader
        self._sizes = sizes
        self._cause_of = cause_of
        self._cancelled = cancelled
        self._causes: dict[bytes, frozenset[Cause]] = {}
        self._listed: set[tuple[bytes, bytes]] = set()

    def add(self, snapshot: AffectedSnapshot, root: bytes) -> None:
        """Walk one snapshot. Raises Interrupted."""
        for cause in sorted(self._causes_below(root)):
            self.found.setdefault(cause, Dependents()).snapshots.append(snapshot)
        self._list_files(root)

    def _causes_below(self, root: bytes) -> frozenset[Cause]:
        """Every cause in or below the tree, found without recursion, as directories nest deeper than Python does."""
        known = self._causes
        stack = [] if root in known else [self._enter(root)]
        while stack:
            level = stack[-1]
            if level.below:
                child = level.below.pop()
                if child in known:
                    level.causes |= known[child]
                else:
                    stack.append(self._enter(child))
            else:
                stack.pop()
                known[level.tree_id] = frozenset(level.causes)
                if stack:
                    stack[-1].causes |= level.causes
        return known[root]

    def _enter(self, tree_id: bytes) -> _Level:
        tree = self._look(tree_id)
        return _Level(
            tree_id, tree.own.union(*(causes for _, causes in tree.files)), [below for _, below in tree.below]
        )

    def _list_files(self, root: bytes) -> None:
        stack = [(b"/", root)]
        while stack:
            path, tree_id = stack.pop()
            if not self._causes[tree_id] or (path, tree_id) in self._listed:
                continue
            self._listed.add((path, tree_id))
            tree = self._look(tree_id)
            self._add_path(path, tree.own)
            prefix = path if path.endswith(b"/") else path + b"/"
            for name, causes in tree.files:
                self._add_path(prefix + name, causes)
            stack.extend((prefix + name, subtree) for name, subtree in reversed(tree.below))

    def _add_path(self, path: bytes, causes: Iterable[Cause]) -> None:
        for cause in causes:
            self.found[cause].add_file(path)

    def _look(self, tree_id: bytes) -> _Tree:
        if self._cancelled():
            raise Interrupted("stopped while looking for what depends on the damage")
        own = self._causes_of(tree_blobs(self._loader, tree_id))
        try:
            nodes = load_tree(self._loader, tree_id)
        except BackupForgeError as error:
            return _Tree(own or {self._blame_tree(tree_id, error)})
        files = [
            (node.name, causes) for node in nodes if node.type == "file" and (causes := self._look_at(tree_id, node))
        ]
        return _Tree(own, files, [(node.name, node.subtree) for node in nodes if node.type == "dir"])

    def _look_at(self, tree_id: bytes, node: Node) -> set[Cause]:
        causes = self._causes_of(file_blobs(self._loader, node))
        if causes:
            return causes
        fault = file_fault(self._loader, self._sizes, node)
        return {self._blame_tree(tree_id, DamagedObject(fault))} if fault is not None else set()

    def _causes_of(self, blob_ids: Iterable[bytes]) -> set[Cause]:
        return {cause for blob_id in blob_ids if (cause := self._cause_of(blob_id)) is not None}

    def _blame_tree(self, tree_id: bytes, error: BackupForgeError) -> Cause:
        self.tree_errors.setdefault(tree_id, error)
        return Cause("tree", tree_id)
