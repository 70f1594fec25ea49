"""Repositories that the server may open: what is taken up, what is refused, and that nothing of it comes back."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from api.db.schema import repositories, tenants
from api.problems import Problem
from api.services.locations import Secrets, make_backend
from bfrepo.storage.base import ObjectKind
from tests.support.repositories import use_fast_kdf
from tests.support.server import Client, Stage, make_stage
from tests.support.stored import take_up

SECRETS = {"password": "open sesame", "s3_access_key": "AKIA-MINE", "s3_secret_key": "very-secret", "rest_user": "me"}


@pytest.fixture(autouse=True)
def _fast_kdf(monkeypatch: pytest.MonkeyPatch) -> None:
    use_fast_kdf(monkeypatch)


def request(**changes: Any) -> dict[str, Any]:
    """A repository that is to be made."""
    return {"name": "mine", "location": "store:mine", "create": True, "secrets": {"password": "open sesame"}, **changes}


def test_life_of_a_repository(any_stage: Stage) -> None:
    """A repository is made, listed, forgotten and taken up again with its password, and the audit log tells it."""

    async def talk(client: Client) -> None:
        made = await client.ask("POST", "/api/repositories", who="alpha.admin", json=request())
        assert (made.status, made.value["location"], made.headers["ETag"]) == (201, "store:mine", '"1"')
        place = f"/api/repositories/{made.value['id']}"
        assert (await client.ask("GET", place, who="alpha.viewer")).value == made.value
        assert (await client.ask("GET", "/api/repositories", who="alpha.viewer")).value["items"] == [made.value]
        assert (await client.ask("GET", "/api/repositories", who="beta.admin")).value["items"] == []
        again = await client.ask("POST", "/api/repositories", who="alpha.admin", json=request(name="other"))
        assert (again.status, again.code) == (409, "repository-exists")
        stale = await client.ask("DELETE", place, who="alpha.admin", headers={"If-Match": '"7"'})
        assert (stale.status, stale.code) == (412, "changed-meanwhile")
        assert (await client.ask("DELETE", place, who="alpha.admin")).status == 204
        taken = await client.ask("POST", "/api/repositories", who="alpha.admin", json=request(create=False))
        assert taken.status == 201
        log = (await client.ask("GET", "/api/audit", who="alpha.admin")).value["items"]
        actions = [event["action"] for event in reversed(log) if event["action"].startswith("repository")]
        assert actions == ["repository.create", "repository.delete", "repository.create"]

    any_stage.run(talk)


@pytest.mark.parametrize("changes, status, code", [
    ({"secrets": {"password": "wrong"}}, 409, "wrong-password"),
    ({"secrets": {}}, 400, "wrong-usage"),
    ({"location": "store:nowhere"}, 409, "no-repository"),
    ({"name": "mine"}, 409, "name-taken"),
    ({"name": ""}, 400, "invalid-body"),
    ({"name": "a\nb"}, 400, "invalid-body"),
    ({"secrets": {"unknown": "x"}}, 400, "invalid-body"),
])  # fmt: skip
def test_what_does_not_open(stage: Stage, changes: dict[str, Any], status: int, code: str) -> None:
    """What does not open with the secrets that came with it is not taken up."""
    take_up(stage, password="open sesame")

    async def talk(client: Client) -> None:
        body = request(create=False, **{"name": "other", **changes})
        answer = await client.ask("POST", "/api/repositories", who="alpha.admin", json=body)
        assert (answer.status, answer.code) == (status, code)
        assert len((await client.ask("GET", "/api/repositories", who="alpha.admin")).value["items"]) == 1

    stage.run(talk)


@pytest.mark.parametrize("location", [
    "/etc", "./here", "../../etc", "store:../mine", "store:a/b", "store:", "store:Mine", "memory:", "file:///etc",
    "rest:http://127.0.0.1:8420/", "rest:http://169.254.169.254/latest/", "s3:http://[::1]:9000/bucket",
    "s3:s3.amazonaws.com/bucket",
    "sftp:root@localhost:/etc", "sftp://localhost//", "http://localhost", "'; DROP TABLE x--",
])  # fmt: skip
@pytest.mark.parametrize("create", [True, False])
def test_nothing_is_opened_that_nobody_has_allowed(stage: Stage, location: str, create: bool) -> None:
    """Neither the server's disk nor any network is looked at for a tenant who names a place there."""

    async def talk(client: Client) -> None:
        body = request(location=location, create=create, secrets=SECRETS)
        answer = await client.ask("POST", "/api/repositories", who="alpha.admin", json=body)
        assert (answer.status, answer.code) in {(403, "location-not-allowed"), (400, "invalid-value")}
        assert "very-secret" not in answer.body.decode()

    stage.run(talk)


