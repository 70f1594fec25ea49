"""The OpenAPI document, made from the declarations that requests are validated by."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from api.identity import Access
from api.problems import PROBLEM_TYPE, ProblemBody
from api.routing import Route

_REFERENCE: Final = "#/components/schemas/{name}"
_PATH_PART: Final = re.compile(r"{([^}:]+)(?::[^}]*)?}")


def make_document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of these routes, by OpenAPI 3.1."""
    schemas, components = msgspec.json.schema_components(_types(routes), ref_template=_REFERENCE)
    by_type = dict(zip(map(repr, _types(routes)), schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        operation = _operation(route, by_type, components)
        paths.setdefault(_PATH_PART.sub(r"{\1}", route.path), {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "BackupForge", "version": "1", "description": "Remote management of BackupForge."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _types(routes: Sequence[Route]) -> list[Any]:
    """Every type that is spoken of, once."""
    found = [ProblemBody, *(kind for route in routes for kind in (route.query, route.body, route.result) if kind)]
    return list({repr(kind): kind for kind in found}.values())


def _operation(route: Route, schemas: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route, schemas, components)],
        "responses": {str(status): answer for status, answer in _responses(route, schemas)},
        "security": [] if route.access is Access.PUBLIC else [{"token": []}],
    }
    if route.body:
        content = {"application/json": {"schema": schemas[repr(route.body)]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in _PATH_PART.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query_parameters(route: Route, schemas: dict[str, Any], components: dict[str, Any]) -> Iterator[dict[str, Any]]:
    schema = schemas[repr(route.query)]
    described = components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    for name, kind in described["properties"].items():
        yield {"name": name, "in": "query", "required": name in described.get("required", ()), "schema": kind}


def _responses(route: Route, schemas: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    if route.streams:
        yield route.status.value, {"description": "OK", "content": _streamed(route)}
    elif route.result is None:
        yield HTTPStatus.NO_CONTENT.value, {"description": "Done"}
    else:
        content = {"application/json": {"schema": schemas[repr(route.result)]}}
        yield route.status.value, {"description": "OK", "content": content}
    for status in route.also:
        described: dict[str, Any] = {"description": status.phrase}
        if status is not HTTPStatus.NOT_MODIFIED:
            described["content"] = _streamed(route)
        yield status.value, described
    problem = {PROBLEM_TYPE: {"schema": schemas[repr(ProblemBody)]}}
    for status in sorted({*route.problems, *_usual_problems(route)}):
        yield status.value, {"description": status.phrase, "content": problem}


def _streamed(route: Route) -> dict[str, Any]:
    return {media_type.strip(): {} for media_type in (route.streams or "").split(",")}


def _usual_problems(route: Route) -> Iterator[HTTPStatus]:
    yield HTTPStatus.BAD_REQUEST
    if route.access is not Access.PUBLIC:
        yield HTTPStatus.UNAUTHORIZED
        yield HTTPStatus.FORBIDDEN
    if "{" in route.path:
        yield HTTPStatus.NOT_FOUND
    if route.body:
        yield HTTPStatus.REQUEST_TIMEOUT
        yield HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        yield HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    yield HTTPStatus.SERVICE_UNAVAILABLE
