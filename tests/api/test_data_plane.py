"""The data plane, answer by answer: restic's REST protocol, who gets in, append-only and quota."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import product
from typing import Final

import pytest
from blake3 import blake3

from api.dataplane.routes import ROUTES
from tests.support.server import Answer, Client, Stage
from tests.support.store_client import ALL, PLACE, Store, basic, owner, settle, sha256

V2: Final = "application/vnd.x.restic.rest.v2"
CONTENT: Final = b"what a client has sealed" * 1000


def test_life_of_objects(stage: Stage) -> None:
    """Objects of every kind are stored, found, read, listed and deleted with the answers that restic expects."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        assert await store.status("GET", "keys/") == await store.status("HEAD", "config") == 404
        await store.make()
        await store.make()
        assert await store.status("POST", "") == 400
        for kind in ("data", "keys", "locks", "snapshots", "index"):
            path = f"{kind}/{sha256(CONTENT)}"
            assert (await store.ask("GET", f"{kind}/", headers={"Accept": V2})).body == b"[]"
            assert [await store.status(method, path) for method in ("HEAD", "GET")] == [404, 404]
            assert await store.put(CONTENT, kind) == 200
            head, answer = await store.ask("HEAD", path), await store.ask("GET", path)
            assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(CONTENT)), b"")
            assert (answer.status, answer.body) == (200, CONTENT)
            assert (await store.ask("GET", f"{kind}/")).value == [sha256(CONTENT)]
            assert [await store.status("DELETE", path) for _twice in range(2)] == [200, 200]
            assert await store.status("GET", path) == 404
        assert await store.status("POST", "config", data=b"anything") == 200
        assert (await store.ask("GET", "config")).body == b"anything"
        assert await store.status("DELETE", "config") == await store.status("DELETE", "config") == 200

    stage.run(talk)


def test_listing(stage: Stage) -> None:
    """Version 2 has sizes, and its type is exactly restic's; what is no object is not listed."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        await store.make()
        contents = [bytes([number]) * number for number in range(1, 200)]
        assert {await store.put(content) for content in contents} == {200}
        folder = stage.config.stores / stage.tenants["alpha"] / "main" / "data"
        (folder / "00" / "stranger").write_bytes(b"x")
        (folder / "00" / ("00" * 32)).mkdir()
        answer = await store.ask("GET", "data/", headers={"Accept": V2})
        assert answer.headers["Content-Type"] == V2
        listed = [{"name": sha256(content), "size": len(content)} for content in contents]
        assert answer.value == sorted(listed, key=lambda each: str(each["name"]))
        answer = await store.ask("GET", "data/")
        assert answer.headers["Content-Type"] == "application/vnd.x.restic.rest.v1"
        assert answer.value == sorted(map(sha256, contents))

    stage.run(talk)


@pytest.mark.parametrize(
    "wanted, status, part, extent",
    [
        ("bytes=0-", 206, slice(None), "0-23999/24000"),
        ("bytes=5-9", 206, slice(5, 10), "5-9/24000"),
        ("bytes=23990-99999", 206, slice(23990, None), "23990-23999/24000"),
        ("bytes=-10", 206, slice(23990, None), "23990-23999/24000"),
        ("bytes=24000-", 416, None, "*/24000"),
        ("bytes=9-5", 416, None, "*/24000"),
        ("bytes=0-1,4-5", 416, None, "*/24000"),
        ("nonsense", 416, None, "*/24000"),
    ],
)
def test_ranges(stage: Stage, wanted: str, status: int, part: slice | None, extent: str) -> None:
    """A range is answered with just that range."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        await store.make()
        await store.put(CONTENT)
        answer = await store.ask("GET", f"data/{sha256(CONTENT)}", headers={"Range": wanted})
        assert (answer.status, answer.headers["Content-Range"]) == (status, f"bytes {extent}")
        if part is not None:
            assert answer.body == CONTENT[part]

    stage.run(talk)


