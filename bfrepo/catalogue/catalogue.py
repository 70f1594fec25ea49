"""The catalogue: what all trees of a repository's snapshots hold, by name, so that nobody has to read them again.

A cache. It has some of the snapshots, each completely or not at all, and answers for those; for the others the trees
are read. Whatever is wrong with it, it has none. What its tables mean: schema.py; who may use the file: file.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from bfrepo.catalogue.file import CatalogueFile, CatalogueInUse, is_passing, open_file, remove_file
from bfrepo.catalogue.growth import Intake, drop_snapshots, transaction
from bfrepo.catalogue.lookup import Entry, find_entries, find_roots, find_trail
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.trail import Trail
from bfrepo.sources.query import NameQuery

T = TypeVar("T")


def open_catalogue(folder: Path, *, make: bool) -> Catalogue | None:
    """The catalogue in the folder of a repository's cache; None where there is none, or none that can be used now.

    `make` one where there is none. One of another version, or damaged, is made again, empty.
    """
    file = open_file(folder, make=make)
    return Catalogue(file) if file is not None else None


class Catalogue:
    """One repository's catalogue, opened. Used by one thread; other processes may use the same file meanwhile."""

    def __init__(self, file: CatalogueFile) -> None:
        self._file: CatalogueFile | None = file
        self._folder = file.folder

    def __enter__(self) -> Catalogue:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def snapshots(self) -> dict[bytes, bytes]:
        """The snapshots that it has, encoded, by ID."""
        return self._ask(lambda connection: dict(connection.execute("SELECT id, body FROM snapshots")), {})

    def add(
        self,
        snapshots: Mapping[bytes, tuple[bytes, bytes]],
        loader: BlobLoader,
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        """Take in snapshots, by ID, root tree and encoded snapshot, with all that is new below their roots.

        One with a tree that cannot be read is left out. Raises Interrupted; the rest is then left out.
        """
        self._ask(lambda connection: Intake(connection, loader, progress, cancelled).add(snapshots), None)

    def drop(self, identifiers: Collection[bytes]) -> None:
        """Forget snapshots that the repository has no more."""
        self._ask(lambda connection: drop_snapshots(connection, identifiers), None)

    def search(self, query: NameQuery, wanted: Collection[bytes]) -> tuple[Trail, dict[bytes, int]]:
        """Where what comes into question is, and the root trees of those of the `wanted` snapshots that it has."""

        def search(connection: sqlite3.Connection) -> tuple[Trail, dict[bytes, int]]:
            with transaction(connection, writes=False):
                return find_trail(connection, query), find_roots(connection, wanted)

        nothing: tuple[Trail, dict[bytes, int]] = (Trail(), {})
        return self._ask(search, nothing)

    def trace(self, names: Sequence[bytes], wanted: Collection[bytes]) -> dict[bytes, Entry | None]:
        """What is at a path, given by its parts, in those of the `wanted` snapshots that it has; None for nothing."""

        def trace(connection: sqlite3.Connection) -> dict[bytes, Entry | None]:
            with transaction(connection, writes=False):
                roots = find_roots(connection, wanted)
                entries = find_entries(connection, names, set(roots.values()))
            return {identifier: entries.get(root) for identifier, root in roots.items()}

        return self._ask(trace, {})

    def discard(self) -> None:
        """Close it and take everything out of it, unless somebody else uses it; who opens it next fills it again."""
        if self._file is not None:
            self.close()
            with suppress(CatalogueInUse, OSError):
                remove_file(self._folder, leave_empty=True)

    def _ask(self, question: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """The answer of the file, or `otherwise` where it has none: it is busy, or damaged, and then discarded."""
        if self._file is None:
            return otherwise
        try:
            return question(self._file.connection)
        except sqlite3.Error as error:
            if not is_passing(error):
                self.discard()
            return otherwise
