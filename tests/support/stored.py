"""Tenants' repositories for tests of the server: taken up as the API does it, and filled by real backups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api.config import load_server_keys
from api.db.engine import Database
from api.identity import Caller, Role
from api.services.audit import Origin
from api.services.locations import Secrets
from api.services.repositories import Repositories
from bfrepo.repository.repository import Repository
from tests.support.backups import run_backup
from tests.support.server import Stage
from tests.support.sources import Item


@dataclass
class Stored:
    """A repository of a tenant: the IDs of it and of its snapshots."""

    stage: Stage
    tenant: str
    id: str
    name: str
    snapshots: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where it lies on the disk; its store has the name of the repository."""
        return self.stage.config.stores / self.stage.tenants[self.tenant] / self.name

    def open(self) -> Repository:
        """The repository, for the caller to close."""
        with self.stage.database() as database:
            return _repositories(self.stage, database).open(self.stage.tenants[self.tenant], self.id)

    def back_up(self, tree: Mapping[str, Item | bytes], **options: Any) -> str:
        """One more snapshot; its ID."""
        with self.open() as repository:
            repository.refresh_index()
            identifier = run_backup(repository, tree, **options).snapshot_id
        assert identifier is not None
        self.snapshots.append(identifier.hex())
        return self.snapshots[-1]


def take_up(
    stage: Stage, tenant: str = "alpha", *, name: str = "mine", password: str | None = None, create: bool = True
) -> Stored:
    """A repository in a store of the tenant's; it is made, and not encrypted, unless something else is said."""
    caller = Caller(user_id=stage.users[f"{tenant}.admin"], tenant_id=stage.tenants[tenant], email="", role=Role.ADMIN)
    origin = Origin(at=stage.now, address="", request_id="", caller=caller)
    with stage.database() as database:
        repositories = _repositories(stage, database)
        secrets = Secrets(password=password)
        made = repositories.create(origin, caller, name, f"store:{name}", secrets, create=create)
    return Stored(stage, tenant, made.id, name)


def _repositories(stage: Stage, database: Database) -> Repositories:
    config, keys = stage.config, load_server_keys(stage.config.data)
    return Repositories(database, keys, stage.clock, config)
