"""Speaks restic's REST protocol with the data plane of a Stage."""

from __future__ import annotations

import base64
import hashlib
import io
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import update

from api.db.schema import tenants
from tests.support.server import Answer, Client, Stage

PLACE: Final = "/repo/alpha/main/"
ALL: Final = ("store:read", "store:write", "store:delete")


def sha256(data: bytes) -> str:
    """The name of an object, as restic gives it."""
    return hashlib.sha256(data).hexdigest()


def basic(token: str) -> str:
    """The header for a token."""
    return "Basic " + base64.b64encode(f"anybody:{token}".encode()).decode()


@dataclass(frozen=True)
class Store:
    """Speaks with one store as one client."""

    client: Client
    token: str
    place: str = PLACE

    async def ask(self, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        """One request."""
        sent = {"Authorization": basic(self.token), **(headers or {})}
        if isinstance(more.get("data"), bytes):
            more["data"] = io.BytesIO(more["data"])  # aiohttp warns of large bytes
        return await self.client.ask(method, self.place + path, headers=sent, **more)

    async def make(self) -> None:
        """Make the repository."""
        assert (await self.ask("POST", "?create=true")).status == 200

    async def put(self, data: bytes, kind: str = "data", name: str | None = None) -> int:
        """Send an object, named by its SHA-256; the status."""
        return (await self.ask("POST", f"{kind}/{name or sha256(data)}", data=data)).status

    async def status(self, method: str, path: str, **more: Any) -> int:
        """The status of a request."""
        return (await self.ask(method, path, **more)).status


def owner(stage: Stage, client: Client, who: str = "alpha.admin") -> Store:
    """Who may do everything with the store `main` of the own tenant."""
    return Store(client, stage.api_token(who, *ALL), f"/repo/{who.partition('.')[0]}/main/")


def settle(stage: Stage, **values: Any) -> None:
    """Set columns of the tenant alpha."""
    with stage.database() as database, database.write() as connection:
        connection.execute(update(tenants).where(tenants.c.name == "alpha").values(**values))
