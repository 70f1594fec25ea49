"""The audit log: who changed what, when and from where, written in the transaction that makes the change."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert

from api.db.schema import audit
from api.identity import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a request came from. `caller` is None for one that nobody has logged in for."""

    at: float
    address: str
    request_id: str
    caller: Caller | None = None
    tenant_id: str | None = None
    """The tenant that the request concerns, where that is not the caller's own."""


def record(connection: Connection, origin: Origin, action: str, target: str, detail: str = "") -> None:
    """Note one change. `action` is such as "user.create", `target` names what was changed; no secret is in either."""
    caller = origin.caller
    connection.execute(
        insert(audit).values(
            at=origin.at,
            tenant_id=origin.tenant_id or (caller.tenant_id if caller else None),
            user_id=caller.user_id if caller else None,
            token_id=caller.token_id if caller else None,
            address=origin.address[:64],
            request_id=origin.request_id[:32],
            action=action,
            target=target[:160],
            detail=detail,
        )
    )
