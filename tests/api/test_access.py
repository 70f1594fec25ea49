"""Who gets in where: every route, and every kind of caller.

A route that has no row here fails a test, so nobody opens one by oversight.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pytest
from sqlalchemy import insert, inspect, select, update

from api.app import all_routes
from api.db.schema import api_tokens, invitations, jobs, runs, stores, users
from api.identity import Access, Role
from api.routing import Route
from api.services.accounts import new_invitation
from api.services.authentication import hash_secret
from api.services.jobspecs import JobSpec, Kind, RunSpec
from api.services.runqueue import insert_run
from tests.support.server import PASSWORD, Client, Stage
from tests.support.stored import Stored, take_up

CALLERS: Final = ("beta.admin", "alpha.viewer", "alpha.operator", "alpha.admin", "main.root")
"""In the order of the columns: another tenant's administrator, the roles, and the server's administrator."""


@dataclass(frozen=True)
class Row:
    """What a route answers to each of CALLERS about something of alpha's; a public route answers all with one status.

    `parts` makes that something anew for each call, and gives the path's parts; `body` may be a function, too. `query`
    gets the parts as well.
    """

    statuses: str
    body: Any = None
    parts: Callable[[Stage], Mapping[str, str]] = field(default=lambda stage: {})
    query: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None

    @property
    def expected(self) -> dict[str, int]:
        """Statuses by caller."""
        numbers = [int(number) for number in self.statuses.split()]
        return dict(zip(CALLERS, numbers * (len(CALLERS) if len(numbers) == 1 else 1), strict=True))


def _tenant(stage: Stage) -> dict[str, str]:
    return {"id": stage.tenants["alpha"]}


def _user(stage: Stage) -> dict[str, str]:
    return {"id": stage.tenants["alpha"], "user": stage.users["alpha.operator"]}


def _token(stage: Stage) -> dict[str, str]:
    secret = stage.api_token("alpha.viewer", "jobs:read")
    with stage.database() as database, database.read() as connection:
        query = select(api_tokens.c.id).where(api_tokens.c.secret_hash == hash_secret(secret))
        return {"id": connection.execute(query).scalar_one()}


def _invitation(stage: Stage) -> dict[str, str]:
    key, _secret, row = new_invitation(None, Role.VIEWER, stage.now, 60, server_admin=False)
    with stage.database() as database, database.write() as connection:
        connection.execute(insert(invitations).values(tenant_id=stage.tenants["alpha"], **row))
    return {"id": stage.tenants["alpha"], "invitation": key}


def _store(stage: Stage) -> dict[str, str]:
    key = secrets.token_hex(16)
    with stage.database() as database, database.write() as connection:
        row = {"id": key, "name": key, "bytes": 0, "created": stage.now}
        connection.execute(insert(stores).values(tenant_id=stage.tenants["alpha"], **row))
    return {"id": key}


def _repository(stage: Stage) -> dict[str, str]:
    return {"id": _stored(stage).id}


def _removable_repository(stage: Stage) -> dict[str, str]:
    name = secrets.token_hex(8) if "mine" in stage.notes else "mine"
    stage.notes["mine"] = take_up(stage, name=name)
    return _repository(stage)


def _snapshot(stage: Stage) -> dict[str, str]:
    stored = _stored(stage)
    first = stored.snapshots[0] if stored.snapshots else stored.back_up({"file": b"content"})
    return {"id": first, "other": first}


def _new_snapshot(stage: Stage) -> dict[str, str]:
    return {"id": _stored(stage).back_up({"file": secrets.token_bytes(8)})}


def _stored(stage: Stage) -> Stored:
    if "mine" not in stage.notes:
        stage.notes["mine"] = take_up(stage)
    stored: Stored = stage.notes["mine"]
    return stored


def _new_repository() -> dict[str, Any]:
    name = secrets.token_hex(8)
    return {"name": name, "location": f"store:{name}", "create": True}


def _job(stage: Stage) -> dict[str, str]:
    key, spec = secrets.token_hex(16), msgspec.json.encode(JobSpec(kind=Kind.CHECK)).decode()
    row = {"id": key, "name": key, "kind": "check", "repository_id": "0" * 32, "spec": spec, "enabled": True}
    with stage.database() as database, database.write() as connection:
        row |= {"tenant_id": stage.tenants["alpha"], "created": stage.now, "version": 1}
        connection.execute(insert(jobs).values(row))
    return {"id": key}


def _run(stage: Stage) -> dict[str, str]:
    key, tenant = secrets.token_hex(16), stage.tenants["alpha"]
    spec = RunSpec(repository="0" * 32, name="job", job=JobSpec(kind=Kind.CHECK))
    with stage.database() as database, database.write() as connection:
        insert_run(connection, tenant, spec, stage.now, job_id=None, due=stage.now, run_id=key)
        connection.execute(update(runs).where(runs.c.id == key).values(state="done"))
    return {"id": key}


def _new_job() -> dict[str, str]:
    return {"name": secrets.token_hex(8), "kind": "check", "repository": "0" * 32}


_CREDENTIALS = {"email": "nobody@example.org", "password": PASSWORD}

ROWS: Final = {
    #                                       beta's admin, viewer, operator, admin, server's admin
    "POST /api/auth/register": Row("401", {**_CREDENTIALS, "secret": "wrong"}),
    "POST /api/auth/login": Row("401", lambda: {**_CREDENTIALS, "email": f"{secrets.token_hex(8)}@example.org"}),
    "POST /api/auth/logout": Row("204 204 204 204 204"),
    "GET /api/auth/me": Row("200 200 200 200 200"),
    "POST /api/auth/password": Row("204 204 204 204 204", {"current": PASSWORD, "new": PASSWORD}),
    "GET /api/auth/tokens": Row("200 200 200 200 200"),
    "POST /api/auth/tokens": Row("201 403 201 201 201", {"name": "laptop", "scopes": ["store:write"]}),
    "DELETE /api/auth/tokens/{id}": Row("404 204 404 204 404", parts=_token),
    "GET /api/audit": Row("200 403 403 200 200"),
    "GET /api/tenants": Row("403 403 403 403 200"),
    "POST /api/tenants": Row("403 403 403 403 201", {"name": "gamma"}),
    "GET /api/tenants/{id}": Row("404 200 200 200 200", parts=_tenant),
    "PATCH /api/tenants/{id}": Row("403 403 403 403 200", {"append_only": True}, _tenant),
    "DELETE /api/tenants/{id}": Row("403 403 403 403 204", parts=_tenant),
    "POST /api/tenants/{id}/restore": Row("403 403 403 403 200", parts=_tenant),
    "GET /api/tenants/{id}/quota": Row("404 200 200 200 200", parts=_tenant),
    "PUT /api/tenants/{id}/quota": Row("403 403 403 403 200", {"bytes": 1000}, _tenant),
    "GET /api/tenants/{id}/usage": Row("404 200 200 200 200", parts=_tenant),
    "GET /api/tenants/{id}/users": Row("404 403 403 200 200", parts=_tenant),
    "PATCH /api/tenants/{id}/users/{user}": Row("404 403 403 200 200", {"role": "operator"}, _user),
    "GET /api/tenants/{id}/invitations": Row("404 403 403 200 200", parts=_tenant),
    "POST /api/tenants/{id}/invitations": Row("404 403 403 201 201", {"role": "viewer"}, _tenant),
    "DELETE /api/tenants/{id}/invitations/{invitation}": Row("404 403 403 204 204", parts=_invitation),
    "GET /api/repositories": Row("200 200 200 200 200"),
    "POST /api/repositories": Row("201 403 403 201 201", _new_repository),
    "GET /api/repositories/{id}": Row("404 200 200 200 404", parts=_repository),
    "DELETE /api/repositories/{id}": Row("404 403 403 204 404", parts=_removable_repository),
    "GET /api/snapshots": Row("200 200 200 200 200"),
    "GET /api/snapshots/{id}": Row("404 200 200 200 404", parts=_snapshot),
    "PATCH /api/snapshots/{id}": Row("404 403 200 200 404", {"tags": ["kept"]}, _new_snapshot),
    "DELETE /api/snapshots/{id}": Row("404 403 403 204 404", parts=_new_snapshot),
    "GET /api/snapshots/{id}/tree": Row("404 200 200 200 404", parts=_snapshot),
    "GET /api/snapshots/{id}/file": Row("404 200 200 200 404", parts=_snapshot, query=lambda parts: {"path": "file"}),
    "GET /api/snapshots/{id}/archive": Row("404 200 200 200 404", parts=_snapshot),
    "GET /api/snapshots/{id}/diff/{other}": Row("404 200 200 200 404", parts=_snapshot),
    "POST /api/snapshots/{id}/restore": Row(
        "400 403 400 400 400", {"repository": "0" * 32, "target": "/nowhere"}, _snapshot
    ),
    "GET /api/jobs": Row("200 200 200 200 200"),
    "POST /api/jobs": Row("400 403 400 400 400", _new_job),
    "GET /api/jobs/{id}": Row("404 200 200 200 404", parts=_job),
    "PATCH /api/jobs/{id}": Row("404 403 200 200 404", {"enabled": False}, _job),
    "DELETE /api/jobs/{id}": Row("404 403 204 204 404", parts=_job),
    "POST /api/jobs/{id}/run": Row("404 403 202 202 404", parts=_job),
    "GET /api/jobs/{id}/runs": Row("404 200 200 200 404", parts=_job),
    "GET /api/runs": Row("200 200 200 200 200"),
    "GET /api/runs/{id}": Row("404 200 200 200 404", parts=_run),
    "GET /api/runs/{id}/events": Row("404 200 200 200 404", parts=_run),
    "POST /api/runs/{id}/cancel": Row("404 403 202 202 404", parts=_run),
    "GET /api/storage/stats": Row("200 200 200 200 200"),
    "GET /api/storage/history": Row("200 200 200 200 200"),
    "GET /api/storage/largest": Row(
        "404 200 200 200 404", parts=_snapshot, query=lambda parts: {"snapshot": parts["id"]}
    ),
    "GET /api/stores": Row("200 200 200 200 200"),
    "GET /api/stores/{id}": Row("404 200 200 200 404", parts=_store),
    "DELETE /api/stores/{id}": Row("404 403 403 204 404", parts=_store),
    "GET /healthz": Row("200"),
    "GET /readyz": Row("200"),
    "GET /metrics": Row("403 403 403 403 200"),
    "GET /openapi.json": Row("200"),
}

ROUTES: Final = {f"{route.method} {route.path}": route for route in all_routes()}


def test_every_route_has_a_row() -> None:
    """Who adds a route says who may call it, and a row without a route is gone."""
    assert set(ROWS) == set(ROUTES)


@pytest.mark.parametrize("name", sorted(set(ROUTES) & set(ROWS)))
def test_who_gets_in(stage: Stage, name: str) -> None:
    """Each caller gets what the table says; nobody without a valid token gets past a route that is not public."""
    route, row = ROUTES[name], ROWS[name]

    async def answer(client: Client, **who: Any) -> int:
        parts = row.parts(stage)
        body = row.body() if callable(row.body) else row.body
        query = row.query(parts) if row.query else None
        return (await client.ask(route.method, route.path.format(**parts), json=body, params=query, **who)).status

    async def talk(client: Client) -> None:
        shut = {kind: await answer(client, token=token) for kind, token in _bad_tokens(stage).items()}
        assert shut == _shut(route, row)
        assert {who: await answer(client, who=who) for who in CALLERS} == row.expected

    stage.run(talk)


def _bad_tokens(stage: Stage) -> dict[str, str | None]:
    """Tokens that must not open anything, all of them but for one thing those of alpha's administrator."""
    who = "alpha.admin"
    return {
        "no token": None,
        "expired": stage.forged_token(who, exp=int(stage.now) - 1),
        "never expires": stage.forged_token(who, exp=None),
        "wrong signature": stage.forged_token(who, key=secrets.token_bytes(32)),
        "alg none": stage.forged_token(who, algorithm="none"),
        "other algorithm": stage.forged_token(who, algorithm="HS512"),
        "other audience": stage.forged_token(who, aud="another"),
        "other issuer": stage.forged_token(who, iss="another"),
        "other user": stage.forged_token(who, sub=stage.users["main.root"]),
        "no session": stage.forged_token(who, jti="0" * 32),
        "no JWT": "abc",
        "unknown API token": "bft_unknown",
        "expired API token": stage.api_token(who, "jobs:read", expires=stage.now - 1),
        "API token without scope": stage.api_token(who),
    }


