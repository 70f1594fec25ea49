"""The scrub: stored objects are hashed against their names, with no key and without haste."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blake3 import blake3
from sqlalchemy import insert, select

from api.db.engine import Database
from api.db.schema import audit, damaged_objects, stores
from api.services.scrub import RATE, Scrub
from api.services.store_backend import StoreBackend
from api.services.store_files import CONFIG, Incoming, ObjectPath, Stored, StoreFolder
from api.services.stores import Store, Stores
from bfrepo.storage.base import ObjectKind
from tests.support.repositories import FakeClock
from tests.support.server import Client, Stage

WEEK = 7 * 24 * 3600.0


@contextmanager
def opened(stage: Stage) -> Iterator[tuple[Stores, Store, Database]]:
    """A store of alpha's with some objects."""
    with stage.database() as database:
        with database.write() as connection:
            row = {"id": "1" * 32, "tenant_id": stage.tenants["alpha"], "name": "main", "bytes": 0}
            connection.execute(insert(stores).values(created=stage.now - 2 * WEEK, **row))
        all_stores = Stores(database, stage.clock, stage.config.stores)
        store = next(iter(all_stores.all()))
        store.folder.create()
        for number, kind in enumerate(("data", "keys", "locks", "snapshots", "index")):
            for hashed in (hashlib.sha256, blake3):
                put(store, kind, hashed(bytes([number]) * 1000).hexdigest(), bytes([number]) * 1000)
        put(store, CONFIG, "", b"anything")
        yield all_stores, store, database


def put(store: Store, kind: str, name: str, data: bytes) -> None:
    """Store an object."""
    incoming = Incoming(store.folder, ObjectPath(kind, name), len(data), "blake3")
    incoming.write([data])
    incoming.commit()


def flip(store: Store, kind: str) -> str:
    """Damage an object; its path within the store."""
    path = next(each for each in sorted((store.folder.root / kind).rglob("*")) if each.is_file())
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    return str(path.relative_to(store.folder.root))


def row_of(database: Database) -> dict[str, object]:
    """What the database says of the store."""
    with database.read() as connection:
        return dict(connection.execute(select(stores)).mappings().one())


@pytest.mark.parametrize("kind", ["data", "keys", "locks", "snapshots", "index"])
def test_damage_is_found(stage: Stage, kind: str) -> None:
    """One flipped bit in an object of any kind is found; the tenant sees which, and nothing is touched."""
    with opened(stage) as (all_stores, store, database):
        damaged = flip(store, kind)
        files = {path: path.read_bytes() for path in store.folder.root.rglob("*") if path.is_file()}
        for _twice in range(2):
            Scrub(database, stage.clock, all_stores).run(every_s=0)
        assert {path: path.read_bytes() for path in store.folder.root.rglob("*") if path.is_file()} == files
        with database.read() as connection:
            query = select(audit.c.action, audit.c.target, audit.c.detail, audit.c.tenant_id)
            assert connection.execute(query).all() == [("store.damaged", "main", damaged, stage.tenants["alpha"])]

    async def talk(client: Client) -> None:
        listed = (await client.ask("GET", "/api/stores", who="alpha.viewer")).value["items"][0]
        assert listed["damaged"] == 1
        assert listed["scrubbed"] is not None
        shown = (await client.ask("GET", f"/api/stores/{listed['id']}", who="alpha.viewer")).value
        assert shown["damaged_objects"] == [damaged]
        assert (await client.ask("GET", "/api/stores", who="beta.admin")).value["items"] == []

    stage.run(talk)


def test_healed_damage_is_forgotten(stage: Stage) -> None:
    """What is whole again, or gone, is no longer reported after the next scrub."""
    with opened(stage) as (all_stores, store, database):
        paths = [store.folder.root / flip(store, kind) for kind in ("keys", "index")]
        Scrub(database, stage.clock, all_stores).run(every_s=0)
        paths[0].unlink()
        data = bytearray(paths[1].read_bytes())
        data[500] ^= 1
        paths[1].write_bytes(data)
        Scrub(database, stage.clock, all_stores).run(every_s=0)
        with database.read() as connection:
            assert connection.execute(select(damaged_objects)).all() == []


def test_schedule(stage: Stage) -> None:
    """A store is examined when a week has passed, and not before."""
    with opened(stage) as (_stores, _store, database):
        clock = FakeClock()
        with database.write() as connection:
            connection.execute(stores.update().values(created=clock.now().timestamp()))
        all_stores = Stores(database, clock, stage.config.stores)
        scrub = Scrub(database, clock, all_stores)
        times = []
        for _ in range(5):
            clock.advance(WEEK / 2 + 1)
            scrub.run()
            times.append(row_of(database)["scrubbed"])
        assert times[0] is None
        assert times[1] == times[2] != times[3] == times[4] == clock.now().timestamp() - WEEK / 2 - 1


