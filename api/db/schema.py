"""The tables, the same for SQLite and PostgreSQL. Changes to them are migrations in `migrations/versions`.

IDs are random and say nothing; times are UTC, in seconds since 1970; JSON is text that msgspec wrote. Everything that
belongs to a tenant has a `tenant_id`, and is reached through `tenancy.Tenancy` alone.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

tenants: Final = Table(
    "tenants",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("append_only", Boolean, nullable=False),
    Column("quota_bytes", BigInteger),
    Column("created", Float, nullable=False),
    Column("deleted", Float),
    Column("version", Integer, nullable=False),
)

users: Final = Table(
    "users",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("password_hash", String(80), nullable=False),
    Column("role", String(16), nullable=False),
    Column("server_admin", Boolean, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("version", Integer, nullable=False),
)

invitations: Final = Table(
    "invitations",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("email", String(254)),
    Column("role", String(16), nullable=False),
    Column("server_admin", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("used", Float),
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("jti", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("expires", Float, nullable=False),
    Column("revoked", Float),
)

api_tokens: Final = Table(
    "api_tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("user_id", ForeignKey("users.id"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("secret_hash", String(64), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("last_used", Float),
    Column("revoked", Float),
)

login_failures: Final = Table(
    "login_failures",
    metadata,
    Column("subject", String(80), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("since", Float, nullable=False),
)

repositories: Final = Table(
    "repositories",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("location", Text, nullable=False),
    Column("sealed_secrets", LargeBinary, nullable=False),
    Column("created", Float, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("tenant_id", "name"),
)

measurements: Final = Table(
    "measurements",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("repository_id", ForeignKey("repositories.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("snapshots", Integer, nullable=False),
    Column("logical_bytes", BigInteger, nullable=False),
    Column("unique_bytes", BigInteger, nullable=False),
    Column("stored_bytes", BigInteger, nullable=False),
    Index("ix_measurements_repository_at", "repository_id", "at"),
)

jobs: Final = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("repository_id", String(32), nullable=False),
    Column("spec", Text, nullable=False),
    Column("sealed_targets", LargeBinary),
    Column("enabled", Boolean, nullable=False),
    Column("next_due", Float, index=True),
    Column("created", Float, nullable=False),
    Column("version", Integer, nullable=False),
    UniqueConstraint("tenant_id", "name"),
)
"""`sealed_targets` are the addresses of notifications, which have passwords in them. The repository is no foreign key:
one that was taken away makes the job's runs fail, and its owner learns why."""

runs: Final = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("job_id", ForeignKey("jobs.id"), index=True),
    Column("kind", String(16), nullable=False),
    Column("spec", Text, nullable=False),
    Column("writer_key", String(160)),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("due", Float, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("started", Float),
    Column("finished", Float),
    Column("heartbeat", Float),
    Column("worker", String(80)),
    Column("cancel_requested", Boolean, nullable=False),
    Column("result", Text),
    Column("error", Text),
    UniqueConstraint("job_id", "due", "attempt"),
    Index("ix_runs_state_not_before", "state", "not_before"),
    Index("ix_runs_tenant_created", "tenant_id", "created", "id"),
    Index(
        "uq_runs_one_writer",
        "writer_key",
        unique=True,
        sqlite_where=text("state = 'running'"),
        postgresql_where=text("state = 'running'"),
    ),
)
"""`due` with the job and the attempt is unique, so that no two servers make the same run; of the runs with the same
`writer_key` one is under way at most. `worker` names who has the run: nobody else changes it while it is under way."""

run_events: Final = Table(
    "run_events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("data", Text, nullable=False),
    Index("ix_run_events_run_id", "run_id", "id"),
)

stores: Final = Table(
    "stores",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("name", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("scrubbed", Float),
    Column("scrub_started", Float),
    Column("scrub_cursor", String(100)),
    UniqueConstraint("tenant_id", "name"),
)
"""What the data plane keeps: `bytes` counts what is stored and what is on its way, for the quota.

`scrubbed` is when all objects were last known to have been hashed; of a scrub under way there is when it began, and the
object that it has come to.
"""

damaged_objects: Final = Table(
    "damaged_objects",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant_id", ForeignKey("tenants.id"), nullable=False, index=True),
    Column("store_id", ForeignKey("stores.id"), nullable=False),
    Column("path", String(100), nullable=False),
    Column("found", Float, nullable=False),
    Column("seen", Float, nullable=False),
    UniqueConstraint("store_id", "path"),
)
"""Objects of stores whose bytes do not hash to their names: when that was found, and when it was last so."""

audit: Final = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("tenant_id", String(32), index=True),
    Column("user_id", String(32)),
    Column("token_id", String(32)),
    Column("address", String(64), nullable=False),
    Column("request_id", String(32), nullable=False),
    Column("action", String(64), nullable=False),
    Column("target", String(160), nullable=False),
    Column("detail", Text, nullable=False),
)
"""Who changed what, when and from where. It has no foreign keys, because it outlives what it speaks of."""
