"""Who is asking: always from a verified token, never from the body of a request."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


class Role(enum.StrEnum):
    """What a user may do in the user's tenant, each including the one before."""

    VIEWER = "viewer"
    """Look at snapshots, statistics, jobs and runs."""
    OPERATOR = "operator"
    """Also run jobs and restores, and change what is planned."""
    ADMIN = "admin"
    """Also manage users, tokens, repositories and what deletes data."""


class Access(enum.IntEnum):
    """What a route asks of its caller."""

    PUBLIC = 0
    """Nobody in particular."""
    VIEWER = 1
    OPERATOR = 2
    ADMIN = 3
    SERVER = 4
    """An administrator of the server: tenants and what belongs to all of them."""


SCOPES: Final = MappingProxyType(
    {
        "snapshots:read": Access.VIEWER,
        "snapshots:write": Access.OPERATOR,
        "storage:read": Access.VIEWER,
        "repositories:read": Access.VIEWER,
        "jobs:read": Access.VIEWER,
        "jobs:run": Access.OPERATOR,
        "jobs:write": Access.OPERATOR,
        "store:read": Access.VIEWER,
        "store:write": Access.OPERATOR,
        "store:delete": Access.ADMIN,
        "metrics:read": Access.SERVER,
    }
)
"""What an API token may allow, and what its user must be allowed for that, when it is made and whenever it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A user whose token was verified. `jti` names the session, `token_id` the API token, whichever it was."""

    user_id: str
    tenant_id: str
    email: str
    role: Role
    server_admin: bool = False
    jti: str | None = None
    token_id: str | None = None

    def may(self, access: Access) -> bool:
        """Whether the caller has what a route asks for."""
        if access is Access.SERVER:
            return self.server_admin
        return access <= Access[self.role.name]
