"""The application: services, middleware and every route, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from types import ModuleType
from typing import Final

import msgspec
from aiohttp import web

from api.config import ServerConfig, load_server_keys
from api.db.engine import Database
from api.middleware import add_headers, answer_problems, give_request_id
from api.openapi import make_document
from api.routes import auth, operations, tenants
from api.routing import Route, make_handler
from api.services.accounts import Accounts
from api.services.auditing import AuditLog
from api.services.authentication import Authenticator
from api.services.housekeeping import Housekeeping
from api.services.members import Members
from api.services.tenants import Tenants
from api.services.tokens import Tokens
from api.state import OPENAPI, SERVICES, Services, Threads
from bfrepo.core.clock import Clock

ROUTE_MODULES: Final[tuple[ModuleType, ...]] = (
    auth,
    tenants,
    operations,
)
"""Every module of `routes/`, in the order of the documentation."""

log: Final = logging.getLogger("backupforge.server")

_HOUSEKEEPING_S: Final = 3600.0
_LOGIN_THREADS: Final = 2
_LOGINS_AT_ONCE: Final = 64


def all_routes() -> tuple[Route, ...]:
    """Every declared route. What is not here does not exist; the data plane has routes of its own."""
    return tuple(route for module in ROUTE_MODULES for route in module.ROUTES)


def make_app(config: ServerConfig, clock: Clock) -> web.Application:
    """The application of one server process. The database has the newest schema already (`db.migrate`)."""
    app = web.Application(middlewares=[give_request_id, answer_problems], client_max_size=config.max_body)
    keys = load_server_keys(config.data)
    database = Database(config.database, connections=config.threads)
    threads = Threads(config.threads)
    authenticator = Authenticator(database, keys, clock)

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
        logins=Threads(_LOGIN_THREADS, "logins", at_most=_LOGINS_AT_ONCE),
        authenticate=lambda token, scope: threads.run(authenticator.authenticate, token, scope),
    )
    app[OPENAPI] = msgspec.json.encode(make_document(all_routes()))
    for route in all_routes():
        app.router.add_route(route.method, route.path, make_handler(route), name=route.name)
    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(_resources)
    app.cleanup_ctx.append(_housekeeping)
    return app


async def _resources(app: web.Application) -> AsyncIterator[None]:
    """Threads and connections end with the application."""
    services = app[SERVICES]
    yield
    services.threads.close()
    services.logins.close()
    services.database.close()


async def _housekeeping(app: web.Application) -> AsyncIterator[None]:
    """What is due is cleared away every hour."""
    task = asyncio.create_task(_clean_up(app[SERVICES]))
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _clean_up(services: Services) -> None:
    housekeeping = Housekeeping(services.database, services.clock, services.config.stores)
    while True:
        await asyncio.sleep(_HOUSEKEEPING_S)
        try:
            await services.threads.run(housekeeping.run)
        except Exception:  # the database may be away for a while
            log.exception("housekeeping failed; it is tried again in an hour")