def test_names(stage: Stage) -> None:
    """A name is the SHA-256 or the BLAKE3 of the bytes, in any order; nothing else is stored, or left lying about."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        await store.make()
        for number, (hashed, kind) in enumerate(product([sha256, lambda data: blake3(data).hexdigest()] * 2, ["data"])):
            content = CONTENT + bytes([number])
            assert await store.put(content, kind, hashed(content)) == 200
        assert await store.put(CONTENT, name=sha256(b"another")) == 400
        assert await store.status("GET", f"data/{sha256(b'another')}") == 404
        for name in ("0" * 63, "A" * 64, "0" * 65, "%2e%2e%2fconfig", "0" * 64 + "%0a"):
            assert await store.status("POST", f"data/{name}", data=b"") in (404, 405)
        assert await store.put(CONTENT, "packs") == 404
        assert not list((stage.config.stores / stage.tenants["alpha"] / "main" / "tmp").iterdir())

    stage.run(talk)


def test_nothing_is_overwritten(stage: Stage) -> None:
    """What is there stays as it is: objects, keys and the config, whoever sends them again, all at once too."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        await store.make()
        at_once = await asyncio.gather(*(store.put(CONTENT) for _ in range(8)))
        assert sorted(at_once) == [200] + [403] * 7
        configs = [store.status("POST", "config", data=bytes([number]) * 999) for number in range(8)]
        assert sorted(await asyncio.gather(*configs)) == [200] + [403] * 7
        config = (await store.ask("GET", "config")).body
        assert len(config) == 999
        assert len(set(config)) == 1
        assert await store.put(b"key", "keys") == 200
        assert await store.put(b"key", "keys") == 403
        assert (await store.ask("GET", f"keys/{sha256(b'key')}")).body == b"key"
        assert _counted(await client.ask("GET", "/api/stores", who="alpha.viewer")) == len(CONTENT) + 999 + 3

    stage.run(talk)


def _counted(answer: Answer) -> int:
    return sum(store["stored_bytes"] for store in answer.value["items"])


def test_bodies(stage: Stage) -> None:
    """A body has its length, be it 0."""

    async def endless() -> AsyncIterator[bytes]:
        yield CONTENT

    async def talk(client: Client) -> None:
        store, path = owner(stage, client), f"data/{sha256(CONTENT)}"
        await store.make()
        assert await store.status("POST", path, data=endless()) == 411
        assert await store.put(b"") == 200
        assert (await store.ask("GET", f"data/{sha256(b'')}")).body == b""

    stage.run(talk)


def test_append_only(stage: Stage) -> None:
    """Of an append-only tenant nothing but locks can be deleted, by anybody and anyhow."""

    async def talk(client: Client) -> None:
        settle(stage, append_only=True)
        store = owner(stage, client)
        await store.make()
        for kind in ("data", "keys", "snapshots", "index"):
            assert await store.put(CONTENT, kind) == 200
            assert await store.status("DELETE", f"{kind}/{sha256(CONTENT)}") == 403
            assert await store.status("HEAD", f"{kind}/{sha256(CONTENT)}") == 200
        assert await store.status("POST", "config", data=b"config") == 200
        assert await store.status("DELETE", "config") == 403
        assert await store.put(CONTENT, "locks") == 200
        assert await store.status("DELETE", f"locks/{sha256(CONTENT)}") == 200
        key = (await client.ask("GET", "/api/stores", who="alpha.admin")).value["items"][0]["id"]
        answer = await client.ask("DELETE", f"/api/stores/{key}", who="alpha.admin")
        assert (answer.status, answer.code) == (409, "append-only")

    stage.run(talk)


def test_quota(any_stage: Stage) -> None:
    """A tenant stores what the quota allows, over all its stores and whatever comes at once; deletions make room."""
    stage = any_stage

    async def talk(client: Client) -> None:
        settle(stage, quota_bytes=10_000)
        store, other = owner(stage, client), owner(stage, client, "beta.admin")
        second = Store(client, store.token, "/repo/alpha/second/")
        for each in (store, second, other):
            await each.make()
        parts = [bytes([number]) * 3000 for number in range(6)]
        statuses = await asyncio.gather(*(each.put(part) for part in parts for each in (store, second)))
        assert sorted(statuses) == [200] * 3 + [507] * 9
        assert (await client.ask("GET", f"/api/tenants/{stage.tenants['alpha']}/quota", who="alpha.viewer")).value[
            "used_bytes"
        ] == 9000
        assert await store.put(b"x" * 1001) == 507
        assert await other.put(b"x" * 100_000) == 200
        kept = next(part for part, status in zip(parts, statuses[::2], strict=True) if status == 200)
        assert await store.status("DELETE", f"data/{sha256(kept)}") == 200
        assert await store.put(b"x" * 4000) == 200
        assert await store.put(b"", "keys") == 200

    stage.run(talk)


