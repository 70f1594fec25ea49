"""Stores: the places of a tenant that the data plane keeps, and how much each holds. Every method blocks.

`bytes` of a store counts what is stored and what is on its way: an upload adds its size before its first byte is taken,
and takes it off again when nothing comes of it. A server that is killed leaves uploads counted that nobody sends any
more, and jobs write into stores where they lie, so everything is counted anew when a server starts, and every hour.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, RowMapping, func, select, update

from api.db.engine import Database
from api.db.schema import damaged_objects, stores, tenants
from api.db.tenancy import Tenancy
from api.fields import Slug, utc, utc_or_none
from api.identity import Caller
from api.paging import Paged, cut_page, page_of
from api.problems import Problem, not_found
from api.services.audit import Origin, record
from api.services.store_files import StoreFolder
from bfrepo.core.clock import Clock

log: Final = logging.getLogger("backupforge.server")

_MOST: Final = 1000
"""Stores of one tenant: each is a row and 262 directories."""

_MOST_SHOWN: Final = 100

_GONE: Final = ".gone-"  # what begins so is no store's name


class StoreView(msgspec.Struct, kw_only=True):
    """A store as answers show it. `path` is where clients find it: rest:https://HOST + path.

    `scrubbed` is when all its objects had last been hashed; `damaged` counts those that do not hash to their names.
    """

    id: str
    name: str
    path: str
    stored_bytes: int
    created: datetime
    scrubbed: datetime | None
    damaged: int


class StoreDetail(StoreView, kw_only=True):
    """A store with the first of its damaged objects. `backupforge repair` tells what depends on them."""

    damaged_objects: list[str]


class StorePage(msgspec.Struct):
    """Some stores, by name."""

    items: list[StoreView]
    next_cursor: str


@dataclass(frozen=True, slots=True)
class Store:
    """A store that a request is about."""

    id: str
    tenant_id: str
    name: str
    append_only: bool
    folder: StoreFolder


class Stores:
    """All stores. Thread-safe."""

    def __init__(self, database: Database, clock: Clock, root: Path) -> None:
        """`root` has a folder for each tenant, named by its ID, and in that one for each store, by its name."""
        self._database = database
        self._clock = clock
        self._root = root

    def find(self, caller: Caller, tenant: str, name: str) -> Store:
        """The store that a path names, by the tenant's name or ID. Raises Problem (404): also for another tenant's."""
        query = (
            Tenancy(caller.tenant_id)
            .select(stores, stores, tenants.c.append_only)
            .join(tenants, tenants.c.id == stores.c.tenant_id)
            .where(stores.c.name == name, (tenants.c.name == tenant) | (tenants.c.id == tenant))
        )
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise not_found("repository")
        return self._store(row, append_only=row["append_only"])

    def create(self, origin: Origin, caller: Caller, tenant: str, name: str) -> None:
        """Make a store, if there is none of that name. Raises Problem: 404 for another tenant, 400 for a bad name."""
        _check_name(name)
        mine, key = Tenancy(caller.tenant_id), secrets.token_hex(16)
        with self._database.write() as connection:
            found = _lock_tenant(connection, caller.tenant_id)
            if tenant not in (found["name"], found["id"]):
                raise not_found("repository")
            if connection.execute(mine.select(stores, stores.c.id).where(stores.c.name == name)).first() is not None:
                return
            if connection.execute(mine.select(stores, func.count())).scalar_one() >= _MOST:
                raise Problem(HTTPStatus.FORBIDDEN, "too-many-stores", f"the tenant has {_MOST} repositories here")
            self._folder(caller.tenant_id, name).create()
            now = self._clock.now().timestamp()
            connection.execute(mine.insert(stores, id=key, name=name, bytes=0, created=now))
            record(connection, origin, "store.create", name)

    def remove(self, origin: Origin, caller: Caller, store_id: str) -> None:
        """Remove a store and all that is in it. Raises Problem: 404, 409 for a tenant that is append-only."""
        mine, gone = Tenancy(caller.tenant_id), self._root / caller.tenant_id / f"{_GONE}{secrets.token_hex(16)}"
        with self._database.write() as connection:
            if _lock_tenant(connection, caller.tenant_id)["append_only"]:
                raise Problem(HTTPStatus.CONFLICT, "append-only", "what this tenant has stored cannot be deleted")
            row = _row(connection, caller, store_id)
            connection.execute(mine.delete(damaged_objects).where(damaged_objects.c.store_id == store_id))
            connection.execute(mine.delete(stores).where(stores.c.id == store_id))
            record(connection, origin, "store.delete", row["name"])
            with suppress(FileNotFoundError):
                self._folder(caller.tenant_id, row["name"]).root.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def reserve(self, store: Store, size: int) -> None:
        """Count what is about to be sent. Raises Problem (507) when the tenant may not store as much."""
        mine = Tenancy(store.tenant_id)
        with self._database.write() as connection:
            quota = _lock_tenant(connection, store.tenant_id)["quota_bytes"]
            if quota is not None:
                used = connection.execute(mine.select(stores, func.sum(stores.c.bytes))).scalar_one() or 0
                if used + size > quota:
                    raise Problem(
                        HTTPStatus.INSUFFICIENT_STORAGE, "quota", f"the tenant may store {quota} bytes, and has {used}"
                    )
            if connection.execute(_add(store, size)).rowcount != 1:
                raise not_found("repository")

    def release(self, store: Store, size: int) -> None:
        """Count no longer what has gone, or never came."""
        if size:
            with self._database.write() as connection:
                connection.execute(_add(store, -size))

    def of_job(self, tenant_id: str, name: str) -> Store | None:
        """The store that a tenant's job works on, None for one that is gone."""
        query = Tenancy(tenant_id).select(stores).where(stores.c.name == name)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else self._store(row, append_only=True)

    def page(self, caller: Caller, page: Paged) -> StorePage:
        """The caller's stores."""
        query = Tenancy(caller.tenant_id).select(stores, stores, tenants.c.name.label("tenant"), _damaged())
        query = query.join(tenants, tenants.c.id == stores.c.tenant_id)
        with self._database.read() as connection:
            rows = connection.execute(page_of(query, (stores.c.name,), page)).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["name"],))
        return StorePage([StoreView(**_view(row)) for row in shown], cursor)

    def get(self, caller: Caller, store_id: str) -> StoreDetail:
        """One store. Raises Problem for one that is not the caller's."""
        mine = Tenancy(caller.tenant_id)
        query = mine.select(stores, stores, tenants.c.name.label("tenant"), _damaged())
        query = query.join(tenants, tenants.c.id == stores.c.tenant_id).where(stores.c.id == store_id)
        damaged = mine.select(damaged_objects, damaged_objects.c.path).order_by(damaged_objects.c.path)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise not_found("store")
            paths = connection.execute(damaged.where(damaged_objects.c.store_id == store_id).limit(_MOST_SHOWN))
            return StoreDetail(**_view(row), damaged_objects=list(paths.scalars()))

    def all(self) -> Iterator[Store]:
        """Every store of every tenant, for what the server does by itself."""
        with self._database.read() as connection:
            rows = connection.execute(select(stores).order_by(stores.c.id)).mappings().all()
        yield from (self._store(row, append_only=True) for row in rows)

    def set_right(self) -> None:
        """Go on with removals of a server that was killed, and count anew what it has left."""
        for folder in self._root.glob(f"*/{_GONE}*"):
            shutil.rmtree(folder, ignore_errors=True)
        for store in self.all():
            self.recount(store)

    def recount(self, store: Store) -> None:
        """Set right how many bytes a store has, unless something is counted meanwhile: then it is left alone."""
        this = stores.c.id == store.id
        with self._database.read() as connection:
            before = connection.execute(Tenancy(store.tenant_id).select(stores, stores.c.bytes).where(this)).scalar()
        try:
            used = store.folder.used()
        except OSError as error:
            log.warning("cannot count what is in the store %s: %s", store.folder.root, error)
            return
        if before is None or used is None or before == used:
            return
        change = Tenancy(store.tenant_id).update(stores).where(this, stores.c.bytes == before).values(bytes=used)
        with self._database.write() as connection:
            changed = connection.execute(change).rowcount
        if changed:
            log.info("the store %s has %s bytes, and %s were counted", store.folder.root, used, before)

    def _store(self, row: RowMapping, *, append_only: bool) -> Store:
        return Store(row["id"], row["tenant_id"], row["name"], append_only, self._folder(row["tenant_id"], row["name"]))

    def _folder(self, tenant_id: str, name: str) -> StoreFolder:
        return StoreFolder(self._root / tenant_id / name)


