"""How a route is declared, and what happens around its handler.

Every module in `routes/` has a tuple `ROUTES`. A declaration holds all there is to know about a route: who may call it,
the types that its query, body and answer are validated and documented by, and the errors it gives. The handler gets a
Call that is checked already, and returns the answer's value or a finished response.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Generic, ParamSpec, TypeVar

import msgspec
from aiohttp import web

from api.identity import Access, Caller
from api.problems import Problem, not_found, unauthorized
from api.services.audit import Origin
from api.state import CALLER, REQUEST_ID, SERVICES, Services

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q", bound=msgspec.Struct)
B = TypeVar("B", bound=msgspec.Struct)


_BODY_S: Final = 30.0
"""How long a JSON body may take: who sends a byte a minute holds nothing for hours."""

_NUL: Final = "\0"
_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NO_NUL: Final = "NUL is no character of any text here"  # and PostgreSQL stores none


class NoFields(msgspec.Struct, forbid_unknown_fields=True):
    """The query or body of a route that takes none."""


@dataclass(slots=True)
class Call(Generic[Q, B]):
    """One request whose caller, query and body have been checked."""

    request: web.Request
    services: Services
    query: Q
    body: B

    @property
    def caller(self) -> Caller:
        """Who asks. Only routes that are not public have a caller."""
        return self.request[CALLER]

    @property
    def path(self) -> Mapping[str, str]:
        """The parts of the path that the route names."""
        return self.request.match_info

    @property
    def origin(self) -> Origin:
        """Where the request comes from, for the audit log."""
        return Origin(
            at=self.services.clock.now().timestamp(),
            address=client_address(self.request, self.services.config.trusted_proxies),
            request_id=self.request[REQUEST_ID],
            caller=self.request.get(CALLER),
        )

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in a thread; waits while as many go on as the server allows."""
        return await self.services.threads.run(work, *args, **kwargs)


Handler = Callable[[Call[Any, Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route. `result` is the type of the answer, None where there is no body; `streams` its media type, or
    types with commas between, where the handler answers for itself."""

    method: str
    path: str
    handler: Handler
    access: Access
    summary: str
    query: type[msgspec.Struct] = NoFields
    body: type[msgspec.Struct] | None = None
    result: Any = None
    streams: str | None = None
    status: HTTPStatus = HTTPStatus.OK
    also: tuple[HTTPStatus, ...] = ()
    """Other statuses that an answer has which is no problem."""
    problems: tuple[HTTPStatus, ...] = ()
    scope: str | None = None
    """What an API token must allow for this route; None for routes that no token but a login opens."""

    @property
    def name(self) -> str:
        """The operation's ID in the OpenAPI document."""
        return self.handler.__name__.strip("_")


def make_handler(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What aiohttp calls for a route: authenticate, authorise, validate, handle, encode."""
    decode = msgspec.json.Decoder(route.body).decode if route.body else None

    async def handle(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        if any(_NUL in part for part in request.match_info.values()):
            raise not_found("path")
        if route.access is not Access.PUBLIC:
            await _authorise(request, route, services)
        query = _read_query(request, route.query)
        body = await _read_body(request, decode, services.config.max_body)
        result = await route.handler(Call(request, services, query, body))
        return result if isinstance(result, web.StreamResponse) else _respond(request, route, result)

    return handle


async def _authorise(request: web.Request, route: Route, services: Services) -> None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise unauthorized("no-token", "send a token: Authorization: Bearer TOKEN")
    caller = await services.authenticate(token.strip(), route.scope)
    if not caller.may(route.access):
        raise Problem(HTTPStatus.FORBIDDEN, "not-allowed", "your role does not allow this")
    request[CALLER] = caller


def _read_query(request: web.Request, kind: type[msgspec.Struct]) -> msgspec.Struct:
    values: dict[str, Any] = {}
    if _NUL in "".join(request.query.values()):
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid-query", _NO_NUL)
    lists = {field.encode_name for field in msgspec.structs.fields(kind) if "tuple" in str(field.type)}
    for name in request.query:
        found = request.query.getall(name)
        if len(found) > 1 and name not in lists:
            raise Problem(HTTPStatus.BAD_REQUEST, "invalid-query", f"the parameter {name!r} is given more than once")
        values[name] = found if name in lists else found[0]
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid-query", str(error)) from error


async def _read_body(request: web.Request, decode: Callable[[bytes], Any] | None, limit: int) -> Any:
    if decode is None:
        return NoFields()
    if request.content_type != "application/json":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not-json", "the body has to be application/json")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed", "the body has to be sent uncompressed")
    if (request.content_length or 0) > limit:
        raise too_large(limit)
    try:
        async with asyncio.timeout(_BODY_S):
            data = await request.read()
        if _ESCAPED_NUL.search(data):
            raise Problem(HTTPStatus.BAD_REQUEST, "invalid-body", _NO_NUL)
        return decode(data)
    except TimeoutError as error:
        raise Problem(HTTPStatus.REQUEST_TIMEOUT, "too-slow", f"the body took more than {_BODY_S:.0f} s") from error
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large(limit) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid-body", str(error)) from error


def too_large(limit: int) -> Problem:
    """The answer for a body of more bytes than are read."""
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", f"a body may have {limit} bytes")


def client_address(request: web.Request, trusted_proxies: Collection[str]) -> str:
    """The client's address. X-Forwarded-For is believed as far as proxies of ours have written it, from its end."""
    address = request.remote or "unknown"
    for hop in reversed(request.headers.get("X-Forwarded-For", "").split(",")):
        if address not in trusted_proxies or not hop.strip():
            break
        address = hop.strip()
    return address


def _respond(request: web.Request, route: Route, result: Any) -> web.Response:
    if route.result is None:
        return web.Response(status=HTTPStatus.NO_CONTENT.value)
    headers = {}
    version = getattr(result, "version", None)
    if isinstance(version, int):
        headers["ETag"] = f'"{version}"'
    return web.Response(
        body=msgspec.json.encode(result), status=route.status.value, content_type="application/json", headers=headers
    )


_ETAG_FORM: Final = 'If-Match: "VERSION"'


def expected_version(request: web.Request) -> int | None:
    """The version that the client wants to change, by If-Match; None where it does not care.

    Raises Problem for what cannot be a version of ours.
    """
    text = request.headers.get("If-Match")
    if text is None or text.strip() == "*":
        return None
    number = text.strip().removeprefix("W/").strip('"')
    if not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise Problem(HTTPStatus.PRECONDITION_FAILED, "changed-meanwhile", f"that is no version; send {_ETAG_FORM}")
    return int(number)
