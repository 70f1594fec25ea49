"""The one place where queries are confined to a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Delete, Insert, Select, Table, Update, delete, insert, select, update


@dataclass(frozen=True, slots=True)
class Tenancy:
    """Statements that see and change the rows of one tenant alone. Services build every query on tenant tables with it;
    a test holds them to that."""

    tenant_id: str

    def select(self, table: Table, *columns: Any) -> Select[Any]:
        """Rows of the table, or some columns of them."""
        return select(*(columns or (table,))).where(table.c.tenant_id == self.tenant_id)

    def insert(self, table: Table, **values: Any) -> Insert:
        """A new row of this tenant's."""
        return insert(table).values(tenant_id=self.tenant_id, **values)

    def update(self, table: Table) -> Update:
        """A change to rows of this tenant's."""
        return update(table).where(table.c.tenant_id == self.tenant_id)

    def delete(self, table: Table) -> Delete:
        """Remove rows of this tenant's."""
        return delete(table).where(table.c.tenant_id == self.tenant_id)
