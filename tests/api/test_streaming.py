"""Long answers: sent as fast as they are read and no faster, cut where they fail, and never in the way of others."""

from __future__ import annotations

import asyncio
import io
import resource
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from api import streaming
from api.state import SERVICES
from bfrepo.core.units import MIB
from tests.support.backups import incompressible
from tests.support.server import Client, Stage
from tests.support.stored import Stored, take_up

SIZE = 48 * MIB
FILES = 12


@pytest.fixture
def stored(stage: Stage) -> Stored:
    """A snapshot of a few large files."""
    found = take_up(stage)
    found.back_up({f"file{number:02}": incompressible(number, SIZE // FILES) for number in range(FILES)})
    return found


@asynccontextmanager
async def reader(client: Client, path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has asked for something and has read the first of it."""
    server = client.raw.server
    incoming, outgoing = await asyncio.open_connection(str(server.host), int(server.port or 0), limit=4096)
    request = f"GET {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {client.tokens['alpha.viewer']}\r\n\r\n"
    outgoing.write(request.encode())
    assert (await incoming.readline()).startswith(b"HTTP/1.1 200")
    try:
        yield incoming, outgoing
    finally:
        outgoing.close()


@pytest.mark.parametrize("what", ["archive", "file?path=file00"])
def test_slow_reader(stage: Stage, stored: Stored, what: str) -> None:
    """Clients that hardly read hold up nobody and take no memory, and what one then reads is whole."""
    path = f"/api/snapshots/{stored.snapshots[0]}/{what}"

    async def talk(client: Client) -> None:
        async with reader(client, path), reader(client, path), reader(client, path), reader(client, path):
            await asyncio.sleep(0.3)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            begun = time.monotonic()
            for _ in range(10):
                answer = await client.ask("GET", "/api/snapshots", who="alpha.viewer")
                assert answer.status == 200
            whole = await client.ask(
                "GET", f"/api/snapshots/{stored.snapshots[0]}/archive?path=file01", who="alpha.viewer"
            )
            assert len(whole.body) >= SIZE // FILES
            assert time.monotonic() - begun < 20
            await asyncio.sleep(0.3)
            grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
            assert grown < SIZE

    stage.run(talk)


def test_archive_arrives_whole(stage: Stage, stored: Stored) -> None:
    """An archive that is read a little at a time has every byte of every file."""

    async def talk(client: Client) -> None:
        path = f"/api/snapshots/{stored.snapshots[0]}/archive"
        headers = {"Authorization": f"Bearer {client.tokens['alpha.viewer']}"}
        got = io.BytesIO()
        async with client.raw.get(path, headers=headers) as answer:
            async for part in answer.content.iter_chunked(100_000):
                got.write(part)
                await asyncio.sleep(0)
        got.seek(0)
        with tarfile.open(fileobj=got) as tar:
            for number in range(FILES):
                found = tar.extractfile(f"file{number:02}")
                assert found is not None
                assert found.read() == incompressible(number, SIZE // FILES)

    stage.run(talk)


def test_reader_who_leaves(stage: Stage, stored: Stored) -> None:
    """Who closes the connection in the middle frees the thread and the turn that the answer had."""
    path = f"/api/snapshots/{stored.snapshots[0]}/archive"

    async def talk(client: Client) -> None:
        for _ in range(12):  # more than a tenant may have at once
            async with reader(client, path) as (incoming, _outgoing):
                await incoming.read(1000)
            await _until_idle(client)

    stage.run(talk)


def test_turns(stage: Stage, stored: Stored) -> None:
    """A tenant has a few long answers at once and no more; another tenant still gets its own."""
    path = f"/api/snapshots/{stored.snapshots[0]}/archive"
    other = take_up(stage, "beta", name="theirs").back_up({"file": b"content"})

    async def talk(client: Client) -> None:
        services = _app(client)[SERVICES]
        with services.downloads.turn(stage.tenants["alpha"]):
            async with reader(client, path):
                pass
        turns = [services.downloads.turn(stage.tenants["alpha"]) for _ in range(8)]
        await _until_idle(client)
        for turn in turns:
            turn.__enter__()
        answer = await client.ask("GET", path, who="alpha.viewer")
        assert (answer.status, answer.code) == (429, "too-many-downloads")
        assert answer.headers["Retry-After"]
        assert (await client.ask("GET", f"/api/snapshots/{other}/archive", who="beta.viewer")).status == 200
        for turn in turns:
            turn.__exit__(None, None, None)
        assert (await client.ask("GET", f"{path}?path=file00", who="alpha.viewer")).status == 200

    stage.run(talk)


def test_stalled_reader(stage: Stage, stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing for long enough has gone: its turn is another's."""
    monkeypatch.setattr(streaming, "_STALLED_S", 0.5)

    async def talk(client: Client) -> None:
        for what in ("archive", "file?path=file00"):
            path = f"/api/snapshots/{stored.snapshots[0]}/{what}"
            async with reader(client, path), reader(client, path):
                await _until_idle(client)

    stage.run(talk)


@pytest.mark.parametrize("what", ["archive", "file?path=file11"])
def test_damage_cuts_the_answer(stage: Stage, stored: Stored, what: str) -> None:
    """What turns out to be damaged in the middle is never taken for the whole: the connection breaks."""
    packs = sorted((stored.folder / "data").glob("*/*"), key=lambda path: path.stat().st_size)
    _flip(packs[-1])

    async def talk(client: Client) -> None:
        headers = {"Authorization": f"Bearer {client.tokens['alpha.viewer']}"}
        path = f"/api/snapshots/{stored.snapshots[0]}/{what}"
        async with client.raw.get(path, headers=headers) as answer:
            assert answer.status == 200  # the first half is well
            with pytest.raises(aiohttp.ClientError):
                await answer.read()
        await _until_idle(client)
        assert (await client.ask("GET", "/api/snapshots", who="alpha.viewer")).status == 200

    stage.run(talk)


def _flip(path: Path) -> None:
    """Damage all of the second half of a file, but for its end, which says what is in it."""
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 2, len(data) - 200_000, 5000):
        data[at] ^= 255
    path.chmod(0o600)
    path.write_bytes(data)


async def _until_idle(client: Client) -> None:
    downloads = _app(client)[SERVICES].downloads
    deadline = time.monotonic() + 20
    while downloads._taken.total():
        assert time.monotonic() < deadline, "a turn was not given back"
        await asyncio.sleep(0.02)


def _app(client: Client) -> web.Application:
    server = client.raw.server
    assert isinstance(server, TestServer)
    assert isinstance(client.raw, TestClient)
    return server.app