def test_interrupted(stage: Stage) -> None:
    """A scrub goes at its rate, ends at once when it is told to, and goes on where it was."""
    with opened(stage) as (all_stores, store, database):
        for number in range(20):
            data = bytes([number]) * 1_000_000
            put(store, "data", blake3(data).hexdigest(), data)
        scrub = Scrub(database, stage.clock, all_stores, rate=1_000_000)
        thread = threading.Thread(target=scrub.run, args=(0,))
        thread.start()
        time.sleep(0.5)
        began = time.monotonic()
        scrub.stop()
        thread.join()
        assert time.monotonic() - began < 1
        row = row_of(database)
        assert (row["scrubbed"], row["scrub_cursor"]) == (None, "")
        assert row["scrub_started"] is not None
        Scrub(database, stage.clock, all_stores, rate=RATE * 100).run()
        row = row_of(database)
        assert row["scrubbed"] is not None
        assert row["scrub_started"] is row["scrub_cursor"] is None


def test_where_it_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was examined before the last note is not read again, and what comes after it is."""
    with opened(stage) as (all_stores, store, database):
        monkeypatch.setattr("api.services.scrub._NOTE_S", -1.0)
        early, late = flip(store, "data"), flip(store, "snapshots")
        with database.write() as connection:
            connection.execute(stores.update().values(scrub_started=stage.now, scrub_cursor="index/" + "f" * 64))
        Scrub(database, stage.clock, all_stores).run()
        with database.read() as connection:
            assert connection.execute(select(damaged_objects.c.path)).scalars().all() == [late]
        assert early < late


def test_two_servers(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds that another server examines a store leaves it to that one."""
    with opened(stage) as (all_stores, _store, database):
        monkeypatch.setattr("api.services.scrub._NOTE_S", -1.0)
        scrub = Scrub(database, stage.clock, all_stores)
        original, seen = scrub._is_whole, []

        def interfere(store: Store, path: ObjectPath) -> bool:
            seen.append(path)
            if len(seen) == 3:
                with database.write() as connection:
                    connection.execute(stores.update().values(scrub_cursor="locks/another"))
            return original(store, path)

        monkeypatch.setattr(scrub, "_is_whole", interfere)
        scrub.run(every_s=0)
        assert len(seen) == 3
        assert row_of(database)["scrub_cursor"] == "locks/another"


def test_gone_folder(stage: Stage, tmp_path: Path) -> None:
    """A store whose disk is not mounted is no store without damage: it is not noted as examined, nor counted as 0."""
    with opened(stage) as (all_stores, store, database):
        all_stores.set_right()
        before = row_of(database)
        store.folder.root.rename(tmp_path / "unmounted")
        Scrub(database, stage.clock, all_stores).run(every_s=0)
        assert row_of(database)["scrubbed"] is None
        assert row_of(database)["bytes"] == before["bytes"] == 10 * 1000 + 8


def test_uploads_of_jobs_are_left_alone(stage: Stage) -> None:
    """What a job is writing to a store counts, and is not swept away by whoever counts."""
    with opened(stage) as (all_stores, store, _database):
        before = store.folder.used() or 0
        backend = StoreBackend(store.folder.root, "main", append_only=False)
        upload = backend.upload(ObjectKind.PACK)
        upload.write(b"a pack")
        all_stores.set_right()
        assert store.folder.used() == before + 6
        upload.commit("ab" * 32)
        assert backend.load(ObjectKind.PACK, "ab" * 32) == b"a pack"
        assert store.folder.used() == before + 6
        backend.close()


def test_uploads_that_end_while_others_count(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that gets its place behind the back of whoever counts does not go uncounted: nothing is set right."""
    with opened(stage) as (all_stores, store, database):
        all_stores.set_right()
        all_stores.reserve(store, 1000)
        data = b"x" * 1000
        path = ObjectPath("index", blake3(data).hexdigest())
        incoming = Incoming(store.folder, path, len(data), "blake3")
        incoming.write([data])
        objects = StoreFolder.objects

        def end_meanwhile(folder: StoreFolder, kind: str) -> Iterator[Stored]:
            found = list(objects(folder, kind))
            if kind == path.kind:
                incoming.commit()
            return iter(found)

        with monkeypatch.context() as patched, database.read() as connection:
            before = connection.execute(select(stores.c.bytes)).scalar_one()
            patched.setattr(StoreFolder, "objects", end_meanwhile)
            all_stores.recount(store)
        with database.read() as connection:
            assert connection.execute(select(stores.c.bytes)).scalar_one() == before == store.folder.used()
