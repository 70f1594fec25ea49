"""How a catalogue keeps up with its repository: snapshots come, with all trees that are new with them, and go."""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, get_args

import msgspec
from blake3 import blake3

from bfrepo.core.errors import DamagedObject, Interrupted, UnsupportedFormat
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.forest import Tree, open_tree
from bfrepo.data.identity import IDENTITY_SIZE, identity_of
from bfrepo.data.node import Node, NodeType

NODE_TYPES: Final[tuple[NodeType, ...]] = get_args(NodeType)
"""Types by the number they have in the table. A new one goes to the end."""

_SWEEP_SHARE: Final = 10
"""What only dropped snapshots had is swept out when they are a tenth of those that are left: to find it takes a look at
everything."""

_TRANSACTION_ROWS: Final = 50_000
"""Entries after which a transaction ends. Many small ones would write the same pages again and again, and a long one
keeps others from writing."""

_KEPT_NUMBERS: Final = 100_000
"""Most entries whose numbers are kept in memory: about 25 MB."""

_FIND_NODE: Final = "SELECT id FROM nodes WHERE content = ? AND metadata = ?"
_ADD_NODE: Final = (
    "INSERT INTO nodes (content, metadata, type, mode, uid, gid, user_name, group_name, size, mtime_ns, rdev, target)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)

_encode = msgspec.msgpack.Encoder().encode

_SWEEP: Final = (
    "DROP TABLE IF EXISTS temp.live",
    "CREATE TEMP TABLE live (tree INTEGER PRIMARY KEY)",
    "WITH RECURSIVE down (tree) AS (SELECT root FROM snapshots UNION"
    " SELECT links.child FROM down JOIN links ON links.parent = down.tree) INSERT INTO temp.live SELECT tree FROM down",
    "DELETE FROM links WHERE parent NOT IN temp.live",
    "DELETE FROM entries WHERE tree NOT IN temp.live",
    "DELETE FROM trees WHERE id NOT IN temp.live",
    "DELETE FROM nodes WHERE id NOT IN (SELECT node FROM entries)",
    "DELETE FROM names WHERE id NOT IN (SELECT name FROM entries)",
    "DROP TABLE temp.live",
)


@contextmanager
def transaction(connection: sqlite3.Connection, *, writes: bool) -> Iterator[None]:
    """All that is read is of one moment, and all that is written is there at once or not at all."""
    connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def drop_snapshots(connection: sqlite3.Connection, identifiers: Collection[bytes]) -> None:
    """Forget snapshots that the repository has no more. Raises sqlite3.Error."""
    with transaction(connection, writes=True):
        connection.executemany("DELETE FROM snapshots WHERE id = ?", [(each,) for each in identifiers])
        left = connection.execute("SELECT count(*) FROM snapshots").fetchone()[0]
        dropped = connection.execute("UPDATE dropped SET count = count + ? RETURNING count", (len(identifiers),))
        if dropped.fetchone()[0] * _SWEEP_SHARE >= left:
            for statement in _SWEEP:
                connection.execute(statement)
            connection.execute("UPDATE dropped SET count = 0")


class Intake:
    """Takes in snapshots with all trees that are new with them, many in one transaction. Used by one thread.

    Of two trees that follow one another most entries are the same. So the numbers of entries that were met lately are
    kept; they hold as long as nobody else changes the file, and nothing is taken back.
    """

    def __init__(
        self, connection: sqlite3.Connection, loader: BlobLoader, progress: Progress, cancelled: Callable[[], bool]
    ) -> None:
        self._connection = connection
        self._loader = loader
        self._progress = progress
        self._cancelled = cancelled
        self._new: list[tuple[int, bytes]] = []
        self._rows = 0
        self._numbers: dict[bytes, tuple[int, int]] = {}
        self._version = 0

    def add(self, snapshots: Mapping[bytes, tuple[bytes, bytes]]) -> None:
        """Take in snapshots that are not there yet: by ID, root tree and encoded snapshot.

        One with a tree that cannot be read is left out. Raises sqlite3.Error, or Interrupted: those that are not taken
        in by then are left out.
        """
        waiting = deque(snapshots.items())
        while waiting:
            with transaction(self._connection, writes=True):
                self._forget_if_changed()
                self._rows = 0
                while waiting and self._rows < _TRANSACTION_ROWS:
                    identifier, (root, body) = waiting.popleft()
                    self._add_snapshot(identifier, root, body)

    def _forget_if_changed(self) -> None:
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]  # others' changes, not ours
        if version != self._version:
            self._numbers.clear()
            self._version = version

    def _add_snapshot(self, identifier: bytes, root: bytes, body: bytes) -> None:
        if self._connection.execute("SELECT 1 FROM snapshots WHERE id = ?", (identifier,)).fetchone():
            return  # another process was faster
        self._connection.execute("SAVEPOINT snapshot")
        try:
            number = self._add_trees(root)
            self._connection.execute(
                "INSERT INTO snapshots (id, root, body) VALUES (?, ?, ?)", (identifier, number, body)
            )
        except (DamagedObject, UnsupportedFormat):  # whoever looks into that snapshot meets the same, and reports it
            self._connection.execute("ROLLBACK TO snapshot")
            self._new.clear()
            self._numbers.clear()
        self._connection.execute("RELEASE snapshot")

    def _add_trees(self, root: bytes) -> int:
        """The number of a tree, which is added with all below it that is not there yet."""
        number = self._tree_number(root)
        while self._new:
            if self._cancelled():
                raise Interrupted("stopped while adding to the catalogue")
            parent, tree_id = self._new.pop()
            tree = open_tree(tree_id, self._loader.load(BlobKind.TREE, tree_id))
            if tree.error is not None:
                raise tree.error
            self._add_tree(parent, tree)
            self._rows += len(tree.nodes)
            self._progress.files_done += len(tree.nodes)
        return number

    def _tree_number(self, tree_id: bytes) -> int:
        """A tree's number. One that is mentioned for the first time gets it at once, and its rows in its turn."""
        known = self._connection.execute("SELECT id FROM trees WHERE tree = ?", (tree_id,)).fetchone()
        if known is not None:
            return int(known[0])
        number = self._connection.execute("INSERT INTO trees (tree) VALUES (?)", (tree_id,)).lastrowid or 0
        self._new.append((number, tree_id))
        return number

    def _add_tree(self, parent: int, tree: Tree) -> None:
        links = [(self._tree_number(part_id), parent, 0) for part_id in tree.part_ids]
        entries = []
        for node in tree.nodes:
            name, number = self._entry_numbers(node)
            entries.append((name, parent, number))
            if node.type == "dir":
                links.append((self._tree_number(node.subtree), parent, name))
        self._connection.executemany("INSERT INTO entries (name, tree, node) VALUES (?, ?, ?)", entries)
        self._connection.executemany("INSERT OR IGNORE INTO links (child, parent, name) VALUES (?, ?, ?)", links)

    def _entry_numbers(self, node: Node) -> tuple[int, int]:
        """The numbers of an entry's name and of its version."""
        key = blake3(_encode(node)).digest(IDENTITY_SIZE)
        numbers = self._numbers.get(key)
        if numbers is None:
            if len(self._numbers) >= _KEPT_NUMBERS:
                self._numbers.clear()
            numbers = self._numbers[key] = self._name_number(node.name), self._node_number(node)
        return numbers

    def _name_number(self, name: bytes) -> int:
        known = self._connection.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
        if known is not None:
            return int(known[0])
        row = (name, searchable(name), name.isascii())
        return self._connection.execute("INSERT INTO names (name, text, plain) VALUES (?, ?, ?)", row).lastrowid or 0

    def _node_number(self, node: Node) -> int:
        identity = identity_of(node)
        known = self._connection.execute(_FIND_NODE, identity).fetchone()
        if known is not None:
            return int(known[0])
        shown = (
            NODE_TYPES.index(node.type), node.mode, node.uid, node.gid, node.user, node.group, node.size,
            node.mtime_ns, node.rdev, node.target,
        )  # fmt: skip
        return self._connection.execute(_ADD_NODE, (*identity, *shown)).lastrowid or 0


def searchable(name: bytes) -> str:
    """A name as it is searched: text, without the difference of capital and small letters."""
    return name.decode("utf-8", "replace").casefold()
