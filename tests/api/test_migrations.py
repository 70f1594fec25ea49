"""The database's schema: made and changed by migrations, whoever does it and whenever they are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from api.db.engine import Database
from api.db.migrate import migrate
from api.db.schema import metadata
from bfrepo.core.errors import BackupForgeError

ROOT = Path(__file__).resolve().parents[2]

KILLED = """
import os, sys
from sqlalchemy import event
from api.db.engine import Database
from api.db.migrate import migrate

database = Database(sys.argv[1])
done = []

@event.listens_for(database.engine, "after_cursor_execute")
def after(connection, cursor, statement, *rest):
    done.append(statement.lstrip().startswith(("CREATE", "INSERT")))
    if done.count(True) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)

migrate(database)
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.sqlite'}"
        return
    server = request.getfixturevalue("postgres")
    name = server.new_database()
    yield server.url(name)
    server.drop(name)


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """A database for the time of the block."""
    database = Database(url)
    try:
        yield database
    finally:
        database.close()


def assert_whole(url: str) -> None:
    """Fails when the schema differs from the one that the program knows."""
    with opened(url) as database, database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        assert context.get_current_revision() is not None


def test_migrations_make_the_schema(empty_url: str) -> None:
    """All migrations together give exactly the tables of schema.py; a second time there is nothing left to do."""
    for _ in range(2):
        with opened(empty_url) as database:
            migrate(database)
        assert_whole(empty_url)


def test_at_the_same_time(empty_url: str) -> None:
    """Servers that start together on an empty database all find it whole."""

    def start(_number: int) -> None:
        with opened(empty_url) as database:
            migrate(database)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))
    assert_whole(empty_url)


@pytest.mark.parametrize("statements", [1, 20])
def test_killed(empty_url: str, statements: int) -> None:
    """After kill -9 in the middle of a migration there is no half of it, and the next start does it all."""
    command = [sys.executable, "-c", KILLED, empty_url, str(statements)]
    assert subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, check=False).returncode == -9
    with opened(empty_url) as database:
        deadline = time.monotonic() + 10
        while inspect(database.engine).get_table_names():  # PostgreSQL may need a moment to see that its client is gone
            assert time.monotonic() < deadline
        migrate(database)
    assert_whole(empty_url)


def test_newer_database(empty_url: str) -> None:
    """A database that a newer program has changed is left alone, and said to be so."""
    with opened(empty_url) as database:
        migrate(database)
        with database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = 'tomorrow'"))
        with pytest.raises(BackupForgeError, match="newer version"):
            migrate(database)


def test_no_database(tmp_path: Path) -> None:
    """Where there is no database the error names it, without its password."""
    url = f"postgresql://me:secret@/nothing?host={tmp_path}"
    with opened(url) as database, pytest.raises(BackupForgeError, match="cannot be used") as caught:
        migrate(database)
    assert "secret" not in str(caught.value)
