"""When two entries are the same version of a file: the same content, and the same metadata.

What the system changes by itself does not make a version: change time, access time, inode, device, and how many names a
file has. A directory's content is everything below it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from blake3 import blake3

from bfrepo.data.node import Node

IDENTITY_SIZE: Final = 16
"""Bytes: enough that two of a repository's contents are never taken for one."""

_encode = msgspec.msgpack.Encoder().encode


class Identity(NamedTuple):
    """Hashes that are equal exactly when the content, or the metadata, of two entries is."""

    content: bytes
    metadata: bytes


def identity_of(node: Node) -> Identity:
    """What a version of the entry goes by."""
    content = (
        node.type, node.size, node.content, node.content_depth, node.holes, node.holes_depth, node.target, node.rdev,
        node.subtree,
    )  # fmt: skip
    metadata = (node.mode, node.uid, node.gid, node.user, node.group, node.mtime_ns, node.xattrs, node.flags)
    return Identity(_hash(content), _hash(metadata))


def _hash(fields: object) -> bytes:
    return blake3(_encode(fields)).digest(IDENTITY_SIZE)
