"""The application as a whole: it answers, says what it offers, and reports errors as problems."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from api.app import make_app
from api.config import ServerConfig, default_database
from bfrepo.core.clock import SystemClock


def ask(tmp_path: Path, talk: Callable[[TestClient[Any, Any]], Awaitable[None]]) -> None:
    """Talk with a server that has an empty data directory."""

    async def run() -> None:
        config = ServerConfig(data=tmp_path, database=default_database(tmp_path))
        async with TestClient(TestServer(make_app(config, SystemClock()))) as client:
            await talk(client)

    asyncio.run(run())


def test_health(tmp_path: Path) -> None:
    """A server that runs says so, with its security headers and a request ID."""

    async def talk(client: TestClient[Any, Any]) -> None:
        for path in ("/healthz", "/readyz"):
            answer = await client.get(path)
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert len(answer.headers["X-Request-ID"]) == 16

    ask(tmp_path, talk)


def test_unknown_path(tmp_path: Path) -> None:
    """What does not exist is a problem with the request's ID."""

    async def talk(client: TestClient[Any, Any]) -> None:
        answer = await client.get("/api/nothing", headers={"X-Request-ID": "mine-1234"})
        assert answer.status == 404
        assert answer.content_type == "application/problem+json"
        problem = await answer.json()
        assert (problem["code"], problem["request_id"]) == ("not-found", "mine-1234")
        assert answer.headers["X-Request-ID"] == "mine-1234"

    ask(tmp_path, talk)


def test_document(tmp_path: Path) -> None:
    """The OpenAPI document names every route."""

    async def talk(client: TestClient[Any, Any]) -> None:
        document = await (await client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        assert {"/healthz", "/readyz", "/openapi.json"} <= set(document["paths"])

    ask(tmp_path, talk)