def test_refused_uploads_are_not_counted(stage: Stage) -> None:
    """What is not stored counts for nothing: a wrong name, what is there already, a client that goes away."""

    async def talk(client: Client) -> None:
        store, folder = owner(stage, client), stage.config.stores / stage.tenants["alpha"] / "main" / "tmp"
        await store.make()
        assert await store.put(CONTENT) == 200
        assert await store.put(CONTENT) == 403
        assert await store.put(CONTENT, name=sha256(b"other")) == 400
        _answers, requests = await asyncio.open_connection("127.0.0.1", client.raw.port)
        head = f"POST {PLACE}data/{sha256(b'x')} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(store.token)}\r\n"
        requests.write(head.encode() + b"Content-Length: 20000\r\n\r\n" + CONTENT[:100])
        while not list(folder.iterdir()):
            await asyncio.sleep(0.01)
        assert _counted(await client.ask("GET", "/api/stores", who="alpha.viewer")) == len(CONTENT) + 20000
        requests.close()
        for _ in range(500):
            counted = _counted(await client.ask("GET", "/api/stores", who="alpha.viewer"))
            if counted == len(CONTENT):
                break
            await asyncio.sleep(0.02)
        assert counted == len(CONTENT)
        assert not list(folder.iterdir())

    stage.run(talk)


