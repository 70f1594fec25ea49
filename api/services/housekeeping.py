"""What the server clears away by itself: what has expired, old runs, and the data of tenants whose grace time is over.

Any number of servers may do it at the same time: what one has cleared away the others do not find. Blocks.
"""

from __future__ import annotations

import logging
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import delete, select

from api.db.engine import Database
from api.db.schema import invitations, metadata, run_events, runs, sessions, tenants
from api.db.tenancy import Tenancy
from api.services.attempts import Attempts
from api.services.audit import Origin, record
from api.services.tenants import GRACE
from bfrepo.core.clock import Clock

log: Final = logging.getLogger("backupforge.server")

_KEPT: Final = frozenset({"audit"})
"""Tables that outlive a tenant."""

_RUNS_KEPT: Final = timedelta(days=90)
"""How long one can look up how a run ended."""


class Housekeeping:
    """Clears away. Thread-safe."""

    def __init__(self, database: Database, clock: Clock, *places: Path) -> None:
        """Each of `places` has a folder for each tenant, named by its ID: what is stored, and what is cached."""
        self._database = database
        self._clock = clock
        self._places = places

    def run(self) -> None:
        """Clear away all that is due."""
        now = self._clock.now().timestamp()
        Attempts(self._database, self._clock).forget_old()
        with self._database.write() as connection:
            connection.execute(delete(sessions).where(sessions.c.expires < now))
            connection.execute(delete(invitations).where(invitations.c.expires < now))
            old = select(runs.c.id).where(runs.c.finished < now - _RUNS_KEPT.total_seconds())
            connection.execute(delete(run_events).where(run_events.c.run_id.in_(old)))
            connection.execute(delete(runs).where(runs.c.finished < now - _RUNS_KEPT.total_seconds()))
        for tenant_id in self._due(now):
            self._purge(tenant_id, now)

    def _due(self, now: float) -> list[str]:
        query = select(tenants.c.id).where(tenants.c.deleted < now - GRACE.total_seconds())
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def _purge(self, tenant_id: str, now: float) -> None:
        """Remove a tenant for good: its data first, so that a server that is killed meanwhile comes back to it."""
        still = select(tenants.c.id).where(tenants.c.id == tenant_id, tenants.c.deleted < now - GRACE.total_seconds())
        with self._database.write() as connection:
            if connection.execute(still.with_for_update()).scalar() is None:  # restored, or gone, at this moment
                return
            for folder in [place / tenant_id for place in self._places]:
                if folder.exists():
                    shutil.rmtree(folder)
            for table in reversed(metadata.sorted_tables):
                if "tenant_id" in table.c and table.name not in _KEPT:
                    connection.execute(Tenancy(tenant_id).delete(table))
            connection.execute(delete(tenants).where(tenants.c.id == tenant_id))
            origin = Origin(at=now, address="", request_id="", tenant_id=tenant_id)
            record(connection, origin, "tenant.purge", tenant_id)
        log.info("tenant %s was deleted %s days ago: its data is gone", tenant_id, GRACE.days)
