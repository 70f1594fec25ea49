"""A server for tests: a filled database, and a client that speaks as any of its users.

Two tenants, `alpha` and `beta`, have a user of each role; the server's administrator, `root`, is in a third, `main`.
A user's name is such as "alpha.viewer". All have the same password.

    def test_something(stage: Stage) -> None:
        async def talk(client: Client) -> None:
            answer = await client.ask("GET", "/api/auth/me", who="alpha.viewer")
            assert answer.status == 200

        stage.run(talk)
"""

from __future__ import annotations

import asyncio
import functools
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import bcrypt
import jwt
import msgspec
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from jwt.warnings import InsecureKeyLengthWarning
from sqlalchemy import insert

from api.app import make_app
from api.config import ServerConfig, default_database, load_server_keys
from api.db.engine import Database
from api.db.migrate import migrate
from api.db.schema import api_tokens, sessions, tenants, users
from api.services.authentication import TOKEN_PREFIX, hash_secret, make_session
from api.services.passwords import prepare
from bfrepo.core.clock import Clock, SystemClock

PASSWORD: Final = "correct horse battery"
ROLES: Final = ("viewer", "operator", "admin")
_COST: Final = 4  # bcrypt's least: these passwords need not withstand anything


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        """The body's JSON."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The code of a problem."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        return str(self.value["code"])


@dataclass(frozen=True)
class Client:
    """Talks with a server that runs in this process."""

    raw: TestClient[Any, Any]
    tokens: Mapping[str, str]

    async def ask(
        self,
        method: str,
        path: str,
        *,
        who: str | None = None,
        token: str | None = None,
        json: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
    ) -> Answer:
        """One request, as the user `who` or with any other token."""
        sent = dict(headers or {})
        bearer = token if who is None else self.tokens[who]
        if bearer is not None:
            sent["Authorization"] = f"Bearer {bearer}"
        if json is not None:
            data, sent["Content-Type"] = msgspec.json.encode(json), "application/json"
        async with self.raw.request(method, path, data=data, headers=sent, params=params) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@dataclass
class Stage:
    """A database with tenants and users, and how to start servers on it. IDs and tokens are by name."""

    config: ServerConfig
    clock: Clock = field(default_factory=SystemClock)
    tenants: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """What tests keep with it."""

    def run(self, talk: Callable[[Client], Awaitable[None]]) -> None:
        """Start a server in this process, talk with it, and end it."""

        async def run() -> None:
            server = TestServer(self.make_app())
            async with TestClient(server) as client:
                await talk(Client(client, self.tokens))

        asyncio.run(run())

    def make_app(self) -> web.Application:
        """One more application on the same database."""
        return make_app(self.config, self.clock)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The database, to arrange things or look at them."""
        database = Database(self.config.database, connections=4)
        try:
            yield database
        finally:
            database.close()

    def api_token(self, who: str, *scopes: str, expires: float | None = None) -> str:
        """A new API token of a user's."""
        secret = TOKEN_PREFIX + f"secret-{len(self.tokens)}"
        values = {
            "id": f"{len(self.tokens):032x}",
            "tenant_id": self.tenants[who.partition(".")[0]],
            "user_id": self.users[who],
            "name": "token",
            "secret_hash": hash_secret(secret),
            "scopes": msgspec.json.encode(scopes).decode(),
            "created": self.now,
            "expires": expires,
        }
        with self.database() as database, database.write() as connection:
            connection.execute(insert(api_tokens).values(values))
        self.tokens[f"{who}#{len(self.tokens)}"] = secret
        return secret

    def forged_token(self, who: str, *, key: bytes | None = None, algorithm: str = "HS256", **claims: Any) -> str:
        """The user's token with other claims, and signed as told; `none` is no signature."""
        own = load_server_keys(self.config.data).tokens
        payload = jwt.decode(self.tokens[who], options={"verify_signature": False}) | claims
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureKeyLengthWarning)  # of those who would forge one
            return jwt.encode(payload, "" if algorithm == "none" else (key or own), algorithm=algorithm)

    @property
    def now(self) -> float:
        """The server's time."""
        return self.clock.now().timestamp()


def make_stage(data: Path, url: str | None = None, clock: Clock | None = None, **settings: Any) -> Stage:
    """Fill an empty database, by default SQLite's in the data directory. `settings` are for ServerConfig."""
    data.mkdir(parents=True, exist_ok=True)
    config = ServerConfig(data=data, database=url or default_database(data), password_cost=_COST)
    stage = Stage(replace(config, **settings), clock or SystemClock())
    with stage.database() as database:
        migrate(database)
        _fill(stage, database)
    return stage


def _fill(stage: Stage, database: Database) -> None:
    names = [("main.root", "admin"), *((f"{tenant}.{role}", role) for tenant in ("alpha", "beta") for role in ROLES)]
    keys = load_server_keys(stage.config.data)
    with database.write() as connection:
        for number, (name, role) in enumerate(names):
            tenant = name.partition(".")[0]
            if tenant not in stage.tenants:
                stage.tenants[tenant] = f"{len(stage.tenants) + 1:032x}"
                row = {"id": stage.tenants[tenant], "name": tenant, "append_only": False, "created": stage.now}
                connection.execute(insert(tenants).values(**row, version=1))
            user, session = f"{number + 100:032x}", make_session(keys, f"{number + 100:032x}", stage.now)
            mine = {"tenant_id": stage.tenants[tenant]}
            row = {"id": user, "email": f"{name}@example.org", "password_hash": _hashed(), "role": role, "version": 1}
            row |= {"server_admin": name == "main.root", "disabled": False, "created": stage.now}
            connection.execute(insert(users).values(**row, **mine))
            row = {"jti": session.jti, "user_id": user, "expires": session.expires}
            connection.execute(insert(sessions).values(**row, **mine))
            stage.users[name], stage.tokens[name] = user, session.token


@functools.cache
def _hashed() -> str:
    return bcrypt.hashpw(prepare(PASSWORD), bcrypt.gensalt(_COST)).decode()
