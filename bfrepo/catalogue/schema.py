"""The catalogue's tables, and how they are made.

    snapshots   id, the number of the root tree, and the snapshot itself, encoded as in the repository
    trees       the IDs of tree blobs by number
    names       names of entries, each once; `text` is how they are searched, `plain` says that they are ASCII
    nodes       versions of entries (bfrepo/data/identity.py), each once, with what is shown of them
    entries     what each tree holds, by name: (name, tree) -> node
    links       which tree refers to which by what name: (child, parent, name); name 0 is a part of a large directory
    dropped     how many snapshots are gone of which the trees are still there

Rows say of content-addressed trees what is in them, so none is ever wrong later, or changed. A snapshot comes in one
transaction with all trees that are new with it: who sees a tree sees everything below it.

A change here wants another SCHEMA_VERSION (file.py).
"""

from __future__ import annotations

import sqlite3
from typing import Final

from sqlite_utils import Database

_STATEMENTS: Final = (
    "CREATE TABLE entries (name INTEGER, tree INTEGER, node INTEGER NOT NULL, PRIMARY KEY (name, tree)) WITHOUT ROWID",
    "CREATE TABLE links (child INTEGER, parent INTEGER, name INTEGER, PRIMARY KEY (child, parent, name)) WITHOUT ROWID",
    "CREATE INDEX links_down ON links (parent, name, child)",
    "CREATE INDEX names_not_plain ON names (id) WHERE NOT plain",
    "CREATE TABLE dropped (count INTEGER NOT NULL)",
    "INSERT INTO dropped VALUES (0)",
    "PRAGMA journal_mode = WAL",
)


def make_tables(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty database. Nobody else may use it meanwhile. Raises sqlite3.Error."""
    database = Database(connection, execute_plugins=False)
    database.table("snapshots").create({"id": bytes, "root": int, "body": bytes}, pk="id", not_null={"root", "body"})
    database.table("trees").create({"id": int, "tree": bytes}, pk="id")
    database.table("trees").create_index(["tree"], unique=True)
    database.table("names").create({"id": int, "name": bytes, "text": str, "plain": int}, pk="id")
    database.table("names").create_index(["name"], unique=True)
    database.table("names").enable_fts(["text"], tokenize="trigram", create_triggers=True)
    database.table("nodes").create(
        {
            "id": int, "content": bytes, "metadata": bytes, "type": int, "mode": int, "uid": int, "gid": int,
            "user_name": str, "group_name": str, "size": int, "mtime_ns": int, "rdev": int,
            "target": bytes,
        },
        pk="id",
    )  # fmt: skip
    database.table("nodes").create_index(["content", "metadata"], unique=True)
    for statement in _STATEMENTS:
        database.execute(statement)
