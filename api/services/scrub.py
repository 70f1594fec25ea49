"""Are objects still what was stored? They are hashed and compared with their names, which takes no key.

It goes slowly and in order, and notes every minute how far it has come, so that a server that is started again goes on
from there. What is found is reported and left alone: only who has the key knows what it means, and can repair it.
Several servers may do it: one that finds that another has noted something leaves the store to that one. Blocks.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from api.db.engine import Database
from api.db.schema import damaged_objects, stores
from api.db.tenancy import Tenancy
from api.services.audit import Origin, record
from api.services.store_files import KINDS, ObjectPath
from api.services.stores import Store, Stores
from bfrepo.core.clock import Clock

log: Final = logging.getLogger("backupforge.server")

EVERY_S: Final = 7 * 24 * 3600.0
RATE: Final = 32 << 20
"""Bytes a second: 19 TB a week, and slow enough for a disk to have time for others."""

_BLOCK: Final = 1 << 20
_NOTE_S: Final = 60.0


class Ended(Exception):
    """The server is to end, or another one does the same."""


class Scrub:
    """Examines stores, one after the other. Belongs to one thread; `stop` may be called from any."""

    def __init__(self, database: Database, clock: Clock, all_stores: Stores, *, rate: float = RATE) -> None:
        """`rate` is in bytes a second."""
        self._database = database
        self._clock = clock
        self._stores = all_stores
        self._rate = rate
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End at once; the next server goes on."""
        self._stopped.set()

    def run(self, every_s: float = EVERY_S) -> None:
        """Examine each store whose last examination is longer ago than `every_s`, or was interrupted.

        Before that all stores are counted anew: after kill -9, and because jobs of the server's own count nothing.
        """
        self._stores.set_right()
        for store in self._stores.all():
            if self._is_due(store, every_s):
                try:
                    self._examine(store)
                except Ended:
                    log.info("the scrub of %s was left to another time, or another server", store.folder.root)
                except (OSError, SQLAlchemyError) as error:
                    log.warning("the scrub of %s failed, and is tried again: %s", store.folder.root, error)
            if self._stopped.is_set():
                return

    def _is_due(self, store: Store, every_s: float) -> bool:
        row = self._row(store)
        if row is None:
            return False
        last = row["scrubbed"] or row["created"]
        return row["scrub_started"] is not None or self._clock.now().timestamp() - last > every_s

    def _row(self, store: Store) -> Any:
        query = Tenancy(store.tenant_id).select(stores).where(stores.c.id == store.id)
        with self._database.read() as connection:
            return connection.execute(query).mappings().one_or_none()

    def _examine(self, store: Store) -> None:
        row = self._row(store)
        now = self._clock.now().timestamp()
        noted, came_to = row["scrub_started"] or now, row["scrub_cursor"]
        if row["scrub_started"] is None:
            self._note(store, None, None, scrub_started=noted, scrub_cursor="")
            came_to = ""
        began, noted_at = noted, now
        for path in _objects_after(store, came_to):
            if not self._is_whole(store, path):
                self._report(store, path)
            now = self._clock.now().timestamp()
            if now - noted_at > _NOTE_S:
                self._note(store, began, came_to, scrub_started=began, scrub_cursor=str(path))
                came_to, noted_at = str(path), now
        done = {"scrubbed": self._clock.now().timestamp(), "scrub_started": None, "scrub_cursor": None}
        self._note(store, began, came_to, **done)
        self._forget_healed(store, began)
        self._stores.recount(store)

    def _note(self, store: Store, began: float | None, came_to: str | None, **values: Any) -> None:
        """Note how far it is. Raises Ended when somebody else has noted something since we did."""
        change = (
            Tenancy(store.tenant_id)
            .update(stores)
            .where(
                stores.c.id == store.id,
                stores.c.scrub_started.is_(None) if began is None else stores.c.scrub_started == began,
                stores.c.scrub_cursor.is_(None) if came_to is None else stores.c.scrub_cursor == came_to,
            )
        )
        with self._database.write() as connection:
            if connection.execute(change.values(**values)).rowcount != 1:
                raise Ended

    def _is_whole(self, store: Store, path: ObjectPath) -> bool:
        """Whether an object is what its name says; also one that is deleted meanwhile. Raises OSError, Ended."""
        opened = store.folder.open(path)
        if opened is None:
            return True
        with open(opened[0], "rb", buffering=0) as file:
            return store.folder.hashes_to_name(path, self._blocks(file.fileno()))

    def _blocks(self, descriptor: int) -> Iterator[bytes]:
        """What is in a file, at the rate. What was read is not kept in the memory that others need."""
        offset = 0
        while block := os.pread(descriptor, _BLOCK, offset):
            yield block
            os.posix_fadvise(descriptor, offset, len(block), os.POSIX_FADV_DONTNEED)
            offset += len(block)
            if self._stopped.wait(len(block) / self._rate):
                raise Ended

    def _report(self, store: Store, path: ObjectPath) -> None:
        """Say that an object is damaged: to the log, the tenant, and, the first time, the audit log."""
        now, mine = self._clock.now().timestamp(), Tenancy(store.tenant_id)
        this = (damaged_objects.c.store_id == store.id, damaged_objects.c.path == str(path))
        with self._database.write() as connection:
            if connection.execute(mine.update(damaged_objects).where(*this).values(seen=now)).rowcount:
                return
            row = {"store_id": store.id, "path": str(path), "found": now, "seen": now}
            connection.execute(mine.insert(damaged_objects, **row))
            origin = Origin(at=now, address="", request_id="", tenant_id=store.tenant_id)
            record(connection, origin, "store.damaged", store.name, str(path))
        log.error("%s is damaged: it does not hash to its name", store.folder.root / str(path))

    def _forget_healed(self, store: Store, began: float) -> None:
        """What was damaged, and is whole or gone now."""
        healed = Tenancy(store.tenant_id).delete(damaged_objects)
        healed = healed.where(damaged_objects.c.store_id == store.id, damaged_objects.c.seen < began)
        with self._database.write() as connection:
            connection.execute(healed)


def _objects_after(store: Store, came_to: str) -> Iterator[ObjectPath]:
    """The objects that hashes name, in the order of their paths, behind the one that the last note speaks of."""
    for kind in sorted(KINDS):
        for each in store.folder.objects(kind):
            path = ObjectPath(kind, each.name)
            if str(path) > came_to:
                yield path