@pytest.mark.parametrize("size", [0, 1_000_000, 2_000_000])
def test_slow_uploads(stage: Stage, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Who sends nothing for a while, or too little on the whole, is told so, and nothing is left of it."""
    monkeypatch.setattr("api.dataplane.receiving.SILENCE_S", 60.0 if size else 0.1)
    monkeypatch.setattr("api.dataplane.receiving.START_S", 0.1 if size else 60.0)
    monkeypatch.setattr("api.dataplane.receiving.LEAST_RATE", 10 * size or 1)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x"
            await asyncio.sleep(0.05 if size else 30)

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        await store.make()
        headers = {"Content-Length": str(size or 100)}
        answer = await store.ask("POST", f"data/{sha256(b'slow')}", data=slowly(), headers=headers)
        assert (answer.status, answer.body) == (408, b"the body came too slowly\n")
        assert _counted(await client.ask("GET", "/api/stores", who="alpha.viewer")) == 0

    stage.run(talk)


def test_removed_store(stage: Stage) -> None:
    """A store that its administrator deletes is gone with all that is in it, and its bytes count no more."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        await store.make()
        await store.put(CONTENT)
        key = (await client.ask("GET", "/api/stores", who="alpha.admin")).value["items"][0]["id"]
        assert (await client.ask("DELETE", f"/api/stores/{key}", who="alpha.admin")).status == 204
        assert (await client.ask("GET", "/api/stores", who="alpha.admin")).value["items"] == []
        assert await store.status("GET", f"data/{sha256(CONTENT)}") == 404
        assert not list((stage.config.stores / stage.tenants["alpha"]).iterdir())
        await store.make()
        assert (await store.ask("GET", "data/")).value == []

    stage.run(talk)


# --- who gets in

ROWS: Final = {
    #                                   read write delete
    "POST /repo/{tenant}/{name}/": "403 200 403",
    "HEAD /repo/{tenant}/{name}/config": "404 403 403",
    "GET /repo/{tenant}/{name}/config": "404 403 403",
    "POST /repo/{tenant}/{name}/config": "403 200 403",
    "DELETE /repo/{tenant}/{name}/config": "403 403 200",
    "GET /repo/{tenant}/{name}/{kind}/": "200 403 403",
    "HEAD /repo/{tenant}/{name}/{kind}/{id}": "404 403 403",
    "GET /repo/{tenant}/{name}/{kind}/{id}": "404 403 403",
    "POST /repo/{tenant}/{name}/{kind}/{id}": "403 200 403",
    "DELETE /repo/{tenant}/{name}/locks/{id}": "403 200 403",
    "DELETE /repo/{tenant}/{name}/{kind}/{id}": "403 403 200",
}


def _readable(path: str) -> str:
    for written, short in (("{kind:locks}", "locks"), (":data|keys|locks|snapshots|index", ""), (":[0-9a-f]{64}", "")):
        path = path.replace(written, short)
    return path


def test_every_route_has_a_row() -> None:
    """Who adds a route to the data plane says which token opens it."""
    assert [f"{route.method} {_readable(route.path)}" for route in ROUTES] == list(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_who_gets_in(stage: Stage, name: str) -> None:
    """A route opens to tokens with its scope, and to nobody else; what is another tenant's is not there."""
    method, _, path = name.partition(" ")
    path = path.replace("{tenant}/{name}", "alpha/main").replace("{kind}", "index").replace("{id}", sha256(b""))
    path = path.removeprefix(PLACE) + ("?create=true" if path == PLACE else "")
    admin = "alpha.admin"

    async def talk(client: Client) -> None:
        await owner(stage, client).make()
        shut = {
            "nobody": "",
            "wrong": "bft_wrong",
            "login": stage.tokens[admin],
            "expired": stage.api_token(admin, *ALL, expires=stage.now - 1),
        }
        assert {key: await Store(client, token).status(method, path) for key, token in shut.items()} == dict.fromkeys(
            shut, 401
        )
        assert (await client.ask(method, PLACE + path)).status == 401
        bearer = {"Authorization": f"Bearer {stage.tokens[admin]}"}
        assert (await client.ask(method, PLACE + path, headers=bearer)).status == 401
        foreign = Store(client, stage.api_token("beta.admin", *ALL))
        assert await foreign.status(method, path) == 404
        elsewhere = Store(client, stage.api_token(admin, "snapshots:read", "jobs:write"))
        assert await elsewhere.status(method, path) == 403
        tokens = [stage.api_token(admin, scope) for scope in ALL]
        statuses = [await Store(client, token).status(method, path) for token in tokens]
        assert " ".join(map(str, statuses)) == ROWS[name]

    stage.run(talk)


def test_roles(stage: Stage) -> None:
    """A token is worth no more than its user: who may only look stores nothing, who may only work deletes nothing."""

    async def talk(client: Client) -> None:
        await owner(stage, client).make()
        path = f"data/{sha256(b'')}"
        statuses = {}
        for role in ("viewer", "operator", "admin"):
            store = Store(client, stage.api_token(f"alpha.{role}", *ALL))
            statuses[role] = [await store.status(method, path) for method in ("POST", "GET", "DELETE")]
        assert statuses == {"viewer": [403, 404, 403], "operator": [200, 200, 403], "admin": [403, 200, 200]}

    stage.run(talk)


def test_tenant_by_its_id(stage: Stage) -> None:
    """A tenant that is renamed is still found by its ID."""

    async def talk(client: Client) -> None:
        store = owner(stage, client)
        await store.make()
        await store.put(CONTENT)
        settle(stage, name="omega")
        assert await store.put(CONTENT) == 404
        again = Store(client, store.token, f"/repo/{stage.tenants['alpha']}/main/")
        assert (await again.ask("GET", f"data/{sha256(CONTENT)}")).body == CONTENT

    stage.run(talk)


def test_large_objects(stage: Stage) -> None:
    """What is large enough to be taken straight from its connection is stored as whole, refused as well, and not lost
    when the client goes away."""

    async def talk(client: Client) -> None:
        store, data = owner(stage, client), bytes(range(256)) * 40_000
        await store.make()
        for name in (sha256(data), blake3(data[1:]).hexdigest()):
            content = data if name == sha256(data) else data[1:]
            answer = await store.ask("POST", f"data/{name}", data=content)
            assert (answer.status, answer.headers["Connection"]) == (200, "close")
            assert (await store.ask("GET", f"data/{name}")).body == content
        assert await store.put(data[2:], name=sha256(b"other")) == 400
        _answers, requests = await asyncio.open_connection("127.0.0.1", client.raw.port)
        head = f"POST {PLACE}data/{sha256(b'x')} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(store.token)}\r\n"
        requests.write(head.encode() + b"Content-Length: 20000000\r\n\r\n" + data)
        await requests.drain()
        requests.close()
        folder = stage.config.stores / stage.tenants["alpha"] / "main" / "tmp"
        for _ in range(500):
            counted = _counted(await client.ask("GET", "/api/stores", who="alpha.viewer"))
            if counted == 2 * len(data) - 1 and not list(folder.iterdir()):
                return
            await asyncio.sleep(0.02)
        raise AssertionError(counted)

    stage.run(talk)
