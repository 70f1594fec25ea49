"""What an archive of a directory has, in the order in which it is written.

Of each directory first what is no directory, then one subdirectory after the other: the order in which a backup stores
content, so that reading goes through the packs from front to back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bfrepo.core.errors import DamagedObject
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.tree import load_tree


class Entry(NamedTuple):
    """One name. `path` is raw and relative; `link` is the path of a name of the same file that came before, or None."""

    path: bytes
    node: Node
    link: bytes | None = None


def walk_entries(loader: BlobLoader, node: Node) -> Iterator[Entry]:
    """All that is in a directory, with paths that start there; or the one entry itself.

    Raises DamagedObject, which names the directory, when one cannot be read.
    """
    if node.type != "dir":
        yield Entry(node.name, node)
        return
    names = _FirstNames()
    stack = [iter([(b"", node)])]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        path, directory = found
        if path:
            yield Entry(path, directory)
        prefix = path + b"/" if path else b""
        subdirectories = []
        for child in _load(loader, directory, path):
            if child.type == "dir":
                subdirectories.append((prefix + child.name, child))
            else:
                yield names.entry(prefix + child.name, child)
        stack.append(iter(subdirectories))


def _load(loader: BlobLoader, directory: Node, path: bytes) -> list[Node]:
    try:
        return load_tree(loader, directory.subtree)
    except DamagedObject as error:
        raise DamagedObject(f"/{path.decode(errors='backslashreplace')}: {error}", hint=error.hint) from error


class _FirstNames:
    """Finds the names of one file. Only as long as names of it are missing is it remembered."""

    def __init__(self) -> None:
        self._first: dict[tuple[int, int], tuple[bytes, str]] = {}
        self._missing: dict[tuple[int, int], int] = {}

    def entry(self, path: bytes, node: Node) -> Entry:
        """The entry, linked to the first name of the same file if there was one."""
        if node.links < 2:
            return Entry(path, node)
        key = (node.device, node.inode)
        first, kind = self._first.get(key, (None, node.type))
        if first is None or kind != node.type:
            self._first[key] = path, node.type
            self._missing[key] = node.links - 1
            return Entry(path, node)
        self._missing[key] -= 1
        if self._missing[key] <= 0:
            del self._first[key], self._missing[key]
        return Entry(path, node, first)
