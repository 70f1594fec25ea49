"""The OpenAPI document keeps its word, whatever is sent: no fault of the server, no answer that it does not name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from sqlalchemy import insert

from api.app import all_routes
from api.config import load_server_keys
from api.db.schema import sessions
from api.routing import NoFields
from api.services.authentication import make_session
from tests.support.server import Stage, make_stage
from tests.support.stored import take_up

EXAMPLES = 12
"""For each operation, kind of data and caller."""

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """A database for all tests of this file: what they do to it is part of the test."""
    stage = make_stage(tmp_path_factory.mktemp("schema") / "data")
    stored = take_up(stage)
    stage.notes["ids"] = [stored.id, stored.back_up({"file": b"content"}), stored.back_up({"file": b"more"})]
    return stage


@pytest.fixture(scope="module")
def url(filled: Stage) -> Iterator[str]:
    """A server in a thread."""
    loop, found, stop = asyncio.new_event_loop(), [], asyncio.Event()
    started = threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(filled.make_app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.append(runner.addresses[0][1])
        started.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait(60)
    yield f"http://127.0.0.1:{found[0]}"
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def document(url: str) -> Any:
    """What the server says of itself."""
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


def _examined() -> Iterator[Any]:
    """Each route with valid data, and with invalid data if it takes any."""
    for route in all_routes():
        yield pytest.param(route.path, route.method, GenerationMode.POSITIVE, id=f"{route.name} valid")
        if route.body or route.query is not NoFields or "{" in route.path:
            yield pytest.param(route.path, route.method, GenerationMode.NEGATIVE, id=f"{route.name} invalid")


@pytest.mark.parametrize("path, method, mode", list(_examined()))
def test_document(url: str, document: Any, filled: Stage, path: str, method: str, mode: GenerationMode) -> None:
    """Data that the document allows, and data that it does not, get an answer that it names, and never a 5xx."""
    operation = document[path][method]
    ids = st.sampled_from([*filled.tenants.values(), *filled.users.values(), *filled.notes["ids"]])

    @settings(max_examples=EXAMPLES)
    @given(case=operation.as_strategy(mode), who=st.sampled_from(["main.root", "alpha.admin"]), known=ids | st.none())
    def check(case: Any, who: str, known: str | None) -> None:
        if known and case.path_parameters and mode is GenerationMode.POSITIVE:
            case.path_parameters = dict.fromkeys(case.path_parameters, known)
        response = case.call(url, headers={"Authorization": f"Bearer {_new_token(filled, who)}"}, timeout=30)
        case.validate_response(response, checks=CHECKS)

    check()


def _new_token(stage: Stage, who: str) -> str:
    """A session of its own for each request, as some requests end it."""
    session = make_session(load_server_keys(stage.config.data), stage.users[who], stage.now)
    row = {"jti": session.jti, "user_id": stage.users[who], "expires": session.expires}
    with stage.database() as database, database.write() as connection:
        connection.execute(insert(sessions).values(**row, tenant_id=stage.tenants[who.partition(".")[0]]))
    return session.token


def test_no_route_is_known_by_another_method(url: str, filled: Stage) -> None:
    """What the document does not name is refused with a problem."""
    for method in ("TRACE", "PROPFIND", "PUT"):
        answer = requests.request(method, f"{url}/api/auth/me", timeout=30)
        assert (answer.status_code, answer.headers["Content-Type"]) == (405, "application/problem+json")
