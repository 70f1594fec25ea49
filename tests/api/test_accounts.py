"""Users: how they come in, log in and out, and what guessing costs."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import func, select

from api.config import load_server_keys
from api.db.schema import audit, login_failures, metadata
from api.problems import Problem
from api.server import prepare
from api.services.attempts import ACCOUNT_LIMIT, ADDRESS_LIMIT, WINDOW_S
from api.services.passwords import hash_password, is_password
from tests.support.repositories import FakeClock
from tests.support.server import PASSWORD, Client, Stage


async def log_in(client: Client, email: str, password: str = PASSWORD, **more: Any) -> Any:
    """The answer to a login."""
    return await client.ask("POST", "/api/auth/login", json={"email": email, "password": password}, **more)


async def register(client: Client, secret: str, email: str, password: str = PASSWORD) -> Any:
    """The answer to a registration."""
    body = {"secret": secret, "email": email, "password": password}
    return await client.ask("POST", "/api/auth/register", json=body)


def actions(stage: Stage) -> list[str]:
    """What the audit log has, in order."""
    with stage.database() as database, database.read() as connection:
        return list(connection.execute(select(audit.c.action).order_by(audit.c.id)).scalars())


def test_login_and_logout(any_stage: Stage) -> None:
    """A login gives a token that is good until the logout; the e-mail address may be written in any case."""

    async def talk(client: Client) -> None:
        answer = await log_in(client, "Alpha.Viewer@Example.org")
        token = answer.value["token"]
        me = await client.ask("GET", "/api/auth/me", token=token)
        assert (me.status, me.value) == (200, answer.value["user"])
        assert (await client.ask("POST", "/api/auth/logout", token=token)).status == 204
        assert (await client.ask("GET", "/api/auth/me", token=token)).code == "ended-session"
        assert (await client.ask("GET", "/api/auth/me", who="alpha.viewer")).status == 200

    any_stage.run(talk)
    assert actions(any_stage) == ["user.login", "user.logout"]


def test_wrong_credentials_say_nothing(stage: Stage) -> None:
    """A wrong password, an unknown user, a disabled one and one of a deleted tenant get the same answer."""

    async def talk(client: Client) -> None:
        viewer = f"/api/tenants/{stage.tenants['alpha']}/users/{stage.users['alpha.viewer']}"
        assert (await client.ask("PATCH", viewer, who="alpha.admin", json={"disabled": True})).status == 200
        assert (await client.ask("DELETE", f"/api/tenants/{stage.tenants['beta']}", who="main.root")).status == 204
        answers = [
            await log_in(client, "alpha.admin@example.org", "wrong"),
            await log_in(client, "nobody@example.org"),
            await log_in(client, "alpha.viewer@example.org"),
            await log_in(client, "beta.admin@example.org"),
        ]
        assert {(answer.status, answer.code, answer.value["detail"]) for answer in answers} == {
            (401, "wrong-credentials", "the e-mail address or the password is wrong")
        }
        for who in ("alpha.viewer", "beta.admin"):
            assert (await client.ask("GET", "/api/auth/me", who=who)).code == "ended-session"

    stage.run(talk)


def test_unknown_users_take_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a user who does not exist the same hash is computed, at the same cost."""
    import bcrypt

    costs: list[bytes] = []
    check = bcrypt.checkpw

    def checked(text: bytes, known: bytes) -> bool:
        costs.append(known[:7])
        return check(text, known)

    monkeypatch.setattr(bcrypt, "checkpw", checked)

    known = hash_password("one", 5)
    assert [is_password("one", known, 5), is_password("two", known, 5), is_password("one", None, 5)] == [
        True,
        False,
        False,
    ]
    assert costs == [b"$2b$05$"] * 3


