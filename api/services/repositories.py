"""Tenants' repositories that the server may open: where they are, and what opens them, sealed. Every method blocks."""

from __future__ import annotations

import secrets as random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, RowMapping, select
from sqlalchemy.exc import IntegrityError

from api.config import ServerConfig, ServerKeys
from api.db.engine import Database
from api.db.schema import measurements, repositories, tenants
from api.db.tenancy import Tenancy
from api.fields import utc
from api.identity import Caller
from api.paging import Paged, cut_page, page_of
from api.problems import Problem, not_found, problem_of
from api.services.audit import Origin, record
from api.services.locations import Opening, Secrets, make_backend, open_to, password_of, store_name
from api.services.stores import Stores
from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError, DamagedObject
from bfrepo.crypto.seal import AesGcm, seal, unseal
from bfrepo.operations.init import InitOptions, init
from bfrepo.repository.repository import Repository

_MOST: Final = 200
"""Repositories of one tenant."""


class RepositoryView(msgspec.Struct, kw_only=True):
    """A repository as clients see it: never with what opens it."""

    id: str
    name: str
    location: str
    created: datetime
    version: int


class RepositoryPage(msgspec.Struct):
    """Some repositories, the oldest first."""

    items: list[RepositoryView]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class Known:
    """A repository of a tenant, by its ID and name."""

    id: str
    name: str