def _check_name(name: str) -> None:
    try:
        msgspec.convert(name, Slug)
    except msgspec.ValidationError as error:
        detail = "a repository's name has up to 63 small letters, digits and hyphens"
        raise Problem(HTTPStatus.BAD_REQUEST, "invalid-name", detail) from error


def _lock_tenant(connection: Connection, tenant_id: str) -> RowMapping:
    """The tenant, whom nobody changes and whose bytes nobody counts until the transaction ends."""
    return connection.execute(select(tenants).where(tenants.c.id == tenant_id).with_for_update()).mappings().one()


def _row(connection: Connection, caller: Caller, store_id: str) -> RowMapping:
    query = Tenancy(caller.tenant_id).select(stores).where(stores.c.id == store_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise not_found("store")
    return row


def _add(store: Store, size: int) -> Any:
    added = stores.c.bytes + size
    return update(stores).where(stores.c.id == store.id, stores.c.tenant_id == store.tenant_id).values(bytes=added)


def _damaged() -> Any:
    query = select(func.count()).where(damaged_objects.c.store_id == stores.c.id)
    return query.correlate(stores).scalar_subquery().label("damaged")


def _view(row: RowMapping) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "path": f"/repo/{row['tenant']}/{row['name']}/",
        "stored_bytes": row["bytes"],
        "created": utc(row["created"]),
        "scrubbed": utc_or_none(row["scrubbed"]),
        "damaged": row["damaged"],
    }
