"""Users and their sessions: how one becomes a user, logs in and out, and changes the password.

Every method blocks. Those that hash passwords are for `Services.logins`.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, RowMapping, delete, exists, insert, select
from sqlalchemy.exc import IntegrityError

from api.config import ServerKeys
from api.db.engine import Database
from api.db.schema import invitations, sessions, tenants, users
from api.db.tenancy import Tenancy
from api.fields import utc
from api.identity import Caller, Role
from api.problems import Problem, unauthorized
from api.services.attempts import Attempts
from api.services.audit import Origin, record
from api.services.authentication import hash_secret, make_session
from api.services.passwords import hash_password, is_password
from bfrepo.core.clock import Clock

FIRST_TENANT: Final = "main"
FIRST_SECRET_S: Final = 24 * 3600
"""How long the first administrator can be made after a start."""


class User(msgspec.Struct, kw_only=True):
    """A user as answers show it."""

    id: str
    tenant_id: str
    email: str
    role: Role
    server_admin: bool
    disabled: bool
    created: datetime
    version: int


class LoggedIn(msgspec.Struct, kw_only=True):
    """A new session: what to send as `Authorization: Bearer TOKEN`, and until when it is good."""

    token: str
    expires: datetime
    user: User


class Accounts:
    """Users and sessions. Thread-safe."""

    def __init__(self, database: Database, keys: ServerKeys, clock: Clock, cost: int) -> None:
        """`cost` is that of bcrypt."""
        self._database = database
        self._keys = keys
        self._clock = clock
        self._cost = cost
        self._attempts = Attempts(database, clock)

    def first_secret(self) -> str | None:
        """A secret that makes the first administrator, in a first tenant; None when there are users."""
        now = self._now()
        with self._database.write() as connection:
            if connection.execute(select(exists().select_from(users))).scalar():
                return None
            tenant_id = connection.execute(select(tenants.c.id).where(tenants.c.name == FIRST_TENANT)).scalar()
            if tenant_id is None:
                tenant_id = secrets.token_hex(16)
                row = {"id": tenant_id, "name": FIRST_TENANT, "append_only": False, "created": now, "version": 1}
                connection.execute(insert(tenants).values(row))
            _id, secret, row = new_invitation(None, Role.ADMIN, now, FIRST_SECRET_S, server_admin=True)
            connection.execute(Tenancy(tenant_id).insert(invitations, **row))
        return secret

    def register(self, origin: Origin, secret: str, email: str, password: str) -> LoggedIn:
        """Make the user who was invited. Raises Problem when the secret or the e-mail address cannot be used."""
        self._invitation(self._database, secret, email)  # before the expensive hash
        password_hash = hash_password(password, self._cost)
        try:
            with self._database.write() as connection:
                invitation = self._take_invitation(connection, secret, email)
                row = self._add_user(connection, invitation, email, password_hash)
                record(connection, replace(origin, tenant_id=row["tenant_id"]), "user.register", row["id"], row["role"])
                return self._log_in(connection, row)
        except IntegrityError as error:
            raise Problem(HTTPStatus.CONFLICT, "email-taken", "somebody has this e-mail address already") from error

    def login(self, origin: Origin, email: str, password: str) -> LoggedIn:
        """Start a session. Raises Problem: 401 if anything is wrong, in the same time and words whatever it is, and 429
        after too many attempts."""
        email = email.lower()
        self._attempts.begin(email, origin.address)
        row = self._find(email)
        if not is_password(password, row["password_hash"] if row else None, self._cost) or row is None or row["barred"]:
            raise Problem(HTTPStatus.UNAUTHORIZED, "wrong-credentials", "the e-mail address or the password is wrong")
        with self._database.write() as connection:
            self._attempts.succeeded(connection, email, origin.address)
            record(connection, replace(origin, tenant_id=row["tenant_id"]), "user.login", row["id"])
            return self._log_in(connection, row)

    def logout(self, origin: Origin, caller: Caller) -> None:
        """End the caller's session."""
        mine = Tenancy(caller.tenant_id)
        with self._database.write() as connection:
            connection.execute(mine.update(sessions).where(sessions.c.jti == caller.jti).values(revoked=self._now()))
            record(connection, origin, "user.logout", caller.user_id)

    def me(self, caller: Caller) -> User:
        """The caller."""
        with self._database.read() as connection:
            query = Tenancy(caller.tenant_id).select(users).where(users.c.id == caller.user_id)
            return user_view(connection.execute(query).mappings().one())

    def change_password(self, origin: Origin, caller: Caller, current: str, new: str) -> None:
        """Set the caller's password, and end the caller's other sessions. Raises Problem when `current` is wrong."""
        self._attempts.begin(caller.email, origin.address)
        row = self._find(caller.email)
        if row is None or not is_password(current, row["password_hash"], self._cost):
            raise Problem(HTTPStatus.FORBIDDEN, "wrong-password", "the current password is wrong")
        new_hash, mine = hash_password(new, self._cost), Tenancy(caller.tenant_id)
        with self._database.write() as connection:
            self._attempts.succeeded(connection, caller.email, origin.address)
            change = mine.update(users).where(users.c.id == caller.user_id)
            connection.execute(change.values(password_hash=new_hash, version=users.c.version + 1))
            others = mine.update(sessions).where(sessions.c.user_id == caller.user_id, sessions.c.jti != caller.jti)
            connection.execute(others.where(sessions.c.revoked.is_(None)).values(revoked=self._now()))
            record(connection, origin, "user.password", caller.user_id)

    def _find(self, email: str) -> RowMapping | None:
        """The user with this address, of whatever tenant: who logs in has not said which one it is."""
        barred = (users.c.disabled | tenants.c.deleted.is_not(None)).label("barred")
        query = select(users, barred).join(tenants, tenants.c.id == users.c.tenant_id).where(users.c.email == email)
        with self._database.read() as connection:
            return connection.execute(query).mappings().one_or_none()

    def _invitation(self, database: Database, secret: str, email: str) -> None:
        with database.read() as connection:
            self._open_invitation(connection, secret, email)

    def _open_invitation(self, connection: Connection, secret: str, email: str) -> RowMapping:
        query = (
            select(invitations)
            .join(tenants, tenants.c.id == invitations.c.tenant_id)
            .where(invitations.c.secret_hash == hash_secret(secret), invitations.c.used.is_(None))
            .where(invitations.c.expires > self._now(), tenants.c.deleted.is_(None))
        )
        row = connection.execute(query).mappings().one_or_none()
        if row is None or row["email"] not in (None, email.lower()):
            raise unauthorized("invalid-invitation", "this invitation is not valid, or not any more")
        return row

    def _take_invitation(self, connection: Connection, secret: str, email: str) -> RowMapping:
        """Use up an invitation: of two who send the same secret, one gets it."""
        row = self._open_invitation(connection, secret, email)
        taken = Tenancy(row["tenant_id"]).update(invitations)
        taken = taken.where(invitations.c.id == row["id"], invitations.c.used.is_(None)).values(used=self._now())
        if connection.execute(taken).rowcount != 1:
            raise unauthorized("invalid-invitation", "this invitation is not valid, or not any more")
        return row

    def _add_user(
        self, connection: Connection, invitation: RowMapping, email: str, password_hash: str
    ) -> dict[str, Any]:
        first = not connection.execute(select(exists().select_from(users))).scalar()
        row = {
            "id": secrets.token_hex(16),
            "email": email.lower(),
            "password_hash": password_hash,
            "role": invitation["role"],
            "server_admin": invitation["server_admin"],
            "disabled": False,
            "created": self._now(),
            "version": 1,
        }
        connection.execute(Tenancy(invitation["tenant_id"]).insert(users, **row))
        if first:  # what other starts have printed is of no use any more
            connection.execute(delete(invitations).where(invitations.c.used.is_(None)))
        return {**row, "tenant_id": invitation["tenant_id"]}

    def _log_in(self, connection: Connection, row: RowMapping | dict[str, Any]) -> LoggedIn:
        session = make_session(self._keys, row["id"], self._now())
        new = {"jti": session.jti, "user_id": row["id"], "expires": session.expires}
        connection.execute(Tenancy(row["tenant_id"]).insert(sessions, **new))
        return LoggedIn(token=session.token, expires=utc(session.expires), user=user_view(row))

    def _now(self) -> float:
        return self._clock.now().timestamp()


def new_invitation(
    email: str | None, role: Role, now: float, lifetime_s: float, *, server_admin: bool
) -> tuple[str, str, dict[str, Any]]:
    """ID, secret and row of an invitation."""
    key, secret = secrets.token_hex(16), secrets.token_urlsafe(32)
    row = {"id": key, "secret_hash": hash_secret(secret), "email": email, "role": role.value, "created": now}
    return key, secret, {**row, "server_admin": server_admin, "expires": now + lifetime_s}


def user_view(row: RowMapping | dict[str, Any]) -> User:
    """A user as answers show it."""
    return User(
        id=row["id"],
        tenant_id=row["tenant_id"],
        email=row["email"],
        role=Role(row["role"]),
        server_admin=row["server_admin"],
        disabled=row["disabled"],
        created=utc(row["created"]),
        version=row["version"],
    )
