"""Trees for another repository: the same nodes with other blob IDs in them.

IDs are keyed hashes, so a copy of a tree is another tree: all that is below it must have its new ID first. The copy is
encoded as a backup to that repository would encode it, so the two deduplicate. Fields that this version does not know
survive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.protocols import BlobLoader, BlobSaver
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, save_records
from bfrepo.data.tree import decode_tree, encode_tree

_HOLE_SIZE: Final = 16

NewIds = Callable[[bytes], bytes]
"""From a concatenation of old IDs to one of new IDs. Raises MissingBlob for one that has none."""


def rekey_tree(loader: BlobLoader, saver: BlobSaver, tree_id: bytes, *, data_ids: NewIds, subtree_id: NewIds) -> bytes:
    """Save a tree of `loader` to `saver`, with new IDs; its own new ID. Large directories keep their parts.

    The tree must be well-formed (see tree.py) and everything below it saved. Raises MissingBlob, DamagedObject and
    UnsupportedFormat.
    """
    data = loader.load(BlobKind.TREE, tree_id)
    nodes, part_ids = decode_tree(tree_id, data)
    is_all_known = encode_tree(nodes, b"".join(part_ids)) == data
    for node in nodes:
        _rekey_node(loader, saver, node, data_ids, subtree_id)
    parts = b"".join(rekey_tree(loader, saver, part, data_ids=data_ids, subtree_id=subtree_id) for part in part_ids)
    encoded = encode_tree(nodes, parts) if is_all_known else _with_unknown_fields(data, nodes, parts)
    return saver.save(BlobKind.TREE, encoded)


def _rekey_node(loader: BlobLoader, saver: BlobSaver, node: Node, data_ids: NewIds, subtree_id: NewIds) -> None:
    if node.content_depth:
        listed = load_records(loader, node.content, node.content_depth)
        node.content, node.content_depth = save_records(saver, data_ids(listed), ID_SIZE)
    elif node.content:
        node.content = data_ids(node.content)
    if node.holes_depth:
        listed = load_records(loader, node.holes, node.holes_depth)
        node.holes, node.holes_depth = save_records(saver, listed, _HOLE_SIZE)
    if node.type == "dir":
        node.subtree = subtree_id(node.subtree)


def _with_unknown_fields(data: bytes, nodes: list[Node], parts: bytes) -> bytes:
    """The tree blob `data` with other nodes and parts, and what a later version has put beside them."""
    known = {field.encode_name for field in msgspec.structs.fields(Node)}
    version, old_nodes, *more = msgspec.msgpack.decode(data, type=list[Any])
    new_nodes = [
        {
            **msgspec.to_builtins(new, builtin_types=(bytes,)),
            **{key: value for key, value in old.items() if key not in known},
        }
        for old, new in zip(old_nodes, nodes, strict=True)
    ]
    return msgspec.msgpack.encode([version, new_nodes, parts, *more[1:]])