@pytest.mark.parametrize("allowed, location, is_allowed", [
    ("{root}/kept", "{root}/kept/one", True),
    ("{root}/kept/", "{root}/kept", True),
    ("{root}/kept", "{root}/kept-too", False),
    ("{root}/kept", "{root}/kept/../secret", False),
    ("{root}/kept", "{root}/kept/link", False),
    ("{root}/kept/{tenant}", "{root}/kept/{alpha}/one", True),
    ("{root}/kept/{tenant}", "{root}/kept/{beta}/one", False),
    ("rest:http://127.0.0.1:9/a", "rest:http://127.0.0.1:9/a/b/", True),
    ("rest:http://127.0.0.1:9/a", "rest:http://127.0.0.1:9/ab/", False),
    ("rest:http://127.0.0.1:9/a", "rest:http://127.0.0.1:9/a/../b/", False),
    ("rest:http://127.0.0.1:9/a", "rest:http://127.0.0.1:9/a/%2e%2e/b/", False),
    ("rest:http://127.0.0.1:9/a", "rest:http://127.0.0.1:9/a/%252e%252e/b/", False),
    ("rest:http://127.0.0.1:9", "rest:http://127.0.0.1:90/a/", False),
    ("rest:http://127.0.0.1", "rest:http://127.0.0.1.example.org/a/", False),
    ("s3:https://s3.example.org", "s3:https://s3.example.org/bucket", True),
    ("s3:https://s3.example.org/bucket", "s3:https://s3.example.org/bucket2", False),
    ("sftp:me@host:/srv/{tenant}", "sftp:me@host:/srv/{alpha}/x", True),
    ("sftp:me@host:/srv/{tenant}", "sftp:root@host:/srv/{alpha}/x", False),
])  # fmt: skip
def test_what_the_operator_allows(stage: Stage, tmp_path: Path, allowed: str, location: str, is_allowed: bool) -> None:
    """A tenant reaches what lies below an allowed location, whole parts of it, and nothing beside it."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "kept" / "link").symlink_to(tmp_path / "secret")
    config = replace(stage.config, allowed_locations=(allowed.replace("{root}", str(tmp_path)),))
    named = location.replace("{root}", str(tmp_path))
    named = named.replace("{alpha}", stage.tenants["alpha"]).replace("{beta}", stage.tenants["beta"])
    secrets = Secrets(s3_access_key="key", s3_secret_key="secret")
    expected: AbstractContextManager[object] = (
        nullcontext() if is_allowed else pytest.raises(Problem, match="location-not-allowed")
    )
    with expected:
        make_backend(config, stage.clock, stage.tenants["alpha"], named, secrets, append_only=False)[0].close()


def test_the_servers_own_keys_are_lent_to_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a bucket without keys does not get in with those that the server's environment has."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the-server")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-server")
    stage = make_stage(tmp_path / "data", allowed_locations=("s3:https://s3.example.org",))

    async def talk(client: Client) -> None:
        body = request(location="s3:https://s3.example.org/bucket", secrets={"password": "x" * 10})
        answer = await client.ask("POST", "/api/repositories", who="alpha.admin", json=body)
        assert (answer.status, answer.code) == (400, "no-keys")

    stage.run(talk)


def test_secrets_stay(any_stage: Stage) -> None:
    """What opens a repository is in no answer, and in the database only as the server's key has sealed it; moved to
    another row, or with another location, it does not open."""
    stored = take_up(any_stage, password="open sesame")

    async def talk(client: Client) -> None:
        for path in ("/api/repositories", f"/api/repositories/{stored.id}", "/api/audit"):
            assert b"sesame" not in (await client.ask("GET", path, who="alpha.admin")).body
        assert (await client.ask("GET", f"/api/snapshots?repository={stored.id}", who="alpha.admin")).status == 200

    any_stage.run(talk)
    with any_stage.database() as database, database.write() as connection:
        assert b"sesame" not in connection.execute(select(repositories.c.sealed_secrets)).scalar_one()
        connection.execute(update(repositories).values(location="store:other"))

    async def look(client: Client) -> None:
        answer = await client.ask("GET", f"/api/snapshots?repository={stored.id}", who="alpha.admin")
        assert (answer.status, answer.code) == (409, "failed")
        assert "mine" in answer.value["detail"]

    any_stage.run(look)


def test_append_only(stage: Stage) -> None:
    """Of what an append-only tenant has in its stores nothing can be deleted through the server either."""
    stored = take_up(stage)
    stored.back_up({"file": b"content"})
    with stage.database() as database, database.write() as connection:
        connection.execute(update(tenants).values(append_only=True))

    async def talk(client: Client) -> None:
        place = f"/api/snapshots/{stored.snapshots[0]}"
        for method, body in (("DELETE", None), ("PATCH", {"tags": ["x"]})):
            answer = await client.ask(method, place, who="alpha.admin", json=body)
            assert (answer.status, answer.code) == (403, "append-only")

    stage.run(talk)
    with stored.open() as repository:
        with pytest.raises(Exception, match="append-only"):
            repository.backend.delete(ObjectKind.SNAPSHOT, stored.snapshots[0])
        stored.back_up({"file": b"more"})
        assert len([*repository.backend.list(ObjectKind.SNAPSHOT)]) == 2


def test_a_store_is_what_clients_see(stage: Stage) -> None:
    """A repository in a store is one that the data plane knows, with its size."""
    stored = take_up(stage)
    stored.back_up({"file": b"content"})

    async def talk(client: Client) -> None:
        items = (await client.ask("GET", "/api/stores", who="alpha.admin")).value["items"]
        assert [item["name"] for item in items] == ["mine"]

    stage.run(talk)
    assert {"config", "data", "index", "keys", "locks", "snapshots"} <= {path.name for path in stored.folder.iterdir()}
