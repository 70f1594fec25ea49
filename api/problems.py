"""Errors as clients see them: `application/problem+json` (RFC 9457) with a `code` that programs can go by.

Whatever is not a Problem or an error of ours is a fault of the server: it is logged with its request ID, and the client
learns that ID and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

import msgspec
from aiohttp import web

from bfrepo.core.errors import (
    BackupForgeError,
    InvalidValue,
    ObjectNotFound,
    RepositoryExists,
    RepositoryNotFound,
    StorageDenied,
    StorageError,
    StorageFull,
    UsageError,
    WrongPassword,
)

PROBLEM_TYPE: Final = "application/problem+json"


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """The body of every error."""

    title: str
    status: int
    code: str
    detail: str = ""
    hint: str = ""
    type: str = "about:blank"
    request_id: str = ""


class Problem(Exception):
    """An answer that is an error. `code` is kebab-case and stable; `detail` is for people and holds no secret."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str = "",
        *,
        hint: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(f"{status.value} {code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.headers = headers


def not_found(what: str) -> Problem:
    """The answer for what does not exist, or belongs to another tenant: nobody can tell which."""
    return Problem(HTTPStatus.NOT_FOUND, "not-found", f"there is no such {what}")


def unauthorized(code: str, detail: str) -> Problem:
    """The answer for a request without a valid token."""
    return Problem(HTTPStatus.UNAUTHORIZED, code, detail, headers={"WWW-Authenticate": "Bearer"})


_STATUS: Final[tuple[tuple[type[BackupForgeError], HTTPStatus], ...]] = (
    (InvalidValue, HTTPStatus.BAD_REQUEST),
    (UsageError, HTTPStatus.BAD_REQUEST),
    (ObjectNotFound, HTTPStatus.NOT_FOUND),
    (RepositoryNotFound, HTTPStatus.CONFLICT),
    (RepositoryExists, HTTPStatus.CONFLICT),
    (WrongPassword, HTTPStatus.CONFLICT),
    (StorageFull, HTTPStatus.INSUFFICIENT_STORAGE),
    (StorageDenied, HTTPStatus.BAD_GATEWAY),
    (StorageError, HTTPStatus.BAD_GATEWAY),
)
"""What an error of the library means over HTTP; the first that fits counts, and anything else is the repository's."""


def problem_of(error: BackupForgeError) -> Problem:
    """The answer for an error of the library. Its messages name things and hold no secrets, so they may be shown."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.CONFLICT)
    return Problem(status, error.code, str(error), hint=error.hint or "")


def problem_response(problem: Problem, request_id: str) -> web.Response:
    """The response for a problem."""
    body = ProblemBody(
        title=problem.status.phrase,
        status=problem.status.value,
        code=problem.code,
        detail=problem.detail,
        hint=problem.hint,
        request_id=request_id,
    )
    return web.Response(
        body=msgspec.json.encode(body),
        status=problem.status.value,
        content_type=PROBLEM_TYPE,
        headers=dict(problem.headers),
    )
