"""Tenants: what administrators of the server do with them, and that none sees another."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.server import Client, Stage


def test_life_of_a_tenant(any_stage: Stage) -> None:
    """A tenant is made, changed, deleted and taken back; the audit log tells its own administrators."""

    async def talk(client: Client) -> None:
        made = await client.ask("POST", "/api/tenants", who="main.root", json={"name": "gamma", "quota_bytes": 5})
        assert (made.status, made.headers["ETag"]) == (201, '"1"')
        place = f"/api/tenants/{made.value['id']}"
        quota = await client.ask("GET", f"{place}/quota", who="main.root")
        assert quota.value == {"bytes": 5, "used_bytes": 0, "version": 1}
        quota = await client.ask("PUT", f"{place}/quota", who="main.root", json={"bytes": None})
        assert quota.value == {"bytes": None, "used_bytes": 0, "version": 2}
        changed = await client.ask("PATCH", place, who="main.root", json={"name": "delta", "append_only": True})
        assert (changed.value["name"], changed.value["append_only"]) == ("delta", True)
        assert (await client.ask("DELETE", place, who="main.root")).status == 204
        deleted = (await client.ask("GET", place, who="main.root")).value
        assert deleted["deleted"] < deleted["purged_after"]
        restored = await client.ask("POST", f"{place}/restore", who="main.root")
        assert restored.value["deleted"] is None
        log = await client.ask("GET", f"/api/audit?tenant={made.value['id']}", who="main.root")
        assert [event["action"] for event in reversed(log.value["items"])] == [
            "tenant.create", "tenant.quota", "tenant.change", "tenant.delete", "tenant.restore",
        ]  # fmt: skip
        assert {event["user_id"] for event in log.value["items"]} == {any_stage.users["main.root"]}

    any_stage.run(talk)


@pytest.mark.parametrize("method, path, body", [
    ("PATCH", "/api/tenants/{alpha}", {"append_only": True}),
    ("PUT", "/api/tenants/{alpha}/quota", {"bytes": 1}),
    ("PATCH", "/api/tenants/{alpha}/users/{viewer}", {"role": "operator"}),
    ("DELETE", "/api/tenants/{alpha}", None),
])  # fmt: skip
def test_if_match(stage: Stage, method: str, path: str, body: object) -> None:
    """What somebody else has changed meanwhile is not changed again by who has not seen that."""
    place = path.format(alpha=stage.tenants["alpha"], viewer=stage.users["alpha.viewer"])

    async def talk(client: Client) -> None:
        for seen, status in (('"7"', 412), ("nonsense", 412), ('"1"', 200 if body else 204)):
            headers = {"If-Match": seen}
            answer = await client.ask(method, place, who="main.root", json=body, headers=headers)
            assert answer.status == status

    stage.run(talk)


def test_taken_name(any_stage: Stage) -> None:
    """Two tenants never have the same name, by whichever way they would get it."""

    async def talk(client: Client) -> None:
        made = await client.ask("POST", "/api/tenants", who="main.root", json={"name": "alpha"})
        assert (made.status, made.code) == (409, "name-taken")
        place = f"/api/tenants/{any_stage.tenants['beta']}"
        changed = await client.ask("PATCH", place, who="main.root", json={"name": "alpha"})
        assert (changed.status, changed.code) == (409, "name-taken")

    any_stage.run(talk)


@pytest.mark.parametrize(
    "name", ["", "Alpha", "a/b", "..", "-a", "a b", "ä", "a\n", "a\0", "x" * 64, "'; DROP TABLE users--"]
)
def test_bad_name(stage: Stage, name: str) -> None:
    """A tenant's name is part of URLs, and can be nothing that means something else there."""

    async def talk(client: Client) -> None:
        made = await client.ask("POST", "/api/tenants", who="main.root", json={"name": name})
        assert (made.status, made.code) == (400, "invalid-body")

    stage.run(talk)