def _shut(route: Route, row: Row) -> dict[str, int]:
    kinds = (
        "no token", "expired", "never expires", "wrong signature", "alg none", "other algorithm", "other audience",
        "other issuer", "other user", "no session", "no JWT", "unknown API token", "expired API token",
    )  # fmt: skip
    if route.access is Access.PUBLIC:
        return dict.fromkeys((*kinds, "API token without scope"), int(row.statuses))
    return {**dict.fromkeys(kinds, 401), "API token without scope": 403}


# --- strings

STRANGE: Final = (
    "' OR '1'='1' UNION SELECT password_hash FROM users; DROP TABLE users;--",
    '%_\\"$1:x{0}',
    "\u202e\ufeffe\u0301\U0001f4be\uffff",
)
"""SQL, wildcards and placeholders, and characters that are no letters."""


def _with_each_string(value: Any, text: str) -> Iterator[Any]:
    """The value as often as it has strings, each time with another of them replaced."""
    match value:
        case str():
            yield text
        case dict():
            for name, part in value.items():
                yield from ({**value, name: changed} for changed in _with_each_string(part, text))
        case list():
            for number, part in enumerate(value):
                yield from (
                    [*value[:number], changed, *value[number + 1 :]] for changed in _with_each_string(part, text)
                )


def _rows_of(stage: Stage) -> dict[str, int]:
    with stage.database() as database, database.read() as connection:
        names = inspect(connection).get_table_names()
        hashes = connection.execute(select(users.c.password_hash)).scalars().all()
        return {**dict.fromkeys(names, 0), "users": len(hashes)}


