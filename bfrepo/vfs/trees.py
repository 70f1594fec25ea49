"""Directories that snapshots have: their trees, decoded when somebody looks, and kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from bfrepo.core.concurrency import native_threads
from bfrepo.core.protocols import BlobViews
from bfrepo.core.units import KIB
from bfrepo.data.layout import unpack_holes
from bfrepo.data.node import Node
from bfrepo.data.records import load_records
from bfrepo.data.tree import check_nodes, decode_tree, load_tree
from bfrepo.vfs.directory import Listing, join

_MOST_NODES: Final = 20_000
"""Decoded entries that are kept, at about 700 bytes each; the directory that was decoded last is kept in any case."""

_QUICK: Final = 64 * KIB
"""Bytes of a tree that is decoded at once when its frame is at hand: a few hundred entries, in less than a ms."""


class Trees:
    """Gives the entries of trees by ID, shared by all snapshots. May be used from any thread."""

    def __init__(self, views: BlobViews) -> None:
        self.views = views
        self._is_far = views.readers > native_threads()
        self._listings: OrderedDict[bytes, Listing] = OrderedDict()
        self._nodes = 0
        self._lock = threading.Lock()

    def at_hand(self, tree_id: bytes) -> Listing | None:
        """The entries, unless it takes a while to get them. Raises DamagedObject, MissingBlob or UnsupportedFormat."""
        listing = self._known(tree_id)
        if listing is not None:
            return listing
        data = self.views.peek(tree_id)
        if data is None or len(data) > _QUICK:
            return None
        nodes, part_ids = decode_tree(tree_id, data)
        if part_ids or any(node.holes_depth for node in nodes):
            return None
        check_nodes(tree_id, nodes)
        return self._keep(tree_id, nodes)

    def load(self, tree_id: bytes) -> Listing:
        """The entries. Raises also StorageError.

        Where a storage is far away, the directories in it are asked for: who lists one often lists those next.
        """
        known = self._known(tree_id)
        if known is not None:
            return known
        nodes = load_tree(self.views, tree_id)
        if self._is_far:
            self.views.prefetch(node.subtree for node in nodes if node.type == "dir")
        return self._keep(tree_id, nodes)

    def find(self, root: bytes, path: bytes) -> Node | None:
        """The node at a raw path below a tree, None where there is none; the root itself is a nameless directory.

        Raises what `load` raises.
        """
        node = Node(name=b"/", type="dir", subtree=root)
        for name in filter(None, path.split(b"/")):
            listing = self.load(node.subtree) if node.type == "dir" else None
            at = listing.position(name) if listing is not None else None
            if listing is None or at is None:
                return None
            node = listing.nodes[at]
        return node

    def _known(self, tree_id: bytes) -> Listing | None:
        with self._lock:
            listing = self._listings.get(tree_id)
            if listing is not None:
                self._listings.move_to_end(tree_id)
            return listing

    def _keep(self, tree_id: bytes, nodes: list[Node]) -> Listing:
        listing = Listing(nodes, {node.name: self._hole_bytes(node) for node in nodes if node.holes})
        with self._lock:
            if tree_id not in self._listings:
                self._nodes += len(nodes)
                self._listings[tree_id] = listing
            while self._nodes > _MOST_NODES and len(self._listings) > 1:
                self._nodes -= len(self._listings.popitem(last=False)[1].nodes)
        return listing

    def _hole_bytes(self, node: Node) -> int:
        holes = unpack_holes(node.size, load_records(self.views, node.holes, node.holes_depth))
        return sum(end - start for start, end in holes)


@dataclass(frozen=True, slots=True)
class TreeDirectory:
    """Implements Directory over a tree. `scope` is the ID of its snapshot."""

    trees: Trees
    tree_id: bytes
    path: bytes
    scope: bytes
    lasting: bool = True

    def at_hand(self) -> Listing | None:
        """See Directory."""
        return self.trees.at_hand(self.tree_id)

    def load(self) -> Listing:
        """See Directory."""
        return self.trees.load(self.tree_id)

    def subdirectory(self, node: Node) -> TreeDirectory:
        """See Directory."""
        return TreeDirectory(self.trees, node.subtree, join(self.path, node.name), self.scope)
