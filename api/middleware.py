"""Around every request: its ID, the headers of its answer, and errors as problems."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from api.problems import Problem, problem_of, problem_response
from api.state import REQUEST_ID
from bfrepo.core.errors import BackupForgeError

log: Final = logging.getLogger("backupforge.server")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_GIVEN_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,32}")

SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Of every answer that does not set them itself. Nothing here is meant to be shown by a browser or kept by a cache."""


@web.middleware
async def give_request_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the client's X-Request-ID if it is a plain one, else make one."""
    given = request.headers.get("X-Request-ID", "")
    request[REQUEST_ID] = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
    return await handler(request)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal handler: it also reaches answers that are streamed, before their first byte."""
    for name, value in SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("X-Request-ID", request.get(REQUEST_ID, ""))
    response.headers["Server"] = "BackupForge"


@web.middleware
async def answer_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn what went wrong into problem+json. The data plane speaks restic's protocol and answers for itself."""
    request_id = request[REQUEST_ID]
    try:
        return await handler(request)
    except Problem as problem:
        return problem_response(problem, request_id)
    except BackupForgeError as error:
        return problem_response(problem_of(error), request_id)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return problem_response(_of_http(error), request_id)
    except (asyncio.CancelledError, ConnectionResetError):
        raise  # the client is gone, nobody reads an answer
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        log.error("request %s failed, as the database does not answer: %s", request_id, error.args[0])
        status, later = HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "5"}
        return problem_response(
            Problem(status, "no-database", "the database does not answer", headers=later), request_id
        )
    except Exception:
        log.exception("request %s failed", request_id)
        status = HTTPStatus.INTERNAL_SERVER_ERROR
        return problem_response(
            Problem(status, "internal-error", f"the server failed; its log has more under {request_id}"), request_id
        )


def _of_http(error: web.HTTPException) -> Problem:
    status = HTTPStatus(error.status)
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(status, status.phrase.lower().replace(" ", "-"), headers=headers)