@pytest.mark.parametrize("length", [10, 71, 72, 73, 1000])
def test_every_character_of_a_password_counts(length: int) -> None:
    """bcrypt ignores what comes after 72 bytes; we do not."""
    known = hash_password("x" * length, 4)
    assert is_password("x" * length, known, 4)
    assert not is_password("x" * (length - 1) + "y", known, 4)


def test_account_limit(any_stage: Stage) -> None:
    """After too many failures an account is closed to everybody for a while, whether it exists or not."""
    clock = any_stage.clock = FakeClock(any_stage.clock.now())

    async def talk(client: Client) -> None:
        for email in ("alpha.admin@example.org", "nobody@example.org"):
            for _ in range(ACCOUNT_LIMIT):
                assert (await log_in(client, email, "wrong")).status == 401
            answer = await log_in(client, email)
            assert (answer.status, answer.code) == (429, "too-many-attempts")
            assert 0 < int(answer.headers["Retry-After"]) <= WINDOW_S
        clock.advance(WINDOW_S + 1)
        assert (await log_in(client, "alpha.admin@example.org")).status == 200

    any_stage.run(talk)


def test_success_forgets_failures(stage: Stage) -> None:
    """Who logs in now and then is never turned away."""

    async def talk(client: Client) -> None:
        for _ in range(3):
            for _ in range(ACCOUNT_LIMIT - 1):
                assert (await log_in(client, "alpha.admin@example.org", "wrong")).status == 401
            assert (await log_in(client, "alpha.admin@example.org")).status == 200

    stage.run(talk)


