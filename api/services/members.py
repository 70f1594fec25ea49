"""The users of a tenant as its administrators see them, and the invitations that make more. Every method blocks."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, func, select

from api.db.engine import Database
from api.db.schema import invitations, users
from api.db.tenancy import Tenancy
from api.fields import utc
from api.identity import Caller, Role
from api.paging import Paged, cut_page, page_of
from api.problems import Problem, not_found
from api.services.accounts import User, new_invitation, user_view
from api.services.audit import Origin, record
from api.services.tenants import check_version, find_tenant
from bfrepo.core.clock import Clock


class UserPage(msgspec.Struct):
    """Some users, by e-mail address."""

    items: list[User]
    next_cursor: str


class Invitation(msgspec.Struct, kw_only=True):
    """An invitation as lists show it. Without an e-mail address it is for whoever has its secret."""

    id: str
    email: str | None
    role: Role
    server_admin: bool
    created: datetime
    expires: datetime


class NewInvitation(Invitation, kw_only=True):
    """An invitation that was just made. `secret` is shown this once."""

    secret: str


class InvitationPage(msgspec.Struct):
    """Some invitations, the oldest first."""

    items: list[Invitation]
    next_cursor: str


class Members:
    """Users and invitations of tenants. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def page(self, caller: Caller, tenant_id: str, page: Paged) -> UserPage:
        """Users of a tenant. Raises Problem for one that is not the caller's."""
        query = page_of(Tenancy(tenant_id).select(users), (users.c.email,), page)
        with self._database.read() as connection:
            find_tenant(connection, caller, tenant_id)
            rows = connection.execute(query).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["email"],))
        return UserPage([user_view(row) for row in shown], cursor)

    def change(
        self,
        origin: Origin,
        caller: Caller,
        tenant_id: str,
        user_id: str,
        expected: int | None,
        values: dict[str, Any],
    ) -> User:
        """Set columns of a user. Raises Problem: 403 for an administrator of the server unless the caller is one, 404,
        409 for the last administrator, 412 for another version."""
        with self._database.write() as connection:
            find_tenant(connection, caller, tenant_id, lock=True)
            # Locked, so that two administrators cannot remove each other at the same time.
            everywhere = select(users.c.id).where(users.c.server_admin).order_by(users.c.id).with_for_update()
            connection.execute(everywhere).all()
            query = Tenancy(tenant_id).select(users).where(users.c.id == user_id).with_for_update()
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise not_found("user")
            check_version(row, expected)
            _check_rank(caller, row, values)
            new = {**values, "version": row["version"] + 1}
            connection.execute(Tenancy(tenant_id).update(users).where(users.c.id == user_id).values(new))
            _check_last(connection, row, {**row, **new})
            detail = msgspec.json.encode(values).decode()
            record(connection, replace(origin, tenant_id=tenant_id), "user.change", user_id, detail)
            return user_view({**row, **new})

    def invitations(self, caller: Caller, tenant_id: str, page: Paged) -> InvitationPage:
        """Invitations to a tenant that still hold. Raises Problem for one that is not the caller's."""
        query = Tenancy(tenant_id).select(invitations).where(invitations.c.used.is_(None))
        query = query.where(invitations.c.expires > self._now())
        with self._database.read() as connection:
            find_tenant(connection, caller, tenant_id)
            rows = connection.execute(page_of(query, (invitations.c.created, invitations.c.id), page)).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["created"], row["id"]))
        return InvitationPage([Invitation(**_view(row)) for row in shown], cursor)

    def invite(
        self,
        origin: Origin,
        caller: Caller,
        tenant_id: str,
        email: str | None,
        role: Role,
        lifetime_s: float,
        *,
        server_admin: bool,
    ) -> NewInvitation:
        """Invite somebody to a tenant. Raises Problem."""
        if server_admin and not caller.server_admin:
            raise _above()
        lowered = email.lower() if email else None
        key, secret, row = new_invitation(lowered, role, self._now(), lifetime_s, server_admin=server_admin)
        with self._database.write() as connection:
            if find_tenant(connection, caller, tenant_id, lock=True)["deleted"] is not None:
                raise Problem(HTTPStatus.CONFLICT, "tenant-deleted", "the tenant is deleted: restore it first")
            connection.execute(Tenancy(tenant_id).insert(invitations, **row))
            record(connection, replace(origin, tenant_id=tenant_id), "invitation.create", key, role.value)
        return NewInvitation(**_view(row), secret=secret)

    def withdraw(self, origin: Origin, caller: Caller, tenant_id: str, invitation_id: str) -> None:
        """Make an invitation useless. Raises Problem."""
        change = Tenancy(tenant_id).delete(invitations)
        change = change.where(invitations.c.id == invitation_id, invitations.c.used.is_(None))
        with self._database.write() as connection:
            find_tenant(connection, caller, tenant_id)
            if connection.execute(change).rowcount != 1:
                raise not_found("invitation")
            record(connection, replace(origin, tenant_id=tenant_id), "invitation.withdraw", invitation_id)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _check_rank(caller: Caller, row: RowMapping, values: dict[str, Any]) -> None:
    if not caller.server_admin and (row["server_admin"] or "server_admin" in values):
        raise _above()


def _above() -> Problem:
    return Problem(HTTPStatus.FORBIDDEN, "not-allowed", "only administrators of the server may do that")


def _check_last(connection: Connection, before: RowMapping, after: dict[str, Any]) -> None:
    """Of those who can let others in again, one stays."""
    able = select(func.count()).select_from(users).where(users.c.disabled.is_(False))
    was_admin = before["role"] == Role.ADMIN and not before["disabled"]
    if was_admin and (after["role"] != Role.ADMIN or after["disabled"]):
        here = able.where(users.c.tenant_id == before["tenant_id"], users.c.role == Role.ADMIN.value)
        if connection.execute(here).scalar_one() == 0:
            raise Problem(HTTPStatus.CONFLICT, "last-admin", "this is the tenant's last administrator")
    if (
        before["server_admin"]
        and not before["disabled"]
        and connection.execute(able.where(users.c.server_admin)).scalar_one() == 0
    ):
        raise Problem(HTTPStatus.CONFLICT, "last-admin", "this is the server's last administrator")


def _view(row: RowMapping | dict[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "email": row["email"],
        "role": Role(row["role"]),
        "server_admin": row["server_admin"],
        "created": utc(row["created"]),
        "expires": utc(row["expires"]),
    }
