"""What a tree reaches: the walk that check, statistics and removal rest on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from bfrepo.core.errors import MALFORMED, BackupForgeError, DamagedObject
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, record_blobs, split_ids
from bfrepo.data.tree import TREE_VERSION, load_tree_blobs, refuse_newer


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
        stack.extend([(below + node.name, node.subtree) for node in nodes if node.type == "dir"][::-1])


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


class _Reference(
    msgspec.Struct, gc=False, rename={"content": "o", "depth": "O", "holes": "h", "holes_depth": "H", "subtree": "e"}
):
    """What a node refers to; see bfrepo/data/node.py."""

    content: bytes = b""
    depth: int = 0
    holes: bytes = b""
    holes_depth: int = 0
    subtree: bytes = b""


class _References(msgspec.Struct, array_like=True, gc=False):
    version: int
    nodes: list[_Reference]
    parts: bytes = b""


_decode: Final = msgspec.msgpack.Decoder(_References).decode


@dataclass(frozen=True, slots=True)
class TreeReferences:
    """What a tree blob refers to, IDs one behind the other; the parts of a large directory are trees, too.

    `lists` are long lists that are kept in blobs of their own: what the node holds of them, their depth, and whether
    they are lists of blobs (else of holes).
    """

    data: bytes
    trees: bytes
    lists: list[tuple[bytes, int, bool]]


def tree_references(tree_id: bytes, data: bytes) -> TreeReferences:
    """What one tree blob refers to, without the rest of its nodes, which takes a fraction of the time.

    Raises DamagedObject, and UnsupportedFormat for a newer version.
    """
    try:
        tree = _decode(data)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        refuse_newer(tree_id, data)
        raise DamagedObject(f"tree {short_id(tree_id)}: does not decode: {error}") from error
    if tree.version != TREE_VERSION:
        refuse_newer(tree_id, data)
    nodes = tree.nodes
    found = b"".join([node.content for node in nodes if not node.depth])
    trees = b"".join([node.subtree for node in nodes])
    lists = [(node.content, node.depth, True) for node in nodes if node.depth]
    lists += [(node.holes, node.holes_depth, False) for node in nodes if node.holes_depth]
    if (len(found) | len(trees) | len(tree.parts)) % ID_SIZE:
        raise DamagedObject(f"tree {short_id(tree_id)}: it refers to something that is no ID")
    return TreeReferences(found, trees + tree.parts, lists)
