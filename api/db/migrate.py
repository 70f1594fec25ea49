"""The database's schema, brought up to what this program needs when a server or worker starts.

All migrations that are missing happen in one transaction: whoever is killed in the middle leaves the schema as it was.
Of several that start at once one migrates, while the others wait and then find nothing left to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from api.db.engine import Database
from bfrepo.core.errors import BackupForgeError

_SCRIPTS: Final = Path(__file__).with_name("migrations")
_LOCK: Final = 0x6266_6D69_6772  # "bfmigr": any number will do that nobody else takes for a lock in this database


def migrate(database: Database) -> None:
    """Bring the schema to the newest version. Blocks.

    Raises BackupForgeError when the database does not answer, or a newer program has changed it.
    """
    try:
        with database.write() as connection:  # which is SQLite's lock already
            if not database.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            _upgrade(database, connection)
    except SQLAlchemyError as error:
        raise BackupForgeError(f"the database {database.shown} cannot be used: {_reason(error)}") from error


def _upgrade(database: Database, connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise BackupForgeError(
            f"the database {database.shown} has been changed by a newer version of this program",
            hint="install that version here as well",
        )
    if current != scripts.get_current_head():
        command.upgrade(config, "head")


def _reason(error: SQLAlchemyError) -> str:
    """What the driver says, without the statement and its parameters."""
    return str(getattr(error, "orig", None) or type(error).__name__).strip()
