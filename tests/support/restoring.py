"""Restoring in memory: what a snapshot gives back, to compare with what went in; and whether a repository is whole."""

from __future__ import annotations

from collections.abc import Mapping
from struct import iter_unpack

from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import BlobLoader
from bfrepo.crypto.hashing import object_name
from bfrepo.data.node import Node
from bfrepo.data.records import load_records
from bfrepo.data.references import content_ids
from bfrepo.data.tree import load_tree
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import Backend, ObjectKind
from tests.support.repositories import stored_objects
from tests.support.sources import Item


def restored_nodes(loader: BlobLoader, tree: bytes) -> dict[str, Node]:
    """Every node below a tree by its path. Raises the first error."""
    found: dict[str, Node] = {}
    todo = [("", tree)]
    while todo:
        above, tree_id = todo.pop()
        for node in load_tree(loader, tree_id):
            path = f"{above}/{node.name.decode(errors='surrogateescape')}"
            found[path] = node
            if node.type == "dir":
                todo.append((path, node.subtree))
    return found


def file_content(loader: BlobLoader, node: Node) -> bytes:
    """What a file holds, its holes as zeros."""
    data = b"".join(loader.load(BlobKind.DATA, blob_id) for blob_id in content_ids(loader, node))
    out, taken = bytearray(), 0
    for offset, length in iter_unpack("<QQ", load_records(loader, node.holes, node.holes_depth)):
        more = offset - len(out)
        out += data[taken : taken + more] + bytes(length)
        taken += more
    out += data[taken:]
    return bytes(out)


def restored(loader: BlobLoader, tree: bytes) -> dict[str, bytes]:
    """What every file below a tree holds, and b"<type>" for whatever is no file."""
    return {
        path: file_content(loader, node) if node.type == "file" else f"<{node.type}>".encode()
        for path, node in restored_nodes(loader, tree).items()
    }


def expected(tree: Mapping[str, Item | bytes]) -> dict[str, bytes]:
    """What `restored` gives for a tree that a DictSource was made of."""
    found: dict[str, bytes] = {}
    for path, item in tree.items():
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            found.setdefault("/" + "/".join(parts[:depth]), b"<dir>")
        if isinstance(item, bytes):
            item = Item(content=item)
        found["/" + "/".join(parts)] = item.content if item.type == "file" else f"<{item.type}>".encode()
    return found


def restored_snapshots(repository: Repository) -> dict[bytes, dict[str, bytes]]:
    """What every snapshot gives back. Raises the first error: INV-1 says there is none."""
    return {
        identifier: restored(repository.loader, snapshot.tree)
        for identifier, snapshot in load_snapshots(repository).items()
    }


def misnamed(backend: Backend) -> list[str]:
    """Objects whose bytes do not hash to their name; INV-3 says there are none."""
    return [
        f"{kind.value}/{name}"
        for kind, name, data in stored_objects(backend)
        if kind is not ObjectKind.CONFIG and object_name(data) != name
    ]
