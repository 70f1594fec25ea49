"""What a Prometheus scrapes: this process's requests, and what the database knows of all tenants.

Numbers of runs, stores and repositories are read from the database at each scrape, so that every server gives the same,
and none is lost with a process. Only the server's administrators get them, as they name tenants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from api.db.engine import Database
from api.db.schema import damaged_objects, measurements, repositories, runs, stores, tenants
from api.middleware import Handler

METRICS_TYPE: Final = CONTENT_TYPE_LATEST
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Metrics:
    """The metrics of one application. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._registry = CollectorRegistry()
        self._seconds = Histogram(
            "backupforge_http_request_seconds",
            "How long requests took until their answer was ready to be sent",
            ("method", "route", "status"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(_Stored(database))

    def note(self, request: web.Request, status: int, seconds: float) -> None:
        """Count a request, by the route and not the path, of which there is no end."""
        resource = request.match_info.route.resource
        method = request.method if request.method in _METHODS else "other"
        self._seconds.labels(method, resource.canonical if resource else "none", str(status)).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format. Blocks on the database."""
        return generate_latest(self._registry)


METRICS: Final = web.AppKey("metrics", Metrics)


@web.middleware
async def measure(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Note every request, also what fails. To be around the middleware that turns errors into answers."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    finally:
        request.app[METRICS].note(request, status, loop.time() - began)


class _Stored(Collector):
    """What the database knows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that the database is not asked when this is registered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        with self._database.read() as connection:
            yield from _of_tenants(connection)
            yield from _of_stores(connection)
            yield from _of_runs(connection)
            yield from _of_repositories(connection)


def _gauge(name: str, text: str, labels: tuple[str, ...], rows: Iterable[Any]) -> Metric:
    """A gauge from rows of its labels' values and, last, its own; what has no value is left out."""
    family = GaugeMetricFamily(f"backupforge_{name}", text, labels=labels)
    for *values, value in rows:
        if value is not None:
            family.add_metric([str(each) for each in values], float(value))
    return family


def _of_tenants(connection: Connection) -> Iterable[Metric]:
    quotas = select(tenants.c.name, tenants.c.quota_bytes).where(tenants.c.deleted.is_(None))
    yield _gauge("tenant_quota_bytes", "What a tenant may store here", ("tenant",), connection.execute(quotas))


def _of_stores(connection: Connection) -> Iterable[Metric]:
    damaged = select(func.count()).where(damaged_objects.c.store_id == stores.c.id).correlate(stores).scalar_subquery()
    query = select(tenants.c.name, stores.c.name, stores.c.bytes, stores.c.scrubbed, damaged)
    found = connection.execute(query.join(tenants, tenants.c.id == stores.c.tenant_id)).all()
    labels = ("tenant", "store")
    texts = (
        ("store_bytes", "What a store holds, with what is on its way"),
        ("store_scrubbed_timestamp_seconds", "When all objects of a store had last been hashed"),
        ("store_damaged_objects", "Objects that do not hash to their names"),
    )
    for column, (name, text) in enumerate(texts, start=2):
        yield _gauge(name, text, labels, ((row[0], row[1], row[column]) for row in found))


def _of_runs(connection: Connection) -> Iterable[Metric]:
    seconds = func.sum(runs.c.finished - runs.c.started)
    query = select(tenants.c.name, runs.c.kind, runs.c.state, func.count(), func.count(runs.c.finished), seconds)
    query = query.join(tenants, tenants.c.id == runs.c.tenant_id).group_by(tenants.c.name, runs.c.kind, runs.c.state)
    found = connection.execute(query).all()
    labels = ("tenant", "kind", "state")
    yield _gauge("runs", "Runs of jobs that are remembered", labels, (row[:4] for row in found))
    took = SummaryMetricFamily("backupforge_run_seconds", "How long runs that have ended took", labels=labels)
    for tenant, kind, state, _count, ended, total in found:
        took.add_metric([tenant, kind, state], ended, float(total or 0))
    yield took


def _of_repositories(connection: Connection) -> Iterable[Metric]:
    newest = select(measurements.c.repository_id, func.max(measurements.c.id).label("id"))
    last = newest.group_by(measurements.c.repository_id).subquery()
    query = (
        select(tenants.c.name.label("tenant"), repositories.c.name.label("repository"), measurements)
        .join(last, last.c.id == measurements.c.id)
        .join(repositories, repositories.c.id == measurements.c.repository_id)
        .join(tenants, tenants.c.id == measurements.c.tenant_id)
    )
    found = connection.execute(query).mappings().all()
    labels = ("tenant", "repository")
    for name, column, text in (
        ("repository_snapshots", "snapshots", "Snapshots of a repository"),
        ("repository_logical_bytes", "logical_bytes", "What all snapshots would take without deduplication"),
        ("repository_unique_bytes", "unique_bytes", "What is left of it when every chunk counts once"),
        ("repository_stored_bytes", "stored_bytes", "What the repository takes"),
    ):
        yield _gauge(name, text, labels, ((row["tenant"], row["repository"], row[column]) for row in found))
    ratios = ((row["tenant"], row["repository"], _ratio(row["logical_bytes"], row["unique_bytes"])) for row in found)
    yield _gauge("repository_dedup_ratio", "Logical bytes for each unique byte", labels, ratios)


def _ratio(whole: int, part: int) -> float | None:
    return whole / part if part else None
