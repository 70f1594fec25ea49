"""What Alembic runs to migrate. The connection and its transaction are those of `migrate.migrate`."""

from __future__ import annotations

from alembic import context

from api.db.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
