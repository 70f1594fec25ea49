"""API tokens: long-lived, for programs, each for a few things. The database has their hashes. Every method blocks."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any

import msgspec
from sqlalchemy import RowMapping, func, select

from api.db.engine import Database
from api.db.schema import api_tokens, tenants
from api.db.tenancy import Tenancy
from api.fields import utc, utc_or_none
from api.identity import SCOPES, Access, Caller
from api.paging import Paged, cut_page, page_of
from api.problems import Problem, not_found
from api.services.audit import Origin, record
from api.services.authentication import TOKEN_PREFIX, hash_secret
from bfrepo.core.clock import Clock

_MOST = 200  # tokens of one user that are good at the same time


class Token(msgspec.Struct, kw_only=True):
    """An API token as lists show it, without its secret."""

    id: str
    user_id: str
    name: str
    scopes: list[str]
    created: datetime
    expires: datetime | None
    last_used: datetime | None


class NewToken(Token, kw_only=True):
    """An API token that was just made. `token` is shown this once."""

    token: str


class TokenPage(msgspec.Struct):
    """Some API tokens, the oldest first."""

    items: list[Token]
    next_cursor: str


class Tokens:
    """API tokens of users. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def page(self, caller: Caller, page: Paged) -> TokenPage:
        """The caller's tokens that have not been revoked; an administrator sees those of the tenant."""
        query = Tenancy(caller.tenant_id).select(api_tokens).where(api_tokens.c.revoked.is_(None))
        if not caller.may(Access.ADMIN):
            query = query.where(api_tokens.c.user_id == caller.user_id)
        with self._database.read() as connection:
            rows = connection.execute(page_of(query, (api_tokens.c.created, api_tokens.c.id), page)).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["created"], row["id"]))
        return TokenPage([Token(**_view(row)) for row in shown], cursor)

    def create(
        self, origin: Origin, caller: Caller, name: str, scopes: Sequence[str], lifetime_s: float | None
    ) -> NewToken:
        """Make a token. Raises Problem for what the caller may not do, and for too many of them."""
        wanted = sorted(set(scopes))
        _check_scopes(caller, wanted)
        now, secret, mine = (
            self._clock.now().timestamp(),
            TOKEN_PREFIX + secrets.token_urlsafe(32),
            Tenancy(caller.tenant_id),
        )
        row = {
            "id": secrets.token_hex(16),
            "user_id": caller.user_id,
            "name": name,
            "scopes": msgspec.json.encode(wanted).decode(),
            "created": now,
            "expires": None if lifetime_s is None else now + lifetime_s,
        }
        with self._database.write() as connection:
            connection.execute(select(tenants.c.id).where(tenants.c.id == caller.tenant_id).with_for_update())
            count = mine.select(api_tokens, func.count()).where(
                api_tokens.c.user_id == caller.user_id, api_tokens.c.revoked.is_(None)
            )
            if connection.execute(count).scalar_one() >= _MOST:
                raise Problem(HTTPStatus.CONFLICT, "too-many-tokens", f"you have {_MOST} tokens", hint="revoke some")
            connection.execute(mine.insert(api_tokens, **row, secret_hash=hash_secret(secret)))
            record(connection, origin, "token.create", str(row["id"]), " ".join(wanted))
        return NewToken(**_view({**row, "last_used": None}), token=secret)

    def revoke(self, origin: Origin, caller: Caller, token_id: str) -> None:
        """Make a token useless at once: the caller's, or for an administrator any of the tenant. Raises Problem."""
        now = self._clock.now().timestamp()
        change = Tenancy(caller.tenant_id).update(api_tokens)
        change = change.where(api_tokens.c.id == token_id, api_tokens.c.revoked.is_(None))
        if not caller.may(Access.ADMIN):
            change = change.where(api_tokens.c.user_id == caller.user_id)
        with self._database.write() as connection:
            if connection.execute(change.values(revoked=now)).rowcount != 1:
                raise not_found("token")
            record(connection, origin, "token.revoke", token_id)


def _check_scopes(caller: Caller, scopes: Sequence[str]) -> None:
    for scope in scopes:
        if scope not in SCOPES:
            raise Problem(
                HTTPStatus.BAD_REQUEST, "unknown-scope", f"{scope!r} is no scope", hint=f"there are {', '.join(SCOPES)}"
            )
        if not caller.may(SCOPES[scope]):
            raise Problem(HTTPStatus.FORBIDDEN, "not-allowed", f"your role does not allow {scope}")


def _view(row: RowMapping | dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "user_id": row["user_id"],
        "name": row["name"],
        "scopes": msgspec.json.decode(row["scopes"], type=list[str]),
        "created": utc(row["created"]),
        "expires": utc_or_none(row["expires"]),
        "last_used": utc_or_none(row["last_used"]),
    }