@pytest.mark.parametrize("text", STRANGE, ids=["SQL", "marks", "letters"])
def test_strings_are_only_strings(any_stage: Stage, text: str) -> None:
    """SQL and strange letters in any part of a path, a query or a body are refused or kept as they are, in every route:
    the server never fails, shows no password's hash, and has its tables afterwards."""
    stage = any_stage
    before = _rows_of(stage)

    async def talk(client: Client) -> None:
        for name, route in ROUTES.items():
            row = ROWS[name]
            parts = dict(row.parts(stage))
            body = row.body() if callable(row.body) else row.body
            query = dict(row.query(parts)) if row.query else {}
            fields = [field.encode_name for field in msgspec.structs.fields(route.query)]
            requests = [({**parts, part: quote(text, safe="")}, query, body) for part in parts]
            requests += [(parts, {**query, field: text}, body) for field in fields]
            requests += [(parts, query, changed) for changed in _with_each_string(body, text)]
            for place, wanted, sent in requests:
                if name == "GET /api/runs/{id}/events" and place == parts:
                    continue  # an answer that goes on
                answer = await client.ask(
                    route.method, route.path.format(**place), who="main.root", json=sent, params=wanted or None
                )
                assert answer.status < 500, (name, place, wanted, sent, answer.body)
                assert b"$2b$" not in answer.body

    stage.run(talk)
    after = _rows_of(stage)
    assert after.keys() == before.keys()
    assert after["users"] >= before["users"]
