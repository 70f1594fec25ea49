"""Looking things up in a catalogue: names wherever they are, and one path in many snapshots."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from bfrepo.catalogue.growth import NODE_TYPES, searchable
from bfrepo.data.identity import Identity
from bfrepo.data.node import Node
from bfrepo.data.trail import Found, Trail
from bfrepo.sources.query import NameQuery

_LEAST_LITERAL: Final = 3
"""Characters that the search for a part of a name needs."""

_SHOWN: Final = "nodes.type, mode, uid, gid, user_name, group_name, size, mtime_ns, rdev, target"

_ENTRIES: Final = (
    f"SELECT entries.tree, names.name, entries.node, {_SHOWN} FROM temp.wanted"  # noqa: S608 (the columns are ours)
    " CROSS JOIN names ON names.id = wanted.name CROSS JOIN entries ON entries.name = wanted.name"
    " CROSS JOIN nodes ON nodes.id = entries.node"
)
_LINKS_UP: Final = (
    "WITH RECURSIVE up (tree) AS"
    " (SELECT tree FROM temp.hits UNION SELECT links.parent FROM up JOIN links ON links.child = up.tree)"
    " SELECT links.parent, links.child, names.name FROM up"
    " CROSS JOIN links ON links.child = up.tree LEFT JOIN names ON names.id = links.name"
)
_ENTRY: Final = (
    f"SELECT nodes.content, nodes.metadata, {_SHOWN} FROM entries JOIN nodes ON nodes.id = entries.node"  # noqa: S608
    " WHERE entries.name = ? AND entries.tree = ?"
)
_CHILD: Final = "SELECT child FROM links WHERE name = ? AND parent = ?"
_PARTS: Final = "SELECT child FROM links WHERE name = 0 AND parent = ?"


class Entry(NamedTuple):
    """A version of a path: what is shown of it, and what it goes by."""

    node: Node
    identity: Identity


def find_roots(connection: sqlite3.Connection, wanted: Collection[bytes]) -> dict[bytes, int]:
    """The numbers of the root trees of those of the `wanted` snapshots that are there."""
    rows = connection.execute("SELECT id, root FROM snapshots")
    return {identifier: root for identifier, root in rows if identifier in wanted}


def find_trail(connection: sqlite3.Connection, query: NameQuery) -> Trail:
    """Where what comes into question is, in all trees."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS wanted (name INTEGER PRIMARY KEY)")
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS hits (tree INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM temp.wanted")
    connection.execute("DELETE FROM temp.hits")
    names = ((number,) for number, name in _candidates(connection, query) if query.may_fit(name))
    connection.executemany("INSERT OR IGNORE INTO temp.wanted (name) VALUES (?)", names)
    entries = _entries(connection, query)
    connection.executemany("INSERT INTO temp.hits (tree) VALUES (?)", ((tree,) for tree in entries))
    below = defaultdict(list)
    for parent, child, name in connection.execute(_LINKS_UP):
        below[parent].append((name or b"", child))
    return Trail(entries, dict(below))


def _candidates(connection: sqlite3.Connection, query: NameQuery) -> Iterator[tuple[int, bytes]]:
    """Names that the patterns may fit, with their numbers: few of them, where the patterns say enough."""
    expressions = [_search_expression(literals, plain=query.ignore_case) for literals in query.literals]
    if not all(expressions):
        yield from connection.execute("SELECT id, name FROM names").fetchall()
        return
    for expression in expressions:
        yield from connection.execute(
            "SELECT id, name FROM names WHERE id IN (SELECT rowid FROM names_fts WHERE names_fts MATCH ?)",
            (expression,),
        ).fetchall()
    if query.ignore_case:  # which letters are equal beyond ASCII only the pattern knows
        yield from connection.execute("SELECT id, name FROM names WHERE NOT plain").fetchall()


def _search_expression(literals: Iterable[str], *, plain: bool) -> str:
    """What finds the names that have all these texts in them; empty if there is none that is long enough."""
    texts = [searchable(text.encode()) for text in literals if text.isascii() or not plain]
    quoted = [text.replace('"', '""') for text in texts if len(text) >= _LEAST_LITERAL]
    return " AND ".join(f'"{text}"' for text in quoted)


def _entries(connection: sqlite3.Connection, query: NameQuery) -> dict[int, list[Found]]:
    """What the wanted names stand for, by tree. Trees share what is the same in them."""
    found: dict[int, list[Found]] = defaultdict(list)
    known: dict[tuple[bytes, int], Found] = {}
    for tree, name, number, *shown in connection.execute(_ENTRIES):
        each = known.get((name, number))
        if each is None:
            each = known[name, number] = Found(_node(name, shown))
        if query.in_time(each.node.mtime_ns):
            found[tree].append(each)
    return dict(found)


def find_entries(connection: sqlite3.Connection, names: Sequence[bytes], roots: Collection[int]) -> dict[int, Entry]:
    """What is at a path, given by its parts, below each of the root trees; nothing for one that has no such path."""
    numbers = [_name_number(connection, name) for name in names]
    if None in numbers:
        return {}
    trees = {root: root for root in roots}
    for number in numbers[:-1]:
        children = {tree: _child(connection, tree, number) for tree in set(trees.values())}
        trees = {root: child for root, tree in trees.items() if (child := children[tree]) is not None}
    entries = {tree: _entry(connection, tree, names[-1], numbers[-1]) for tree in set(trees.values())}
    return {root: entry for root, tree in trees.items() if (entry := entries[tree]) is not None}


def _name_number(connection: sqlite3.Connection, name: bytes) -> int | None:
    row = connection.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def _in_parts(connection: sqlite3.Connection, statement: str, tree: int, number: int | None) -> Any:
    """The one row that says what a directory has by a name, be it whole or in parts."""
    row = connection.execute(statement, (number, tree)).fetchone()
    if row is not None:
        return row
    rows = (connection.execute(statement, (number, part)).fetchone() for (part,) in connection.execute(_PARTS, (tree,)))
    return next((row for row in rows if row is not None), None)


def _child(connection: sqlite3.Connection, tree: int, number: int | None) -> int | None:
    row = _in_parts(connection, _CHILD, tree, number)
    return None if row is None else int(row[0])


def _entry(connection: sqlite3.Connection, tree: int, name: bytes, number: int | None) -> Entry | None:
    row = _in_parts(connection, _ENTRY, tree, number)
    return None if row is None else Entry(_node(name, row[2:]), Identity(row[0], row[1]))


def _node(name: bytes, shown: Sequence[Any]) -> Node:
    kind, mode, uid, gid, user, group, size, mtime_ns, rdev, target = shown
    return Node(
        name=name,
        type=NODE_TYPES[kind],
        mode=mode,
        uid=uid,
        gid=gid,
        user=user,
        group=group,
        size=size,
        mtime_ns=mtime_ns,
        rdev=rdev,
        target=target,
    )
