"""Trees for another repository: the same nodes with other blob IDs in them.

IDs are keyed hashes, so a copy of a tree is another tree: below it everything must have its new ID first. Nodes are
rewritten as the maps they are stored as, not as `Node`, so that fields that this version does not know survive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.protocols import BlobLoader, BlobSaver
from bfrepo.data.records import load_records, save_records, split_ids

_HOLE_SIZE: Final = 16

_decode = msgspec.msgpack.Decoder(list[Any]).decode
_encode = msgspec.msgpack.Encoder().encode

NewIds = Callable[[bytes], bytes]
"""From a concatenation of old IDs to one of new IDs. Raises MissingBlob for one that has none."""


def rekey_tree(loader: BlobLoader, saver: BlobSaver, tree_id: bytes, *, data_ids: NewIds, subtree_ids: NewIds) -> bytes:
    """Save a tree of `loader` to `saver`, with new IDs; its own new ID. Large directories keep their parts.

    The tree must be well-formed (see data/tree.py) and everything below it saved. Raises MissingBlob and DamagedObject.
    """
    fields = _decode(loader.load(BlobKind.TREE, tree_id))  # version, nodes, IDs of parts
    for node in fields[1]:
        _rekey_node(loader, saver, node, data_ids, subtree_ids)
    if len(fields) > 2 and fields[2]:
        parts = split_ids(fields[2])
        fields[2] = b"".join(
            rekey_tree(loader, saver, part, data_ids=data_ids, subtree_ids=subtree_ids) for part in parts
        )
    return saver.save(BlobKind.TREE, _encode(fields))


def _rekey_node(
    loader: BlobLoader, saver: BlobSaver, node: dict[str, Any], data_ids: NewIds, subtree_ids: NewIds
) -> None:
    """Change the fields that name blobs; their keys are those of the table in node.py."""
    if node.get("o"):
        if node.get("O"):
            listed = load_records(loader, node["o"], node["O"])
            node["o"], node["O"] = save_records(saver, data_ids(listed), ID_SIZE)
        else:
            node["o"] = data_ids(node["o"])
    if node.get("H"):
        node["h"], node["H"] = save_records(saver, load_records(loader, node["h"], node["H"]), _HOLE_SIZE)
    if node.get("t") == "dir":
        node["e"] = subtree_ids(node["e"])
