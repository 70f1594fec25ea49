"""Connections to the database: SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from bfrepo.core.errors import BackupForgeError, InvalidValue

_END_S: Final = 30.0
"""How long the end waits for transactions that are under way; none takes that long."""


class Database:
    """One database. Thread-safe; every method blocks, so it is called in threads."""

    def __init__(self, url: str, *, connections: int = 16) -> None:
        """Nothing is connected to yet. Raises InvalidValue for what is no URL of a database that can be used."""
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise InvalidValue("the database's URL does not parse", hint=_FORMS) from error
        backend = parsed.get_backend_name()
        if backend == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        elif backend != "sqlite":
            raise InvalidValue(f"{backend!r} is no database that the server can use", hint=_FORMS)
        self.is_sqlite = backend == "sqlite"
        self.shown = parsed.render_as_string(hide_password=True)
        """The URL without its password, for messages."""
        self.engine = create_engine(parsed, pool_size=connections, max_overflow=0, pool_pre_ping=not self.is_sqlite)
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._in_use = 0
        self._is_closed = False
        self._changed = threading.Condition()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database, for reading."""
        with self._use(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction: committed at the end, undone by an exception.

        SQLite's takes the right to write at once, so that it waits in the beginning and never fails in the middle.
        """
        with (
            self._use(),
            self.engine.connect().execution_options(writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Let go of all connections. Waits for transactions under way: threads that nobody waits for may be in one.

        From then on everything raises BackupForgeError.
        """
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: not self._in_use, _END_S)
        self.engine.dispose()

    @contextmanager
    def _use(self) -> Iterator[None]:
        with self._changed:
            if self._is_closed:
                raise BackupForgeError("the database is closed: the program ends")
            self._in_use += 1
        try:
            yield
        finally:
            with self._changed:
                self._in_use -= 1
                self._changed.notify_all()


_FORMS = "write sqlite:///PATH or postgresql://user@host/name"


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Transactions begin when SQLAlchemy says so, not when the driver guesses: docs.sqlalchemy.org, "pysqlite".
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
