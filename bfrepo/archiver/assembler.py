"""Making trees of nodes that come in any order, as those of an archive do.

What came is kept in a temporary database rather than in memory, as there may be millions of nodes, and stored from the
bottom up at the end. SQLite writes it to a file, which nobody else sees, as far as it does not fit its cache.

    names   (directory, name) -> the number of a file or directory; several names may have the same number
    nodes   number -> the node without its name, and for a directory how deep it is
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from types import TracebackType
from typing import Final

import msgspec

from bfrepo.core.protocols import BlobSaver
from bfrepo.data.node import Node
from bfrepo.data.tree import save_tree

_SCHEMA: Final = """
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -32768;
    CREATE TABLE names (directory INTEGER, name BLOB, number INTEGER, PRIMARY KEY (directory, name)) WITHOUT ROWID;
    CREATE TABLE nodes (number INTEGER PRIMARY KEY, node BLOB, depth INTEGER);
    CREATE TABLE links (number INTEGER PRIMARY KEY, count INTEGER);
"""
_ROOT: Final = 0
_REMEMBERED: Final = 50_000
"""Directories whose numbers are kept in memory."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Node).decode


class Unplaceable(Exception):
    """An entry cannot be where it wants to be: the message says why."""


class TreeAssembler:
    """Takes nodes by their paths and makes a tree of them. Used by one thread, as a context manager."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._execute = self._database.execute
        self._database.executescript(_SCHEMA)
        self._execute("BEGIN")
        self._numbers: dict[tuple[bytes, ...], int] = {(): _ROOT}
        self._last = _ROOT
        self._deepest = 0
        self._linked = False
        self._execute("INSERT INTO nodes VALUES (?, ?, 0)", (_ROOT, _encode(Node(name=b"/", type="dir"))))

    def __enter__(self) -> TreeAssembler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def add_directory(self, path: Sequence[bytes], node: Node) -> None:
        """A directory, or what is to be known of one that is there. Raises Unplaceable."""
        number = self._directory(tuple(path), node)
        self._execute("UPDATE nodes SET node = ? WHERE number = ?", (_encode(node), number))

    def reserve(self, path: Sequence[bytes], node: Node) -> int:
        """The number of something that is no directory, for which `fill` gives the node when it is complete.

        What had the path before, in an archive that was appended to, is replaced. `node` is what directories above it
        that were not told of are made after. Raises Unplaceable.
        """
        directory = self._directory(tuple(path[:-1]), node)
        self._last += 1
        self._place(directory, path[-1], self._last)
        return self._last

    def fill(self, number: int, node: Node) -> None:
        """The node of what `reserve` gave a number."""
        self._execute("INSERT INTO nodes VALUES (?, ?, NULL)", (number, _encode(node)))

    def link(self, path: Sequence[bytes], target: Sequence[bytes], node: Node) -> None:
        """A further name of something that came before. Raises Unplaceable."""
        number = self._find(tuple(target))
        if number is None or self._is_directory(number):
            raise Unplaceable("a hard link to something that did not come before it")
        self._place(self._directory(tuple(path[:-1]), node), path[-1], number)
        self._linked = True

    def save(self, saver: BlobSaver) -> bytes:
        """Store the trees; the ID of the root."""
        if self._linked:
            self._execute("INSERT INTO links SELECT number, COUNT(*) FROM names GROUP BY number HAVING COUNT(*) > 1")
        tree = b""
        for depth in range(self._deepest, -1, -1):
            found = self._execute("SELECT number FROM nodes WHERE depth = ? ORDER BY number", (depth,)).fetchall()
            for (number,) in found:
                tree = save_tree(saver, self._nodes(number))
                if depth:
                    self._set_subtree(number, tree)
        return tree

    def _nodes(self, directory: int) -> list[Node]:
        rows = self._execute(
            "SELECT name, number, node, count FROM names JOIN nodes USING (number) LEFT JOIN links USING (number)"
            " WHERE directory = ? ORDER BY name",
            (directory,),
        )
        nodes = []
        for name, number, encoded, count in rows:
            node = _decode(encoded)
            node.name = name
            if count is not None:
                node.links, node.inode = count, number
            nodes.append(node)
        return nodes

    def _set_subtree(self, number: int, tree: bytes) -> None:
        ((encoded,),) = self._execute("SELECT node FROM nodes WHERE number = ?", (number,))
        node = _decode(encoded)
        node.subtree = tree
        self._execute("UPDATE nodes SET node = ? WHERE number = ?", (_encode(node), number))

    def _directory(self, path: tuple[bytes, ...], like: Node) -> int:
        """The number of a directory, which is made if it was not told of. Raises Unplaceable."""
        number = self._numbers.get(path)
        if number is not None:
            return number
        if len(self._numbers) > _REMEMBERED:
            self._numbers = {(): _ROOT}
        depth = len(path)
        while (number := self._numbers.get(path[:depth])) is None:
            depth -= 1
        for at in range(depth, len(path)):
            number = self._enter(number, path[at], at + 1, like)
        self._numbers[path] = number
        return number

    def _enter(self, directory: int, name: bytes, depth: int, like: Node) -> int:
        number = self._child(directory, name)
        if number is not None:
            if not self._is_directory(number):
                raise Unplaceable("it lies below something that is no directory")
            return number
        self._last += 1
        self._execute("INSERT INTO names VALUES (?, ?, ?)", (directory, name, self._last))
        node = Node(name=name, type="dir", mode=0o755, uid=like.uid, gid=like.gid, user=like.user, group=like.group)
        node.mtime_ns = node.ctime_ns = like.mtime_ns
        self._execute("INSERT INTO nodes VALUES (?, ?, ?)", (self._last, _encode(node), depth))
        self._deepest = max(self._deepest, depth)
        return self._last

    def _place(self, directory: int, name: bytes, number: int) -> None:
        """Give a name to something that is no directory."""
        added = self._execute("INSERT OR IGNORE INTO names VALUES (?, ?, ?)", (directory, name, number))
        if added.rowcount:
            return
        before = self._child(directory, name)
        if before is not None and self._is_directory(before):
            raise Unplaceable("there is a directory of this name already")
        self._execute("UPDATE names SET number = ? WHERE directory = ? AND name = ?", (number, directory, name))

    def _find(self, path: tuple[bytes, ...]) -> int | None:
        number: int | None = _ROOT
        for name in path:
            number = self._child(number, name) if number is not None else None
        return number

    def _child(self, directory: int, name: bytes) -> int | None:
        row = self._execute("SELECT number FROM names WHERE directory = ? AND name = ?", (directory, name)).fetchone()
        return row[0] if row else None

    def _is_directory(self, number: int) -> bool:
        return bool(self._execute("SELECT 1 FROM nodes WHERE number = ? AND depth NOT NULL", (number,)).fetchone())
