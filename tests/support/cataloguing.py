"""Catalogues in tests: snapshots by one letter, and what a catalogue says of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from bfrepo.catalogue.catalogue import Catalogue
from bfrepo.catalogue.file import FILE_NAME
from bfrepo.core.progress import Progress
from bfrepo.data.node import Node
from bfrepo.data.trail import Found
from bfrepo.sources.query import NameQuery
from tests.support.backups import never
from tests.support.trees import TreeMaker

Directory = Mapping[str, "str | Directory"]
"""Names, and what is there: a directory, or a file's content."""


def snapshot_id(letter: str) -> bytes:
    """The ID of a snapshot that tests call by a letter."""
    return letter.encode() * 32


def node_of(make: TreeMaker, name: str, content: str | Directory) -> Node:
    """A file or directory."""
    if isinstance(content, str):
        return make.file(name, content.encode())
    return make.directory(name, *(node_of(make, each, inside) for each, inside in content.items()))


def root_of(make: TreeMaker, directory: Directory) -> bytes:
    """The root tree of a snapshot."""
    return make.tree(*(node_of(make, name, content) for name, content in directory.items()))


def take_in(
    catalogue: Catalogue, make: TreeMaker, /, cancelled: Callable[[], bool] = never, **snapshots: Directory
) -> None:
    """Take in snapshots, named by letters."""
    rows = {
        snapshot_id(letter): (root_of(make, content), f"body of {letter}".encode())
        for letter, content in snapshots.items()
    }
    catalogue.add(rows, make.blobs, Progress(), cancelled)


def letters(catalogue: Catalogue) -> str:
    """The snapshots that it has."""
    return "".join(sorted(identifier[:1].decode() for identifier in catalogue.snapshots()))


def search(catalogue: Catalogue, *patterns: str, snapshots: str = "abcd", **options: bool) -> dict[str, set[str]]:
    """What it finds, by snapshot; a snapshot that it does not have is not there."""
    query = NameQuery(patterns, **options)
    trail, roots = catalogue.search(query, {snapshot_id(letter) for letter in snapshots})
    found: dict[str, set[str]] = {}
    for identifier, root in roots.items():
        reached = [(path, each) for path, each in trail.follow(root) if isinstance(each, Found)]
        found[identifier[:1].decode()] = {
            path.decode(errors="surrogateescape")
            for path, each in reached
            if query.fits(path, is_dir=each.node.type == "dir")
        }
    return found


@contextmanager
def tables(folder: Path) -> Iterator[sqlite3.Connection]:
    """The file itself, as SQLite shows it."""
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None, timeout=0)) as connection:
        yield connection


def count(folder: Path, table: str) -> int:
    """The rows of a table."""
    with tables(folder) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
