"""The catalogue's file: who may open, make, replace or remove it while others use it.

SQLite keeps apart who reads and who writes, but not who removes a database with its log from who opens it. So whoever
uses the file holds a shared lock on its folder, and whoever makes or removes it an exclusive one. The locks are the
system's (flock) and end with the process. Where the folder cannot be locked there is no catalogue.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from bfrepo.core.errors import BackupForgeError

SCHEMA_VERSION: Final = 1
"""Goes up with every change of the tables, or of what their rows mean. Another version counts as no catalogue."""

FILE_NAME: Final = "catalogue.sqlite"
"""The file in the folder of a repository's cache. SQLite puts its log beside it."""

SUFFIXES: Final = ("", "-wal", "-shm", "-journal")
"""Of all files that SQLite may have for one database."""

_BUSY_S: Final = 2.0
"""How long to wait for another process that writes. It writes for moments, unless it takes in a large new snapshot."""

_PAGES_KIB: Final = 32 << 10
"""Most memory that pages of the file take."""


_PASSING: Final = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_INTERRUPT,
}  # fmt: skip


class CatalogueInUse(BackupForgeError):
    """Somebody else uses the catalogue, so it can be neither removed nor replaced now."""

    code = "catalogue-in-use"


class CatalogueFile:
    """The file, opened, with the lock that says so. For the thread that opened it."""

    def __init__(self, folder: Path, lock: int, connection: sqlite3.Connection) -> None:
        self.folder = folder
        self.connection = connection
        self._lock = lock

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self.connection.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def open_file(folder: Path, *, make: bool) -> CatalogueFile | None:
    """The catalogue in a folder, or None where there is none, or none that can be used now.

    One of another version, or damaged, is made again, empty; with `make` also where there is none.
    """
    path = folder / FILE_NAME
    lock = -1
    connection = None
    try:
        if make:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        elif not path.exists():
            return None
        lock = _open_folder(folder)
        fcntl.flock(lock, fcntl.LOCK_SH)
        connection = _connect(path)
        if connection is None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made = _connect(path)
            if made is None:
                _make(folder)
            else:
                made.close()  # somebody was faster
            fcntl.flock(lock, fcntl.LOCK_SH)
            connection = _connect(path)
    except (OSError, sqlite3.Error):
        pass  # a cache: no permission, no room, or somebody else is at it
    if connection is not None:
        return CatalogueFile(folder, lock, connection)
    if lock >= 0:
        os.close(lock)
    return None


def remove_file(folder: Path, *, leave_empty: bool = False) -> None:
    """Remove the catalogue from a folder, if there is one; with `leave_empty` the next who opens it makes a new one.

    Raises CatalogueInUse or OSError.
    """
    lock = _open_folder(folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_files(folder)
        if leave_empty:
            _create(folder / FILE_NAME)
    except BlockingIOError as error:
        raise CatalogueInUse(
            f"the catalogue in {folder} is in use", hint="try again when no other backupforge is running"
        ) from error
    finally:
        os.close(lock)


def _open_folder(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _connect(path: Path) -> sqlite3.Connection | None:
    """A connection to a catalogue of our version. The folder is locked."""
    if not path.exists():
        return None
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S, isolation_level=None, cached_statements=64
    )
    try:
        if connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,):
            connection.execute(f"PRAGMA cache_size = -{_PAGES_KIB}")
            connection.execute("PRAGMA synchronous = NORMAL")
            return connection
    except sqlite3.DatabaseError as error:
        if is_passing(error):
            connection.close()
            raise
    connection.close()
    return None


def is_passing(error: sqlite3.Error) -> bool:
    """Whether the file may be whole all the same: it is busy, or there is no room, permission or memory."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING


def _make(folder: Path) -> None:
    """Make an empty catalogue in place of whatever there is. The folder is locked for us alone."""
    # here, as to import what makes tables takes longer than to look something up in them
    from bfrepo.catalogue.schema import make_tables  # noqa: PLC0415

    _remove_files(folder)
    _create(folder / FILE_NAME)
    with closing(sqlite3.connect(folder / FILE_NAME, isolation_level=None)) as connection:
        make_tables(connection)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")  # last: what was interrupted has none


def _remove_files(folder: Path) -> None:
    for suffix in SUFFIXES:
        (folder / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)


def _create(path: Path) -> None:
    """Make an empty file for the user alone; SQLite gives its log the same permissions."""
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
