"""A tree: the sorted nodes of one directory as a blob, encoded canonically, so that equal directories have equal IDs.

    MessagePack array: [version (1), nodes, parts]
    nodes   list of nodes (see node.py), strictly ascending by raw name
    parts   concatenated IDs; a large directory keeps its nodes in further tree blobs, in order, and has none of its own

Where a large directory is cut depends on its names alone: adding a file to a directory of 100,000 stores about 1,000
nodes again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Final
from zlib import crc32

import msgspec

from bfrepo.core.errors import MALFORMED, DamagedObject, UnsupportedFormat
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.protocols import BlobLoader, BlobSaver, Buffer
from bfrepo.data.node import Node
from bfrepo.data.records import split_ids

TREE_VERSION: Final = 1

_WHOLE_NODES: Final = 4096
_WHOLE_BYTES: Final = 2 << 20
_MEAN_NODES: Final = 1024
_LEAST_NODES: Final = 128


class _Tree(msgspec.Struct, array_like=True, gc=False):
    version: int
    nodes: list[Node]
    parts: bytes = b""


class _StoredTree(msgspec.Struct, array_like=True):
    version: int
    nodes: list[msgspec.Raw]
    parts: bytes = b""


class _Version(msgspec.Struct, array_like=True):
    version: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Tree).decode
_decode_stored = msgspec.msgpack.Decoder(_StoredTree).decode


def save_tree(
    saver: BlobSaver, nodes: Sequence[Node], stored: Mapping[bytes, msgspec.Raw] = MappingProxyType({})
) -> bytes:
    """The ID of the tree of `nodes`, which must be sorted by name.

    Those that `stored` has, by name, are written as they stand there: with fields that this version does not know.
    """
    if len(nodes) <= _WHOLE_NODES:
        encoded = _encode_tree(nodes, stored)
        if len(encoded) <= _WHOLE_BYTES:
            return saver.save(BlobKind.TREE, encoded)
    parts = (saver.save(BlobKind.TREE, _encode_tree(part, stored)) for part in _split(nodes))
    return saver.save(BlobKind.TREE, _encode(_Tree(TREE_VERSION, [], b"".join(parts))))


def _encode_tree(nodes: Sequence[Node], stored: Mapping[bytes, msgspec.Raw]) -> bytes:
    if not stored:
        return _encode(_Tree(TREE_VERSION, list(nodes)))
    return _encode((TREE_VERSION, [stored.get(node.name, node) for node in nodes], b""))


def stored_nodes(loader: BlobLoader, tree_id: bytes, nodes: Sequence[Node]) -> dict[bytes, msgspec.Raw]:
    """Of the nodes of a tree, which are `nodes`, those that a later version added something to: by name, as stored."""
    tree = _decode_stored(loader.load(BlobKind.TREE, tree_id))
    parts = [_decode_stored(loader.load(BlobKind.TREE, part_id)) for part_id in split_ids(tree.parts)]
    raw = [node for part in (tree, *parts) for node in part.nodes]
    return {node.name: stored for node, stored in zip(nodes, raw, strict=True) if bytes(stored) != _encode(node)}


def with_subtree(stored: msgspec.Raw, subtree: bytes) -> msgspec.Raw:
    """A directory that is kept as it is stored, with another tree."""
    return msgspec.Raw(_encode({**msgspec.msgpack.decode(stored), "e": subtree}))


def load_tree(loader: BlobLoader, tree_id: bytes) -> list[Node]:
    """The nodes of a tree, sorted, with names that are safe to use in a path.

    Raises DamagedObject for anything that is not a well-formed tree, UnsupportedFormat for a newer version.
    """
    return load_tree_blobs(loader, tree_id)[0]


def load_tree_blobs(loader: BlobLoader, tree_id: bytes) -> tuple[list[Node], list[bytes]]:
    """As `load_tree`, with the IDs of the further blobs that hold its parts."""
    nodes, part_ids = decode_tree(tree_id, loader.load(BlobKind.TREE, tree_id))
    for part_id in part_ids:
        more, further = decode_tree(part_id, loader.load(BlobKind.TREE, part_id))
        if further:
            raise DamagedObject(f"tree {short_id(tree_id)}: its part {short_id(part_id)} has parts of its own")
        nodes.extend(more)
    check_nodes(tree_id, nodes)
    return nodes, part_ids


def encode_tree(nodes: list[Node], parts: bytes) -> bytes:
    """One tree blob, of nodes or of the IDs of parts."""
    return _encode(_Tree(TREE_VERSION, nodes, parts))


def decode_tree(tree_id: bytes, data: Buffer) -> tuple[list[Node], list[bytes]]:
    """The nodes and the part IDs in one tree blob, checked but for the order across parts."""
    try:
        tree = _decode(data)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        refuse_newer(tree_id, data)
        raise DamagedObject(f"tree {short_id(tree_id)}: does not decode: {error}") from error
    if tree.version != TREE_VERSION:
        raise UnsupportedFormat(f"tree {short_id(tree_id)}: version {tree.version} is not known to this program")
    return tree.nodes, split_ids(tree.parts) if tree.parts else []


def refuse_newer(tree_id: bytes, data: Buffer) -> None:
    """Raise UnsupportedFormat if what does not decode says that it is of another version."""
    with suppress(msgspec.MsgspecError, *MALFORMED):
        version = msgspec.msgpack.decode(data, type=_Version).version
        if version != TREE_VERSION:
            raise UnsupportedFormat(f"tree {short_id(tree_id)}: version {version} is not known to this program")


def check_nodes(tree_id: bytes, nodes: list[Node]) -> None:
    """Refuse names that are unsafe in a path, unsorted or doubled, and directories without a tree.

    In bulk, as this runs for every file of a snapshot.
    """
    names = [node.name for node in nodes]
    distinct = set(names)
    joined = b"/".join(names)
    if (
        joined.count(b"/") != max(len(names) - 1, 0)
        or b"\0" in joined
        or b"." in distinct
        or b".." in distinct
        or len(distinct) != len(names)
        or sorted(names) != names
    ):
        raise DamagedObject(f"tree {short_id(tree_id)}: it has a name that is not allowed there, or names out of order")
    if not {len(node.subtree) for node in nodes if node.type == "dir"} <= {ID_SIZE}:
        raise DamagedObject(f"tree {short_id(tree_id)}: it has a directory without a tree")


def _weight(node: Node) -> int:
    """About how many bytes the node takes, without encoding it."""
    return (
        96
        + len(node.name)
        + len(node.content)
        + len(node.holes)
        + len(node.target)
        + sum(len(v) for _, v in node.xattrs)
    )


def _split(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    part: list[Node] = []
    weight = 0
    for node in nodes:
        part.append(node)
        weight += _weight(node)
        at_cut = crc32(node.name) % _MEAN_NODES == 0 and len(part) >= _LEAST_NODES
        if at_cut or weight > _WHOLE_BYTES or len(part) >= _WHOLE_NODES:
            yield part
            part, weight = [], 0
    if part:
        yield part
