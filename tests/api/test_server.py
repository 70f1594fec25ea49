"""The server as a process: how it starts and ends, and what clients get who only want to hold it up."""

from __future__ import annotations

import asyncio
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from api.config import parse_listen
from api.server import Heard
from bfrepo.core.errors import InvalidValue
from tests.support.server import Client, Stage, make_stage

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(data: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A server process, its URL, and what it has said."""
    command = [sys.executable, "-m", "cli", "server", "--data", str(data), "--listen", "127.0.0.1:0", *options]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(data.parent), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, text=True
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline()]
        match = re.search(r"https?://[^\s\"]+", said[0])
        assert match, said[0] + process.stdout.read()
        yield process, match.group(), said
    finally:
        process.kill()
        process.communicate()


def post(url: str, body: dict[str, str]) -> dict[str, object]:
    """The answer to a body."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        value: dict[str, object] = json.load(answer)
        return value


def test_from_nothing(tmp_path: Path) -> None:
    """The first start prints a secret that makes the administrator; after kill -9 the server is as it was; SIGTERM
    ends it cleanly; what it keeps is closed to others."""
    data = tmp_path / "data"
    with serving(data, "--json") as (process, url, _said):
        assert process.stdout is not None
        secret = json.loads(process.stdout.readline())["secret"]
        body = {"secret": secret, "email": "me@example.org", "password": "long enough"}
        assert "token" in post(f"{url}/api/auth/register", body)
        process.kill()
    with serving(data) as (process, url, said):
        body = {"email": "me@example.org", "password": "long enough"}
        assert "token" in post(f"{url}/api/auth/login", body)
        process.send_signal(signal.SIGTERM)
        rest, _nothing = process.communicate(timeout=30)
        assert (process.returncode, said, rest) == (0, [f"listening on {url}\n"], "the server has ended\n")
    assert {path.stat().st_mode & 0o077 for path in (data, *data.iterdir())} == {0}


def test_silent_connections_are_closed(stage: Stage) -> None:
    """Who sends a header a byte at a time is cut off, while who has sent a request is not."""

    async def run() -> tuple[bytes, bytes]:
        heard, app = Heard(limit_s=0.3, look_s=0.05), stage.make_app()
        app.middlewares.insert(0, heard.note)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        watch = asyncio.create_task(heard.watch(runner))
        port = runner.addresses[0][1]
        slow_in, slow_out = await asyncio.open_connection("127.0.0.1", port)
        good_in, good_out = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        good_out.write(request)
        await good_in.readuntil(b'{"status":"ok"}')
        slow_out.write(b"GET /healthz HTTP/1.1\r\nX: ")
        ended = await asyncio.wait_for(slow_in.read(), 20)
        good_out.write(request)
        answer = await asyncio.wait_for(good_in.readuntil(b'{"status":"ok"}'), 20)
        slow_out.close()
        good_out.close()
        watch.cancel()
        await runner.cleanup()
        return ended, answer

    ended, answer = asyncio.run(run())
    assert (ended, answer[:15]) == (b"", b"HTTP/1.1 200 OK")


def test_slow_body(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends a body a byte at a time is told so, and cut off."""
    monkeypatch.setattr("api.routing._BODY_S", 0.2)

    async def slowly() -> object:
        yield b'{"email":'
        await asyncio.sleep(20)
        yield b"}"

    async def talk(client: Client) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await client.ask("POST", "/api/auth/login", data=slowly(), headers=headers)
        assert (answer.status, answer.code) == (408, "too-slow")

    began = time.monotonic()
    stage.run(talk)
    assert time.monotonic() - began < 20


def test_large_and_compressed_bodies(stage: Stage) -> None:
    """A body that is too large, or would grow, is refused before it is in memory."""
    import gzip

    async def talk(client: Client) -> None:
        headers = {"Content-Type": "application/json"}
        answer = await client.ask("POST", "/api/auth/login", data=io.BytesIO(b" " * (2 << 20)), headers=headers)
        assert (answer.status, answer.code) == (413, "too-large")
        bomb = gzip.compress(b" " * (64 << 20))
        headers["Content-Encoding"] = "gzip"
        answer = await client.ask("POST", "/api/auth/login", data=bomb, headers=headers)
        assert (answer.status, answer.code) == (415, "compressed")

    stage.run(talk)


def test_no_address(tmp_path: Path) -> None:
    """A port that is taken is named, and the exit status says that nothing runs."""
    make_stage(tmp_path / "data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = pytest.raises(AssertionError, match=re.escape(f"cannot listen on {address}"))
        with refused, serving(tmp_path / "data", "--listen", address):
            pass


@pytest.mark.parametrize(
    "text, parsed",
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8420", ("::1", 8420)), (":1", ("0.0.0.0", 1)), ("h:0", ("h", 0))],
)
def test_listen(text: str, parsed: tuple[str, int]) -> None:
    """An address to listen on is HOST:PORT, with brackets around one of IPv6."""
    assert parse_listen(text) == parsed


@pytest.mark.parametrize("text", ["", "80", "::1:80", "h:", "h:70000", "h:x", "h:-1"])
def test_no_listen(text: str) -> None:
    """Anything else is refused."""
    with pytest.raises(InvalidValue, match="no address to listen on"):
        parse_listen(text)
