"""Whom a token names: a login's JWT, or a long-lived API token.

A JWT is signed with the server's key by one fixed algorithm and names a session, which is looked up at every request,
so that a logout or a disabled user counts at once. An API token is random; the database has its hash.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

import jwt
import msgspec
from sqlalchemy import RowMapping, bindparam, select

from api.config import ServerKeys
from api.db.engine import Database
from api.db.schema import api_tokens, sessions, tenants, users
from api.db.tenancy import Tenancy
from api.identity import SCOPES, Access, Caller, Role
from api.problems import Problem, unauthorized
from bfrepo.core.clock import Clock

TOKEN_PREFIX: Final = "bft_"
LIFETIME: Final = timedelta(hours=24)
_USE_NOTED_S: Final = 3600  # how often the use of a token is written down: not at every request
_ALGORITHM: Final = "HS256"
_ISSUER: Final = "backupforge"
_AUDIENCE: Final = "backupforge-api"


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that is to be stored, and the token that names it."""

    jti: str
    expires: float
    token: str


def make_session(keys: ServerKeys, user_id: str, now: float) -> NewSession:
    """A session of 24 hours for a user whose password was right."""
    jti, expires = secrets.token_hex(16), now + LIFETIME.total_seconds()
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": user_id, "jti": jti, "iat": int(now), "exp": int(expires)}
    return NewSession(jti, expires, jwt.encode(claims, keys.tokens, algorithm=_ALGORITHM))


def hash_secret(secret: str) -> str:
    """What the database keeps of a random secret. It has 256 bits, so a plain hash cannot be turned around."""
    return hashlib.sha256(secret.encode()).hexdigest()


_OF_SESSION: Final = (
    select(users, sessions.c.jti)
    .join(sessions, sessions.c.user_id == users.c.id)
    .join(tenants, tenants.c.id == users.c.tenant_id)
    .where(sessions.c.jti == bindparam("jti"), sessions.c.revoked.is_(None), users.c.id == bindparam("sub"))
    .where(users.c.disabled.is_(False), tenants.c.deleted.is_(None))
)
"""The user of a session that goes on. Put together once: that takes longer than asking it, and every request does."""

_OF_API_TOKEN: Final = (
    select(users, *(api_tokens.c[name].label(f"token_{name}") for name in ("id", "scopes", "expires", "last_used")))
    .join(api_tokens, api_tokens.c.user_id == users.c.id)
    .join(tenants, tenants.c.id == users.c.tenant_id)
    .where(api_tokens.c.secret_hash == bindparam("secret_hash"), api_tokens.c.revoked.is_(None))
    .where(users.c.disabled.is_(False), tenants.c.deleted.is_(None))
)
"""The user of an API token that holds, and the token's own columns. As above."""


class Authenticator:
    """Finds callers. Thread-safe; blocks on the database."""

    def __init__(self, database: Database, keys: ServerKeys, clock: Clock) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock

    def authenticate(self, token: str, scope: str | None) -> Caller:
        """The caller whom `token` names. Raises Problem: 401 for a token that is not valid, or not any more, 403 for an
        API token that does not allow `scope`."""
        if token.startswith(TOKEN_PREFIX):
            return self._by_api_token(token, scope)
        return self._by_session(token)

    def _by_session(self, token: str) -> Caller:
        claims = self._claims(token)
        with self._database.read() as connection:
            row = connection.execute(_OF_SESSION, {"jti": claims["jti"], "sub": claims["sub"]}).mappings().one_or_none()
        if row is None:
            raise unauthorized("ended-session", "this session has ended: log in again")
        return _caller(row, jti=row["jti"])

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._keys.tokens,
                algorithms=[_ALGORITHM],
                issuer=_ISSUER,
                audience=_AUDIENCE,
                # The time is ours to tell, below.
                options={"require": ["exp", "iat", "jti", "sub"], "verify_exp": False, "verify_iat": False},
            )
        except jwt.InvalidTokenError as error:
            raise unauthorized("invalid-token", "this token is not valid") from error
        if not isinstance(claims["exp"], int) or claims["exp"] <= self._clock.now().timestamp():
            raise unauthorized("expired-token", "this token has expired: log in again")
        return claims

    def _by_api_token(self, token: str, scope: str | None) -> Caller:
        with self._database.read() as connection:
            row = connection.execute(_OF_API_TOKEN, {"secret_hash": hash_secret(token)}).mappings().one_or_none()
        if row is None:
            raise unauthorized("invalid-token", "this token is not valid")
        now = self._clock.now().timestamp()
        if row["token_expires"] is not None and row["token_expires"] <= now:
            raise unauthorized("expired-token", "this token has expired")
        if scope is None or scope not in msgspec.json.decode(row["token_scopes"], type=list[str]):
            raise Problem(HTTPStatus.FORBIDDEN, "out-of-scope", "this token does not allow that")
        # A token makes nobody the server's administrator, but for the one thing that it was made for.
        caller = _caller(row, token_id=row["token_id"], server_admin=SCOPES[scope] is Access.SERVER)
        if not caller.may(SCOPES[scope]):
            raise Problem(HTTPStatus.FORBIDDEN, "not-allowed", "your role does not allow what this token was made for")
        if now - (row["token_last_used"] or 0) > _USE_NOTED_S:
            self._note_use(caller, now)
        return caller

    def _note_use(self, caller: Caller, now: float) -> None:
        change = Tenancy(caller.tenant_id).update(api_tokens).where(api_tokens.c.id == caller.token_id)
        with self._database.write() as connection:
            connection.execute(change.values(last_used=now))


def _caller(
    row: RowMapping, *, jti: str | None = None, token_id: str | None = None, server_admin: bool = True
) -> Caller:
    return Caller(
        user_id=row["id"],
        tenant_id=row["tenant_id"],
        email=row["email"],
        role=Role(row["role"]),
        server_admin=row["server_admin"] and server_admin,
        jti=jti,
        token_id=token_id,
    )
