"""Reading the audit log. Every method blocks."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import Select, select

from api.db.engine import Database
from api.db.schema import audit
from api.db.tenancy import Tenancy
from api.fields import utc
from api.identity import Caller
from api.paging import Paged, cut_page, page_of
from api.services.tenants import find_tenant


class Event(msgspec.Struct, kw_only=True):
    """One change. `user_id` is None for what nobody had logged in for."""

    id: int
    at: datetime
    tenant_id: str | None
    user_id: str | None
    token_id: str | None
    address: str
    request_id: str
    action: str
    target: str
    detail: str


class EventPage(msgspec.Struct):
    """Some changes, the newest first."""

    items: list[Event]
    next_cursor: str


class AuditLog:
    """The audit log as administrators see it. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, caller: Caller, tenant_id: str | None, page: Paged) -> EventPage:
        """Events of a tenant, by default the caller's, or for an administrator of the server all. Raises Problem."""
        with self._database.read() as connection:
            if tenant_id is not None:
                find_tenant(connection, caller, tenant_id)
            query = page_of(_events(caller, tenant_id), (audit.c.id,), page, descending=True)
            rows = connection.execute(query).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["id"],))
        return EventPage([Event(**{**row, "at": utc(row["at"])}) for row in shown], cursor)


def _events(caller: Caller, tenant_id: str | None) -> Select[tuple[object, ...]]:
    if tenant_id is None and caller.server_admin:
        return select(audit)
    return Tenancy(tenant_id or caller.tenant_id).select(audit)
