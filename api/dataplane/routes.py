"""The data plane: repositories of clients that have the keys, over restic's REST protocol, version 1 and 2.

    POST    /repo/{tenant}/{name}/?create=true     make the repository
    HEAD, GET (Range), POST, DELETE   .../config, .../{kind}/{id}     one object
    GET     .../{kind}/                            names; with sizes for who accepts version 2

Callers send an API token as the password of HTTP's basic authentication; the user's name does not matter. What may be
called says the table ROUTES. Answers are those that restic and rest-server give and expect, as plain text.
(https://restic.readthedocs.io/en/stable/REST_backend.html)
"""

from __future__ import annotations

import base64
import errno
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Final

from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from api.dataplane.direct import TAKEN, TAKER, Taker
from api.dataplane.receiving import receive
from api.dataplane.sending import send_file, send_listing
from api.identity import Caller
from api.problems import Problem, not_found
from api.routing import client_address
from api.services.audit import Origin
from api.services.authentication import TOKEN_PREFIX
from api.services.store_files import CONFIG, KINDS, LOCKS, ObjectPath
from api.services.stores import Store
from api.state import CALLER, REQUEST_ID, SERVICES, Services

log: Final = logging.getLogger("backupforge.server")

_PLACE: Final = "/repo/{tenant}/{name}/"
_KIND: Final = f"{{kind:{'|'.join(KINDS)}}}"
_OBJECT: Final = _PLACE + _KIND + "/{id:[0-9a-f]{64}}"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class DataRoute:
    """A route of the data plane, and what a token has to allow for it."""

    method: str
    path: str
    handler: Callable[[web.Request, Services], Awaitable[web.StreamResponse]]
    scope: str


def add_routes(app: web.Application) -> None:
    """Make an application serve the data plane."""
    app[TAKER] = Taker(app[SERVICES].data_threads)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _make_handler(route), expect_handler=_expect)


def _make_handler(route: DataRoute) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        try:
            request[CALLER] = await _authenticate(request, services, route.scope)
            return await route.handler(request, services)
        except Problem as problem:
            return _refusal(problem)
        except ConnectionError:
            return web.Response(status=HTTPStatus.BAD_REQUEST.value)  # to nobody: the client is gone
        except (OSError, SQLAlchemyError) as error:
            return _refusal(_failure(error, request[REQUEST_ID]))

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await answer(request)
        if request.get(TAKEN, False):
            response.force_close()
        return response

    return handle


async def _authenticate(request: web.Request, services: Services, scope: str) -> Caller:
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    try:
        _user, _, token = base64.b64decode(credentials if scheme.lower() == "basic" else "").decode().partition(":")
    except ValueError:  # neither Base64 nor text
        token = ""
    if not token.startswith(TOKEN_PREFIX):
        raise Problem(HTTPStatus.UNAUTHORIZED, "no-token", "give any user and, as the password, an API token")
    return await services.authenticate(token, scope)


def _refusal(problem: Problem) -> web.Response:
    headers = {**problem.headers}
    if problem.status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Basic realm="BackupForge", charset="UTF-8"'
    return web.Response(status=problem.status.value, text=f"{problem.detail}\n", headers=headers)


def _failure(error: Exception, request_id: str) -> Problem:
    """What the server's disk or database refuses. Clients try again, unless there is no room."""
    log.error("request %s of the data plane failed: %s", request_id, error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return Problem(HTTPStatus.INSUFFICIENT_STORAGE, "full", "the server has no room left")
    return Problem(HTTPStatus.SERVICE_UNAVAILABLE, "failed", f"the server failed; its log has more under {request_id}")


async def _expect(_request: web.Request) -> None:
    """Who asks whether to send a body is told when all that can be refused without it has been looked at."""


def _finder(request: web.Request, services: Services) -> Callable[[], Store]:
    """What finds, in a thread, the store that a path names."""
    match = request.match_info
    return partial(services.stores.find, request[CALLER], match["tenant"], match["name"])


async def _store(request: web.Request, services: Services) -> Store:
    return await services.data_threads.run(_finder(request, services))


def _object(request: web.Request) -> ObjectPath:
    """Raises Problem for what names no object."""
    match = request.match_info
    try:
        return ObjectPath(match["kind"], match["id"]) if "kind" in match else ObjectPath(CONFIG)
    except ValueError as error:
        raise not_found("object") from error


async def _create(request: web.Request, services: Services) -> web.StreamResponse:
    if request.query.get("create") != "true":
        raise Problem(HTTPStatus.BAD_REQUEST, "no-create", "only ?create=true can be posted here")
    origin = Origin(
        at=services.clock.now().timestamp(),
        address=client_address(request, services.config.trusted_proxies),
        request_id=request[REQUEST_ID],
        caller=request[CALLER],
    )
    match, create = request.match_info, services.stores.create
    await services.data_threads.run(create, origin, request[CALLER], match["tenant"], match["name"])
    return web.Response()


async def _list(request: web.Request, services: Services) -> web.StreamResponse:
    store = await _store(request, services)
    return await send_listing(request, services.data_threads, store.folder.objects(request.match_info["kind"]))


async def _head(request: web.Request, services: Services) -> web.StreamResponse:
    store, path = await _store(request, services), _object(request)
    size = await services.data_threads.run(store.folder.size, path)
    if size is None:
        raise not_found("object")
    return web.Response(headers={"Content-Length": str(size), "Accept-Ranges": "bytes"})


async def _get(request: web.Request, services: Services) -> web.StreamResponse:
    store, path = await _store(request, services), _object(request)
    opened = await services.data_threads.run(store.folder.open, path)
    if opened is None:
        raise not_found("object")
    return await send_file(request, *opened)


async def _save(request: web.Request, services: Services) -> web.StreamResponse:
    await receive(request, services, _finder(request, services), _object(request))
    return web.Response()


async def _delete(request: web.Request, services: Services) -> web.StreamResponse:
    """Also an object that is not there: two may delete the same."""
    store, path = await _store(request, services), _object(request)
    if store.append_only and path.kind != LOCKS:
        raise Problem(HTTPStatus.FORBIDDEN, "append-only", "this tenant is append-only: nothing but locks is deleted")
    size = await services.data_threads.run(store.folder.delete, path)
    await services.data_threads.run(services.stores.release, store, size)
    return web.Response()


ROUTES: Final = (
    DataRoute("POST", _PLACE, _create, "store:write"),
    DataRoute("HEAD", f"{_PLACE}config", _head, "store:read"),
    DataRoute("GET", f"{_PLACE}config", _get, "store:read"),
    DataRoute("POST", f"{_PLACE}config", _save, "store:write"),
    DataRoute("DELETE", f"{_PLACE}config", _delete, "store:delete"),
    DataRoute("GET", f"{_PLACE}{_KIND}/", _list, "store:read"),
    DataRoute("HEAD", _OBJECT, _head, "store:read"),
    DataRoute("GET", _OBJECT, _get, "store:read"),
    DataRoute("POST", _OBJECT, _save, "store:write"),
    # Who backs up has to take away the own lock or claim, and may do so without a right to delete.
    DataRoute("DELETE", f"{_PLACE}{{kind:{LOCKS}}}/{{id:[0-9a-f]{{64}}}}", _delete, "store:write"),
    DataRoute("DELETE", _OBJECT, _delete, "store:delete"),
)
