"""The application: services, middleware and every route, put together."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from types import ModuleType
from typing import Final

import msgspec
from aiohttp import web

from api.config import ServerConfig, load_server_keys
from api.dataplane.routes import add_routes
from api.db.engine import Database
from api.downloads import Downloads, Turns
from api.metrics import METRICS, Metrics, measure
from api.middleware import add_headers, answer_problems, give_request_id
from api.openapi import make_document
from api.routes import auth, jobs, operations, repositories, snapshots, storage, stores, tenants
from api.routing import Route, make_handler
from api.runners.assembly import Parts, make_runner
from api.services.accounts import Accounts
from api.services.auditing import AuditLog
from api.services.authentication import Authenticator
from api.services.catalogue import Catalogue
from api.services.contents import Contents
from api.services.housekeeping import Housekeeping
from api.services.jobs import Jobs
from api.services.measuring import Measurer
from api.services.members import Members
from api.services.opened import OpenRepositories
from api.services.repositories import Repositories
from api.services.runs import Runs
from api.services.scrub import Scrub
from api.services.snapshots import Snapshots
from api.services.storage import Storage
from api.services.stores import Stores
from api.services.tenants import Tenants
from api.services.tokens import Tokens
from api.state import OPENAPI, SERVICES, FairThreads, Services, Threads
from bfrepo.core.clock import Clock

ROUTE_MODULES: Final[tuple[ModuleType, ...]] = (
    auth,
    tenants,
    repositories,
    snapshots,
    storage,
    stores,
    jobs,
    operations,
)
"""Every module of `routes/`, in the order of the documentation."""

log: Final = logging.getLogger("backupforge.server")

_HOUSEKEEPING_S: Final = 3600.0
_LOGIN_THREADS: Final = 2
_LOGINS_AT_ONCE: Final = 64
_DATA_THREADS: Final = 8
_SCRUB_S: Final = 3600.0
_READING_THREADS: Final = 12
_READING_OF_A_TENANT: Final = 4
_WATCHERS: Final = 200
_WATCHERS_OF_A_TENANT: Final = 40
_LOOK_S: Final = 10.0


def all_routes() -> tuple[Route, ...]:
    """Every declared route. What is not here does not exist; the data plane has routes of its own."""
    return tuple(route for module in ROUTE_MODULES for route in module.ROUTES)


def make_app(config: ServerConfig, clock: Clock) -> web.Application:
    """The application of one server process. The database has the newest schema already (`db.migrate`)."""
    app = web.Application(middlewares=[give_request_id, measure, answer_problems], client_max_size=config.max_body)
    keys = load_server_keys(config.data)
    database = Database(config.database, connections=config.threads)
    threads = Threads(config.threads)
    authenticator = Authenticator(database, keys, clock)
    known = Repositories(database, keys, clock, config)
    opened = OpenRepositories(known.open, clock)
    catalogue = Catalogue(opened, clock)
    listed = Snapshots(database, known, opened, catalogue)
    runner = make_runner(config, database, Parts(config, keys, clock, database, known.opening))

    app[SERVICES] = Services(
        config=config,
        keys=keys,
        clock=clock,
        database=database,
        threads=threads,
        accounts=Accounts(database, keys, clock, config.password_cost),
        tokens=Tokens(database, clock),
        tenants=Tenants(database, clock),
        members=Members(database, clock),
        audit_log=AuditLog(database),
        stores=Stores(database, clock, config.stores),
        repositories=known,
        opened=opened,
        catalogue=catalogue,
        snapshots=listed,
        contents=Contents(listed, opened),
        storage=Storage(database, known, listed, opened, clock),
        measurer=Measurer(database, opened, catalogue, clock),
        reading=FairThreads(_READING_THREADS, "reading", _READING_OF_A_TENANT),
        downloads=Downloads(),
        watchers=Turns(_WATCHERS, _WATCHERS_OF_A_TENANT),
        data_threads=Threads(_DATA_THREADS, "data"),
        jobs=Jobs(database, keys, clock, config),
        runs=Runs(database, clock, config),
        runner=runner,
        logins=Threads(_LOGIN_THREADS, "logins", at_most=_LOGINS_AT_ONCE),
        authenticate=lambda token, scope: threads.run(authenticator.authenticate, token, scope),
    )
    app[METRICS] = Metrics(database)
    app[OPENAPI] = msgspec.json.encode(make_document(all_routes()))
    for route in all_routes():
        app.router.add_route(route.method, route.path, make_handler(route), name=route.name)
    add_routes(app)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(_resources)
    app.cleanup_ctx.append(_housekeeping)
    app.cleanup_ctx.append(_running_jobs)
    app.cleanup_ctx.append(_scrubbing)
    app.cleanup_ctx.append(_looking_after_repositories)
    return app


async def _resources(app: web.Application) -> AsyncIterator[None]:
    """Threads and connections end with the application."""
    services = app[SERVICES]
    yield
    services.threads.close()
    services.logins.close()
    services.data_threads.close()
    services.downloads.close()
    services.reading.close()
    services.catalogue.close()
    services.opened.close()
    services.database.close()


async def _running_jobs(app: web.Application) -> AsyncIterator[None]:
    """What is due is run, or left to workers."""
    task = asyncio.create_task(app[SERVICES].runner.run())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _housekeeping(app: web.Application) -> AsyncIterator[None]:
    """What is due is cleared away every hour."""
    task = asyncio.create_task(_clean_up(app[SERVICES]))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _clean_up(services: Services) -> None:
    housekeeping = Housekeeping(services.database, services.clock, services.config.stores, services.config.caches)
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        try:
            await services.threads.run(housekeeping.run)
        except Exception:  # the database may be away for a while
            log.exception("housekeeping failed; it is tried again in an hour")


async def _looking_after_repositories(app: web.Application) -> AsyncIterator[None]:
    """Repositories that nobody looks into are closed, and those that are due are measured, in a thread of its own."""
    services, stop = app[SERVICES], threading.Event()
    thread = Threads(1, "measuring")
    task = asyncio.create_task(_measure(thread, services, stop))
    yield
    stop.set()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    thread.close()


async def _measure(thread: Threads, services: Services, stop: threading.Event) -> None:
    while True:
        try:
            await services.threads.run(services.opened.close_idle)
            await thread.run(services.measurer.run, stop.is_set)
        except Exception:  # the database may be away for a while
            log.exception("repositories could not be measured; it is tried again in a minute")
        await asyncio.sleep(_LOOK_S)


async def _scrubbing(app: web.Application) -> AsyncIterator[None]:
    """What clients have stored is counted when the server starts, and examined all the time, in a thread of its own."""
    services = app[SERVICES]
    scrub = Scrub(services.database, services.clock, services.stores)
    thread = Threads(1, "scrub")
    task = asyncio.create_task(_scrub(thread, scrub))
    yield
    scrub.stop()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    thread.close()


async def _scrub(thread: Threads, scrub: Scrub) -> None:
    while True:
        try:
            await thread.run(scrub.run)
        except Exception:  # the database may be away for a while
            log.exception("what clients have stored could not be examined; it is tried again in an hour")
        await asyncio.sleep(_SCRUB_S)