def test_own_tenant_stays(stage: Stage) -> None:
    """Nobody deletes the tenant that one belongs to."""

    async def talk(client: Client) -> None:
        answer = await client.ask("DELETE", f"/api/tenants/{stage.tenants['main']}", who="main.root")
        assert (answer.status, answer.code) == (409, "own-tenant")

    stage.run(talk)


@pytest.mark.parametrize("body", [{"disabled": True}, {"role": "viewer"}])
@pytest.mark.parametrize("who", ["alpha.admin", "main.root"])
def test_last_administrator_stays(stage: Stage, who: str, body: dict[str, object]) -> None:
    """A tenant, and the server, always have somebody who can let others in."""
    tenant = who.partition(".")[0]
    place = f"/api/tenants/{stage.tenants[tenant]}/users/{stage.users[who]}"

    async def talk(client: Client) -> None:
        answer = await client.ask("PATCH", place, who=who, json=body)
        assert (answer.status, answer.code) == (409, "last-admin")
        if who == "main.root":
            answer = await client.ask("PATCH", place, who=who, json={"server_admin": False})
            assert (answer.status, answer.code) == (409, "last-admin")

    stage.run(talk)


def test_administrators_who_remove_each_other(any_stage: Stage) -> None:
    """Of two administrators who disable each other at the same time one stays."""
    place = f"/api/tenants/{any_stage.tenants['alpha']}/users"
    admin, operator = any_stage.users["alpha.admin"], any_stage.users["alpha.operator"]

    async def talk(client: Client) -> None:
        assert (
            await client.ask("PATCH", f"{place}/{operator}", who="alpha.admin", json={"role": "admin"})
        ).status == 200
        answers = await asyncio.gather(
            client.ask("PATCH", f"{place}/{operator}", who="alpha.admin", json={"disabled": True}),
            client.ask("PATCH", f"{place}/{admin}", who="alpha.operator", json={"disabled": True}),
        )
        assert sorted(answer.status for answer in answers) in ([200, 409], [200, 401])

    any_stage.run(talk)


def test_administrators_of_the_server_are_out_of_reach(stage: Stage) -> None:
    """A tenant's administrator cannot change one of the server, nor become one."""
    place = f"/api/tenants/{stage.tenants['alpha']}/users"

    async def talk(client: Client) -> None:
        operator = f"{place}/{stage.users['alpha.operator']}"
        assert (await client.ask("PATCH", operator, who="main.root", json={"server_admin": True})).status == 200
        for body in ({"disabled": True}, {"server_admin": False}):
            assert (await client.ask("PATCH", operator, who="alpha.admin", json=body)).code == "not-allowed"
        mine = f"{place}/{stage.users['alpha.admin']}"
        answer = await client.ask("PATCH", mine, who="alpha.admin", json={"server_admin": True})
        assert (answer.status, answer.code) == (403, "not-allowed")

    stage.run(talk)


def test_audit_is_the_tenants_own(any_stage: Stage) -> None:
    """Administrators see what happened in their tenant, page by page, and that of no other."""
    body = {"name": "x", "scopes": ["jobs:read"]}

    async def talk(client: Client) -> None:
        for who in ("alpha.viewer", "beta.viewer", "alpha.viewer", "alpha.operator"):
            assert (await client.ask("POST", "/api/auth/tokens", who=who, json=body)).status == 201
        seen, cursor = [], ""
        for _ in range(3):
            page = (await client.ask("GET", f"/api/audit?limit=1&cursor={cursor}", who="alpha.admin")).value
            seen += [event["user_id"] for event in page["items"]]
            cursor = page["next_cursor"]
        assert (seen, cursor) == ([any_stage.users[f"alpha.{role}"] for role in ("operator", "viewer", "viewer")], "")
        foreign = f"/api/audit?tenant={any_stage.tenants['beta']}"
        assert (await client.ask("GET", foreign, who="alpha.admin")).status == 404
        assert len((await client.ask("GET", "/api/audit", who="main.root")).value["items"]) == 4

    any_stage.run(talk)