def test_thousands_of_logins(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many try at once, from one address only so many passwords are looked at, and others are served."""
    looked_at: list[object] = []

    def wrong(*args: object) -> bool:
        looked_at.append(args)
        return False

    monkeypatch.setattr("api.services.accounts.is_password", wrong)

    async def talk(client: Client) -> None:
        statuses = []
        for start in range(0, 2000, 200):
            batch = (log_in(client, f"user{number}@example.org", "x") for number in range(start, start + 200))
            statuses += [answer.status for answer in await asyncio.gather(*batch)]
        assert set(statuses) == {401, 429, 503}
        assert (await client.ask("GET", "/api/auth/me", who="alpha.viewer")).status == 200

    stage.run(talk)
    assert len(looked_at) <= ADDRESS_LIMIT
    with stage.database() as database, database.read() as connection:
        assert connection.execute(select(func.count()).select_from(login_failures)).scalar_one() <= ADDRESS_LIMIT + 1


def test_logins_hold_up_nobody(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """While passwords are looked at, for however long, everything else is answered."""
    looking, go_on = threading.Event(), threading.Event()

    def slowly(*_arguments: object) -> bool:
        looking.set()
        go_on.wait(60)
        return False

    monkeypatch.setattr("api.services.accounts.is_password", slowly)

    async def talk(client: Client) -> None:
        logins = [asyncio.create_task(log_in(client, f"user{number}@example.org")) for number in range(ADDRESS_LIMIT)]
        while not looking.is_set():
            await asyncio.sleep(0.01)
        try:
            async with asyncio.timeout(30):
                paths = ("/api/auth/me", "/api/storage/stats", "/api/jobs", "/healthz") * 20
                answers = await asyncio.gather(*(client.ask("GET", path, who="alpha.viewer") for path in paths))
            assert {answer.status for answer in answers} == {200}
            assert not any(login.done() for login in logins)
        finally:
            go_on.set()
        assert {(await login).status for login in logins} <= {401, 429}

    stage.run(talk)


def test_password_change(stage: Stage) -> None:
    """A new password needs the old one, and ends all other sessions."""

    async def talk(client: Client) -> None:
        token = (await log_in(client, "alpha.viewer@example.org")).value["token"]
        body = {"current": "wrong", "new": "another password"}
        assert (await client.ask("POST", "/api/auth/password", token=token, json=body)).code == "wrong-password"
        body["current"] = PASSWORD
        assert (await client.ask("POST", "/api/auth/password", token=token, json=body)).status == 204
        assert (await client.ask("GET", "/api/auth/me", token=token)).status == 200
        assert (await client.ask("GET", "/api/auth/me", who="alpha.viewer")).code == "ended-session"
        assert (await log_in(client, "alpha.viewer@example.org")).status == 401
        assert (await log_in(client, "alpha.viewer@example.org", "another password")).status == 200

    stage.run(talk)


def test_invitation(any_stage: Stage) -> None:
    """An invitation makes one user, with the role and in the tenant that it is for."""
    place = f"/api/tenants/{any_stage.tenants['alpha']}/invitations"

    async def talk(client: Client) -> None:
        body = {"role": "operator", "email": "New@example.org"}
        made = (await client.ask("POST", place, who="alpha.admin", json=body)).value
        assert (await register(client, made["secret"], "other@example.org")).code == "invalid-invitation"
        answers = await asyncio.gather(*(register(client, made["secret"], "NEW@example.org") for _ in range(4)))
        assert sorted(answer.status for answer in answers) in ([201, 401, 401, 401], [201, 401, 401, 409])
        user = next(answer for answer in answers if answer.status == 201).value["user"]
        assert (user["email"], user["role"], user["tenant_id"]) == (
            "new@example.org",
            "operator",
            any_stage.tenants["alpha"],
        )
        assert not user["server_admin"]

    any_stage.run(talk)
    assert actions(any_stage) == ["invitation.create", "user.register"]


def test_invitation_that_is_over(stage: Stage) -> None:
    """An invitation that was withdrawn, or has expired, makes nobody; its secret is in no list."""
    clock = stage.clock = FakeClock(stage.clock.now())
    place = f"/api/tenants/{stage.tenants['alpha']}/invitations"

    async def talk(client: Client) -> None:
        first, second = [
            (await client.ask("POST", place, who="alpha.admin", json={"role": "viewer", "days": 1})).value
            for _ in range(2)
        ]
        listed = await client.ask("GET", place, who="alpha.admin")
        assert {each["id"] for each in listed.value["items"]} == {first["id"], second["id"]}
        assert first["secret"].encode() not in listed.body
        assert (await client.ask("DELETE", f"{place}/{first['id']}", who="alpha.admin")).status == 204
        assert (await register(client, first["secret"], "a@example.org")).code == "invalid-invitation"
        clock.advance(86400)
        assert (await register(client, second["secret"], "a@example.org")).code == "invalid-invitation"

    stage.run(talk)


def test_invited_above_oneself(stage: Stage) -> None:
    """Only who administers the server can make others administer it."""
    place = f"/api/tenants/{stage.tenants['alpha']}/invitations"

    async def talk(client: Client) -> None:
        body = {"role": "admin", "server_admin": True}
        assert (await client.ask("POST", place, who="alpha.admin", json=body)).status == 403
        assert (await client.ask("POST", place, who="main.root", json=body)).status == 201

    stage.run(talk)


def test_taken_email(stage: Stage) -> None:
    """Nobody gets an address that somebody has, and the invitation is not used up by that."""
    place = f"/api/tenants/{stage.tenants['alpha']}/invitations"

    async def talk(client: Client) -> None:
        made = (await client.ask("POST", place, who="alpha.admin", json={"role": "viewer"})).value
        assert (await register(client, made["secret"], "Beta.admin@example.org")).code == "email-taken"
        assert (await register(client, made["secret"], "new@example.org")).status == 201

    stage.run(talk)


def test_first_administrator(any_stage: Stage) -> None:
    """While nobody is a user each start gives a secret for one administrator, whose registration ends all of them."""
    with any_stage.database() as database, database.write() as connection:
        for table in ("sessions", "api_tokens", "users"):
            connection.exec_driver_sql(f"DELETE FROM {table}")  # noqa: S608 (a name of ours)
    first, second = (prepare(any_stage.config, any_stage.clock) for _ in range(2))
    assert first
    assert second

    async def talk(client: Client) -> None:
        answer = await register(client, first, "me@example.org")
        assert (answer.status, answer.value["user"]["server_admin"]) == (201, True)
        assert (await register(client, second, "you@example.org")).code == "invalid-invitation"
        assert (await client.ask("GET", "/api/tenants", token=answer.value["token"])).status == 200

    any_stage.run(talk)
    assert prepare(any_stage.config, any_stage.clock) is None


def test_secrets_are_kept_as_hashes(stage: Stage) -> None:
    """Nothing in the database opens anything: passwords, tokens and secrets are there as hashes alone."""
    secret = stage.api_token("alpha.admin", "jobs:read")
    with stage.database() as database, database.read() as connection:
        rows = [connection.execute(select(table)).all() for table in metadata.sorted_tables]
    content = repr(rows).encode()
    assert b"alpha.admin@example.org" in content
    for text in (PASSWORD, secret, stage.tokens["alpha.admin"]):
        assert text.encode() not in content


def test_api_tokens(any_stage: Stage) -> None:
    """An API token is shown once, does what its scopes say and the role allows, and stops when it is revoked."""

    async def talk(client: Client) -> None:
        body = {"name": "laptop", "scopes": ["store:read", "store:read"], "days": 3}
        made = await client.ask("POST", "/api/auth/tokens", who="alpha.viewer", json=body)
        assert (made.status, made.value["scopes"]) == (201, ["store:read"])
        secret = made.value["token"]
        for who, seen in (("alpha.viewer", 1), ("alpha.operator", 0), ("alpha.admin", 1), ("beta.admin", 0)):
            listed = await client.ask("GET", "/api/auth/tokens", who=who)
            assert (len(listed.value["items"]), secret.encode() in listed.body) == (seen, False)
        assert (await client.ask("GET", "/api/auth/tokens", token=secret)).code == "out-of-scope"
        assert (await client.ask("DELETE", f"/api/auth/tokens/{made.value['id']}", who="alpha.admin")).status == 204
        assert (await client.ask("GET", "/api/auth/tokens", token=secret)).code == "invalid-token"
        body = {"name": "x", "scopes": ["everything"]}
        assert (await client.ask("POST", "/api/auth/tokens", who="alpha.viewer", json=body)).code == "unknown-scope"

    any_stage.run(talk)


@pytest.mark.parametrize("body", [{"disabled": True}, {"role": "viewer"}])
def test_tokens_obey_the_role(stage: Stage, body: dict[str, object]) -> None:
    """Who loses the role or is let in no more loses what the tokens could do, at once."""
    from api.services.authentication import Authenticator

    secret = stage.api_token("alpha.operator", "store:write")
    place = f"/api/tenants/{stage.tenants['alpha']}/users/{stage.users['alpha.operator']}"

    async def talk(client: Client) -> None:
        assert (await client.ask("PATCH", place, who="alpha.admin", json=body)).status == 200

    with stage.database() as database:
        authenticator = Authenticator(database, load_server_keys(stage.config.data), stage.clock)
        assert authenticator.authenticate(secret, "store:write").user_id == stage.users["alpha.operator"]
        stage.run(talk)
        with pytest.raises(Problem, match=r"40[13]"):
            authenticator.authenticate(secret, "store:write")


def test_session_ends_after_a_day(stage: Stage) -> None:
    """A login is good for 24 hours by the server's clock."""
    clock = stage.clock = FakeClock(stage.clock.now())

    async def talk(client: Client) -> None:
        token = (await log_in(client, "alpha.viewer@example.org")).value["token"]
        clock.advance(24 * 3600 - 2)
        assert (await client.ask("GET", "/api/auth/me", token=token)).status == 200
        clock.advance(2)
        assert (await client.ask("GET", "/api/auth/me", token=token)).code == "expired-token"

    stage.run(talk)
