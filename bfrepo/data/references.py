"""What a tree reaches: the walk that check, statistics and removal rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, record_blobs, split_ids
from bfrepo.data.tree import load_tree_blobs


@dataclass(frozen=True, slots=True)
class ReachedTree:
    """A directory that was reached: its raw path below the root, and its nodes or what is wrong with it."""

    path: bytes
    tree_id: bytes
    part_ids: list[bytes]
    nodes: list[Node]
    error: BackupForgeError | None = None


def walk_trees(loader: BlobLoader, root: bytes, seen: set[bytes], path: bytes = b"/") -> Iterator[ReachedTree]:
    """Every tree below `root` that is not in `seen`, once each, parents before children; `seen` grows by what is met.

    A tree that cannot be loaded comes with its error, and the walk goes on beside it.
    """
    stack = [(path, root)]
    while stack:
        path, tree_id = stack.pop()
        if tree_id in seen:
            continue
        seen.add(tree_id)
        try:
            nodes, part_ids = load_tree_blobs(loader, tree_id)
        except BackupForgeError as error:
            yield ReachedTree(path, tree_id, [], [], error)
            continue
        yield ReachedTree(path, tree_id, part_ids, nodes)
        below = path if path.endswith(b"/") else path + b"/"
        stack.extend((below + node.name, node.subtree) for node in reversed(nodes) if node.type == "dir")


def content_ids(loader: BlobLoader, node: Node) -> list[bytes]:
    """The IDs of the blobs that hold the file's data, in order. Raises DamagedObject."""
    content = node.content
    if not node.content_depth:
        return [content] if len(content) == 32 else split_ids(content)
    return split_ids(load_records(loader, content, node.content_depth))


def list_blobs(loader: BlobLoader, node: Node) -> list[bytes]:
    """The IDs of the blobs that hold the node's own long lists: of blobs, and of holes. Usually none."""
    if not node.content_depth and not node.holes_depth:
        return []
    return [
        *record_blobs(loader, node.content, node.content_depth),
        *record_blobs(loader, node.holes, node.holes_depth),
    ]


def reachable(loader: BlobLoader, root: bytes) -> Iterator[tuple[BlobKind, bytes]]:
    """Every blob that restoring the tree needs, with repetitions. Raises the first error that is met."""
    for tree in walk_trees(loader, root, set()):
        if tree.error is not None:
            raise tree.error
        for blob_id in (tree.tree_id, *tree.part_ids):
            yield BlobKind.TREE, blob_id
        for node in tree.nodes:
            for blob_id in list_blobs(loader, node):
                yield BlobKind.TREE, blob_id
            for blob_id in content_ids(loader, node):
                yield BlobKind.DATA, blob_id