class Repositories:
    """Repositories of tenants. Thread-safe."""

    def __init__(self, database: Database, keys: ServerKeys, clock: Clock, config: ServerConfig) -> None:
        self._database = database
        self._stores = Stores(database, clock, config.stores)
        self._sealer = AesGcm(keys.sealing)
        self._clock = clock
        self._config = config

    def page(self, caller: Caller, page: Paged) -> RepositoryPage:
        """The tenant's repositories."""
        query = page_of(
            Tenancy(caller.tenant_id).select(repositories), (repositories.c.created, repositories.c.id), page
        )
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["created"], row["id"]))
        return RepositoryPage([_view(row) for row in shown], cursor)

    def get(self, caller: Caller, repository_id: str) -> RepositoryView:
        """One of them. Raises Problem."""
        with self._database.read() as connection:
            return _view(_find(connection, caller.tenant_id, repository_id))

    def known(self, tenant_id: str, repository_id: str | None = None) -> list[Known]:
        """The tenant's repositories, or the one with this ID. Raises Problem if that is not there."""
        query = Tenancy(tenant_id).select(repositories, repositories.c.id, repositories.c.name)
        if repository_id is not None:
            query = query.where(repositories.c.id == repository_id)
        with self._database.read() as connection:
            found = [Known(*row) for row in connection.execute(query.order_by(repositories.c.created))]
        if repository_id is not None and not found:
            raise not_found("repository")
        return found

    def create(
        self, origin: Origin, caller: Caller, name: str, location: str, secrets: Secrets, *, create: bool
    ) -> RepositoryView:
        """Take up a repository that opens with these secrets; with `create` it is made first.

        Raises Problem: 403 for a location that the server does not open, 409 for a name that is taken, or a repository
        that is not there, does not open, or, with `create`, is there; and the library's errors.
        """
        self._check_free(caller.tenant_id, name)
        if create:
            self._make(origin, caller, location, secrets)
        open_to(self._config, self._clock, self._opening(caller.tenant_id, location, secrets)).close()
        row: dict[str, Any] = {
            "id": random.token_hex(16),
            "name": name,
            "location": location,
            "created": self._clock.now().timestamp(),
            "version": 1,
        }
        sealed = seal(self._sealer, msgspec.json.encode(secrets), _bound_to(caller.tenant_id, row["id"], location))
        try:
            with self._database.write() as connection:
                connection.execute(Tenancy(caller.tenant_id).insert(repositories, **row, sealed_secrets=sealed))
                record(connection, origin, "repository.create", row["id"], name)
        except IntegrityError as error:
            raise _name_taken(name) from error
        return _view(row)

    def delete(self, origin: Origin, caller: Caller, repository_id: str, expected: int | None) -> None:
        """Forget how to open a repository, and its statistics; what it holds stays. Raises Problem: 404, 412."""
        mine = Tenancy(caller.tenant_id)
        with self._database.write() as connection:
            row = _find(connection, caller.tenant_id, repository_id)
            if expected is not None and expected != row["version"]:
                raise Problem(HTTPStatus.PRECONDITION_FAILED, "changed-meanwhile", "somebody else has changed it")
            connection.execute(mine.delete(measurements).where(measurements.c.repository_id == repository_id))
            connection.execute(mine.delete(repositories).where(repositories.c.id == repository_id))
            record(connection, origin, "repository.delete", repository_id, row["name"])

    def opening(self, tenant_id: str, repository_id: str) -> Opening:
        """What opens a repository, for `open_to`.

        Raises Problem if the tenant has no such repository, or its secrets cannot be read.
        """
        with self._database.read() as connection:
            row = _find(connection, tenant_id, repository_id)
        with naming(row["name"]):
            try:
                plain = unseal(self._sealer, row["sealed_secrets"], _bound_to(tenant_id, row["id"], row["location"]))
            except DamagedObject as error:
                raise BackupForgeError(
                    "its secrets do not open with this server's key", hint="take it up again, with its secrets"
                ) from error
        return self._opening(tenant_id, row["location"], msgspec.json.decode(plain, type=Secrets))

    def open(self, tenant_id: str, repository_id: str) -> Repository:
        """A repository, opened anew for the caller to close. Its index is not read yet.

        Raises Problem if the tenant has no such repository; else errors are Problems that name the repository.
        """
        known = self.known(tenant_id, repository_id)[0]
        opening = self.opening(tenant_id, repository_id)
        with naming(known.name):
            return open_to(self._config, self._clock, opening)

    def is_append_only(self, tenant_id: str) -> bool:
        """Whether the tenant may only add to its stores."""
        with self._database.read() as connection:
            return bool(connection.execute(select(tenants.c.append_only).where(tenants.c.id == tenant_id)).scalar())

    def _opening(self, tenant_id: str, location: str, secrets: Secrets) -> Opening:
        append_only = self.is_append_only(tenant_id)
        return Opening(tenant_id=tenant_id, location=location, secrets=secrets, append_only=append_only)

    def _make(self, origin: Origin, caller: Caller, location: str, secrets: Secrets) -> None:
        tenant_id, store = caller.tenant_id, store_name(location)
        backend, _far = make_backend(self._config, self._clock, tenant_id, location, secrets, append_only=False)
        try:
            if store is not None:
                self._stores.create(origin, caller, tenant_id, store)
            options = InitOptions(label="server", encryption="aes-256-gcm" if secrets.password else "none")
            init(backend, options, self._clock, lambda: password_of(secrets))
        finally:
            backend.close()

    def _check_free(self, tenant_id: str, name: str) -> None:
        query = Tenancy(tenant_id).select(repositories, repositories.c.name)
        with self._database.read() as connection:
            names = connection.execute(query).scalars().all()
        if name in names:
            raise _name_taken(name)
        if len(names) >= _MOST:
            raise Problem(HTTPStatus.CONFLICT, "too-many-repositories", f"a tenant may have {_MOST} repositories")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors of the library become problems that name the repository."""
    try:
        yield
    except BackupForgeError as error:
        problem = problem_of(error)
        detail = f"repository {name}: {problem.detail}"
        raise Problem(problem.status, problem.code, detail, hint=problem.hint) from error


def _bound_to(tenant_id: str, repository_id: str, location: str) -> bytes:
    """What sealed secrets belong to: copied to another row, or sent to another place, they do not open."""
    return msgspec.json.encode(["repository", tenant_id, repository_id, location])


def _find(connection: Connection, tenant_id: str, repository_id: str) -> RowMapping:
    query = Tenancy(tenant_id).select(repositories).where(repositories.c.id == repository_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise not_found("repository")
    return row


def _view(row: RowMapping | dict[str, Any]) -> RepositoryView:
    return RepositoryView(
        id=row["id"], name=row["name"], location=row["location"], created=utc(row["created"]), version=row["version"]
    )


def _name_taken(name: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, "name-taken", f"there is a repository {name!r} already")
