from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.db.engine import Database
from api.db.migrate import migrate
from tests.support import postgresql
from tests.support.postgresql import PostgreSQL
from tests.support.server import Stage, make_stage

_KINDS = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """A PostgreSQL server."""
    with postgresql.serve() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgreSQL) -> str:
    """A database in it with our tables, to make copies of."""
    name = postgres.new_database()
    database = Database(postgres.url(name), connections=1)
    migrate(database)
    database.close()
    return name


@pytest.fixture
def postgres_url(postgres: PostgreSQL, postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database with our tables, for one test."""
    name = postgres.new_database(postgres_template)
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture(params=[os.environ.get("TEST_DATABASE", "sqlite")])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    """A filled database: SQLite, or what TEST_DATABASE says."""
    assert request.param in _KINDS
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return make_stage(tmp_path / "data", url)


@pytest.fixture(params=_KINDS)
def any_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    """A filled database, one of each kind."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return make_stage(tmp_path / "data", url)
