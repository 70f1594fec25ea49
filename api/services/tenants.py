"""Tenants: who they are, what they may store, and what they do store. Every method blocks.

A tenant that is deleted is marked, and none of its users gets in any more; its data goes after a grace time, until when
the mark can be taken off.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, RowMapping, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from api.db.engine import Database
from api.db.schema import jobs, repositories, stores, tenants, users
from api.db.tenancy import Tenancy
from api.fields import utc, utc_or_none
from api.identity import Caller
from api.paging import Paged, cut_page, page_of
from api.problems import Problem, not_found
from api.services.audit import Origin, record
from bfrepo.core.clock import Clock

GRACE: Final = timedelta(days=30)
"""How long a deleted tenant's data stays."""


class Tenant(msgspec.Struct, kw_only=True):
    """A tenant as answers show it. `purged_after` says when the data of a deleted one goes."""

    id: str
    name: str
    append_only: bool
    created: datetime
    deleted: datetime | None
    purged_after: datetime | None
    version: int


class TenantPage(msgspec.Struct):
    """Some tenants, by name."""

    items: list[Tenant]
    next_cursor: str


class Quota(msgspec.Struct, kw_only=True):
    """How much a tenant may store on this server, None for no limit, and how much it does."""

    bytes: int | None
    used_bytes: int
    version: int


class Usage(msgspec.Struct, kw_only=True):
    """How much a tenant has."""

    stores: int
    stored_bytes: int
    repositories: int
    jobs: int
    users: int


class Tenants:
    """All tenants. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def page(self, page: Paged) -> TenantPage:
        """Tenants, also deleted ones."""
        with self._database.read() as connection:
            rows = connection.execute(page_of(select(tenants), (tenants.c.name,), page)).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["name"],))
        return TenantPage([_view(row) for row in shown], cursor)

    def create(self, origin: Origin, name: str, *, append_only: bool, quota_bytes: int | None) -> Tenant:
        """Make a tenant without users. Raises Problem when the name is taken."""
        row = {
            "id": secrets.token_hex(16),
            "name": name,
            "append_only": append_only,
            "quota_bytes": quota_bytes,
            "created": self._clock.now().timestamp(),
            "version": 1,
        }
        try:
            with self._database.write() as connection:
                connection.execute(insert(tenants).values(row))
                record(connection, replace(origin, tenant_id=str(row["id"])), "tenant.create", name)
        except IntegrityError as error:
            raise _name_taken(name) from error
        return _view({**row, "deleted": None})

    def get(self, caller: Caller, tenant_id: str) -> Tenant:
        """One tenant. Raises Problem for one that is not the caller's."""
        with self._database.read() as connection:
            return _view(find_tenant(connection, caller, tenant_id))

    def change(
        self, origin: Origin, caller: Caller, tenant_id: str, expected: int | None, values: dict[str, Any]
    ) -> Tenant:
        """Set columns of a tenant. Raises Problem: 404, 409 for a name that is taken, 412 for another version."""
        try:
            with self._database.write() as connection:
                return self._change(connection, origin, caller, tenant_id, expected, "tenant.change", values)
        except IntegrityError as error:
            raise _name_taken(str(values.get("name"))) from error

    def delete(self, origin: Origin, caller: Caller, tenant_id: str, expected: int | None) -> None:
        """Mark a tenant as deleted. Raises Problem: 404, 409 for the caller's own, 412 for another version."""
        if tenant_id == caller.tenant_id:
            raise Problem(HTTPStatus.CONFLICT, "own-tenant", "you cannot delete the tenant that you belong to")
        values = {"deleted": self._clock.now().timestamp()}
        with self._database.write() as connection:
            if find_tenant(connection, caller, tenant_id, lock=True)["deleted"] is None:
                self._change(connection, origin, caller, tenant_id, expected, "tenant.delete", values)

    def restore(self, origin: Origin, caller: Caller, tenant_id: str) -> Tenant:
        """Take the mark off a deleted tenant. Raises Problem."""
        with self._database.write() as connection:
            return self._change(connection, origin, caller, tenant_id, None, "tenant.restore", {"deleted": None})

    def quota(self, caller: Caller, tenant_id: str) -> Quota:
        """What a tenant may store. Raises Problem for one that is not the caller's."""
        with self._database.read() as connection:
            row = find_tenant(connection, caller, tenant_id)
            return Quota(bytes=row["quota_bytes"], used_bytes=_stored(connection, tenant_id), version=row["version"])

    def set_quota(
        self, origin: Origin, caller: Caller, tenant_id: str, expected: int | None, limit: int | None
    ) -> Quota:
        """Set what a tenant may store; what is stored already stays. Raises Problem."""
        with self._database.write() as connection:
            values = {"quota_bytes": limit}
            tenant = self._change(connection, origin, caller, tenant_id, expected, "tenant.quota", values)
            return Quota(bytes=limit, used_bytes=_stored(connection, tenant_id), version=tenant.version)

    def usage(self, caller: Caller, tenant_id: str) -> Usage:
        """What a tenant has. Raises Problem for one that is not the caller's."""
        with self._database.read() as connection:
            find_tenant(connection, caller, tenant_id)
            tables = {"stores": stores, "repositories": repositories, "jobs": jobs, "users": users}
            counts = {
                name: connection.execute(Tenancy(tenant_id).select(table, func.count())).scalar_one()
                for name, table in tables.items()
            }
            return Usage(stored_bytes=_stored(connection, tenant_id), **counts)

    def _change(
        self,
        connection: Connection,
        origin: Origin,
        caller: Caller,
        tenant_id: str,
        expected: int | None,
        action: str,
        values: dict[str, Any],
    ) -> Tenant:
        row = find_tenant(connection, caller, tenant_id, lock=True)
        check_version(row, expected)
        new = {**values, "version": row["version"] + 1}
        connection.execute(update(tenants).where(tenants.c.id == tenant_id).values(new))
        detail = msgspec.json.encode(values).decode()
        record(connection, replace(origin, tenant_id=tenant_id), action, row["name"], detail)
        return _view({**row, **new})


def find_tenant(connection: Connection, caller: Caller, tenant_id: str, *, lock: bool = False) -> RowMapping:
    """The row of a tenant that the caller may know of: the caller's own, or any for who administers the server.

    With `lock` nobody else changes it until the transaction ends. Raises Problem (404).
    """
    if tenant_id != caller.tenant_id and not caller.server_admin:
        raise not_found("tenant")
    query = select(tenants).where(tenants.c.id == tenant_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise not_found("tenant")
    return row


def check_version(row: RowMapping, expected: int | None) -> None:
    """Raises Problem (412) when the client has seen another version of the row than this."""
    if expected is not None and row["version"] != expected:
        raise Problem(HTTPStatus.PRECONDITION_FAILED, "changed-meanwhile", "somebody has changed it since you read it")


def _stored(connection: Connection, tenant_id: str) -> int:
    total = connection.execute(Tenancy(tenant_id).select(stores, func.sum(stores.c.bytes))).scalar_one()
    return int(total or 0)


def _view(row: RowMapping | dict[str, Any]) -> Tenant:
    deleted = row["deleted"]
    return Tenant(
        id=row["id"],
        name=row["name"],
        append_only=row["append_only"],
        created=utc(row["created"]),
        deleted=utc_or_none(deleted),
        purged_after=None if deleted is None else utc(deleted) + GRACE,
        version=row["version"],
    )


def _name_taken(name: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, "name-taken", f"there is a tenant {name!r} already")
