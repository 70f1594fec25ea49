"""What repositories hold and what that takes, worked out in the background and kept in the table `measurements`.

Adding up reads every tree that snapshots have, which takes minutes where there are millions of files. So it is done
in a thread of its own every few hours, soon after a repository was taken up, and after a run of a job, as soon as that
takes no more than a small part of the time. Every method blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

from sqlalchemy import func, select

from api.db.engine import Database
from api.db.schema import jobs, measurements, repositories, runs, tenants
from api.db.tenancy import Tenancy
from api.problems import Problem
from api.services.catalogue import Catalogue
from api.services.opened import OpenRepositories
from api.services.repositories import Known
from bfrepo.core.clock import Clock
from bfrepo.core.errors import Interrupted
from bfrepo.core.progress import Quiet
from bfrepo.operations.stats import total_sizes
from bfrepo.repository.inventory import list_packs

log: Final = logging.getLogger("backupforge.server")

_EVERY_S: Final = 6 * 3600.0
_PART: Final = 20
"""A repository that jobs work on is measured again after so many times as long as it took."""

_AGAIN_S: Final = 3600.0
"""How long a repository is left alone that could not be read."""

_LAST_RUN: Final = (
    select(func.max(runs.c.finished))
    .join(jobs, jobs.c.id == runs.c.job_id)
    .where(jobs.c.repository_id == repositories.c.id, jobs.c.tenant_id == repositories.c.tenant_id)
    .correlate(repositories)
    .scalar_subquery()
)


class Measurer:
    """Measures repositories. Thread-safe; one `run` at a time is enough."""

    def __init__(self, database: Database, opened: OpenRepositories, catalogue: Catalogue, clock: Clock) -> None:
        self._database = database
        self._opened = opened
        self._catalogue = catalogue
        self._clock = clock
        self._failed: dict[str, float] = {}
        self._took: dict[str, float] = {}

    def run(self, cancelled: Callable[[], bool]) -> None:
        """Measure every repository that is due. What cannot be read is logged, and tried again in an hour."""
        for tenant_id, known in self._due():
            if cancelled():
                return
            try:
                self.measure(tenant_id, known, cancelled)
            except Interrupted:
                return
            except Problem as problem:
                self._failed[known.id] = self._clock.monotonic()
                if problem.status is not HTTPStatus.NOT_FOUND:  # somebody has just removed it
                    log.warning("not measured: %s", problem.detail)

    def measure(self, tenant_id: str, known: Known, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Measure one repository now. Raises Problem, Interrupted."""
        began, at = self._clock.monotonic(), self._clock.now().timestamp()
        found = self._catalogue.get(tenant_id, known, 0.0)
        with self._opened.use(tenant_id, known) as opened:
            opened.know(found.listed_at)
            total = total_sizes(opened.repository, found.snapshots, Quiet(), cancelled)
            stored = sum(list_packs(opened.repository).values())
        row: dict[str, Any] = {
            "repository_id": known.id,
            "at": at,
            "snapshots": len(found.snapshots),
            "logical_bytes": total.restore_size,
            "unique_bytes": total.unique,
            "stored_bytes": stored,
        }
        mine = Tenancy(tenant_id)
        with self._database.write() as connection:
            still = mine.select(repositories, repositories.c.id).where(repositories.c.id == known.id)
            if connection.execute(still.with_for_update()).scalar() is not None:
                connection.execute(mine.insert(measurements, **row))
        self._took[known.id] = self._clock.monotonic() - began

    def _due(self) -> list[tuple[str, Known]]:
        newest = func.max(measurements.c.at)
        query = (
            select(repositories.c.tenant_id, repositories.c.id, repositories.c.name, newest, _LAST_RUN)
            .join(tenants, tenants.c.id == repositories.c.tenant_id)
            .outerjoin(measurements, measurements.c.repository_id == repositories.c.id)
            .where(tenants.c.deleted.is_(None))
            .group_by(repositories.c.tenant_id, repositories.c.id, repositories.c.name)
        )
        now, monotonic = self._clock.now().timestamp(), self._clock.monotonic()
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            (tenant_id, Known(key, name))
            for tenant_id, key, name, at, ran in rows
            if (at is None or at < now - (_EVERY_S if ran is None or ran < at else _PART * self._took.get(key, 0.0)))
            and monotonic - self._failed.get(key, float("-inf")) > _AGAIN_S
        ]
