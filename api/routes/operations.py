"""Is the server alive, is it ready, and what does it offer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.db.engine import Database
from api.identity import Access
from api.metrics import METRICS, METRICS_TYPE
from api.problems import Problem
from api.routing import Call, NoFields, Route
from api.state import OPENAPI


class Health(msgspec.Struct):
    """That the server answers."""

    status: str


async def _health(_call: Call[NoFields, NoFields]) -> Health:
    return Health("ok")


async def _readiness(call: Call[NoFields, NoFields]) -> Health:
    try:
        await call.run(_ask, call.services.database)
    except SQLAlchemyError as error:
        raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "no-database", "the database does not answer") from error
    return Health("ok")


def _ask(database: Database) -> None:
    with database.read() as connection:
        connection.execute(text("SELECT 1"))


async def _metrics(call: Call[NoFields, NoFields]) -> web.Response:
    text = await call.run(call.request.app[METRICS].text)
    return web.Response(body=text, headers={"Content-Type": METRICS_TYPE})


async def _openapi(call: Call[NoFields, NoFields]) -> web.Response:
    return web.Response(body=call.request.app[OPENAPI], content_type="application/json")


ROUTES: Final = (
    Route(
        method="GET",
        path="/healthz",
        handler=_health,
        access=Access.PUBLIC,
        result=Health,
        summary="Whether the process answers",
    ),
    Route(
        method="GET",
        path="/readyz",
        handler=_readiness,
        access=Access.PUBLIC,
        result=Health,
        summary="Whether the server can do its work",
        problems=(HTTPStatus.SERVICE_UNAVAILABLE,),
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=_metrics,
        access=Access.SERVER,
        streams="text/plain",
        summary="Numbers of all tenants, for Prometheus",
        scope="metrics:read",
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=_openapi,
        access=Access.PUBLIC,
        streams="application/json",
        summary="This interface, as an OpenAPI document",
    ),
)
