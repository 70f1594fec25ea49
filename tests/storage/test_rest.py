"""The contract on REST servers: on `rclone serve restic`, and on a stand-in for rest-server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from bfrepo.core.errors import StorageDenied, StorageObjectExists
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.options import RestOptions
from bfrepo.storage.rest import RestBackend
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from tests.storage.conformance import (
    CONFIG,
    MIB,
    PACK,
    BackendConformance,
    Place,
    name_of,
    names,
    run_at_once,
    stored,
    uploaded,
)
from tests.support.rclone import Served, serve
from tests.support.rest_places import AS_SERVER, PLACE, USER, WORD, backend_on, location
from tests.support.rest_server import RestServer, Trick, rest_server

MANY = 10_500


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server for many repositories."""
    with serve("restic", tmp_path_factory.mktemp("rclone"), environment=AS_SERVER) as server:
        yield server


@pytest.fixture(scope="module")
def append_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server on which only claims can be deleted."""
    with serve("restic", tmp_path_factory.mktemp("rclone"), "--append-only", environment=AS_SERVER) as server:
        yield server


def opener(server: Served, folder: Path, word: str = WORD) -> Callable[[], RestBackend]:
    """Opens a repository of its own for each test."""
    return lambda: RestBackend(location(server.port, f"/{folder.name}/", word=word), RestOptions())


def retrying(backend: Backend) -> RetryingBackend:
    """Tries again: where several write the same object at once, and in place, rclone may find that it went wrong."""
    return RetryingBackend(backend, RetryPolicy(random=lambda: 0.1))


class TestRclone(BackendConformance):
    """The contract on `rclone serve restic`, which replaces objects in place."""

    @pytest.fixture
    def place(self, rclone: Served, tmp_path: Path) -> Place:
        return Place(open=opener(rclone, tmp_path))

    @pytest.fixture
    def denied(self, rclone: Served, tmp_path: Path) -> Iterator[Backend]:
        """A backend with a password that is wrong."""
        with closing(opener(rclone, tmp_path)()) as backend:
            backend.create()
            stored(backend, PACK, b"kept")
        with closing(opener(rclone, tmp_path, "another")()) as backend:
            yield backend

    def test_one_of_many_configs_wins(self, backend: Backend, place: Place) -> None:
        """Of several that save a config one after the other the first succeeds; of several at once, at least one."""
        handles = [retrying(place.open()) for _ in range(8)]

        def save(number: int) -> bytes:
            data = bytes([number]) * 1000
            handles[number].save(CONFIG, "config", data)
            return data

        results = run_at_once([partial(save, number) for number in range(8)])
        winners = [result for result in results if isinstance(result, bytes)]
        assert {type(result) for result in results} <= {bytes, StorageObjectExists}
        assert backend.load(CONFIG, "config") in winners
        for handle in handles:
            with pytest.raises(StorageObjectExists):
                handle.save(CONFIG, "config", b"late")
            handle.close()

    def test_the_same_object_from_many_writers(self, backend: Backend, place: Place) -> None:
        """Any number may store the same object at once; all succeed, if need be on a second try."""
        data = b"wanted by all" * 10_000
        handles = [retrying(backend), retrying(place.open())]
        tasks: list[Callable[[], object]] = [
            partial(store, handle, PACK, data) for handle in handles for store in (stored, uploaded) * 2
        ]
        assert run_at_once(tasks) == [name_of(data)] * 8
        handles[1].close()
        assert list(backend.list(PACK)) == [ObjectInfo(name_of(data), len(data))]
        assert backend.load(PACK, name_of(data)) == data


class TestRestServer(BackendConformance):
    """The contract on a rest-server that was started with --no-verify-upload."""

    version = 2

    @pytest.fixture
    def server(self) -> Iterator[RestServer]:
        with rest_server(verify=False, credentials=f"{USER}:{WORD}", version=self.version) as server:
            yield server

    @pytest.fixture
    def place(self, server: RestServer) -> Place:
        return Place(open=lambda: backend_on(server))

    @pytest.fixture
    def denied(self, backend: Backend, server: RestServer) -> Backend:
        """A backend with a password that is wrong."""
        stored(backend, PACK, b"kept")
        server.credentials = "somebody:else"
        return backend

    @pytest.fixture
    def full(self, backend: Backend, server: RestServer) -> Backend:
        server.quota = MIB
        return backend


class TestOldRestServer(TestRestServer):
    """The contract on a rest-server that knows version 1 of the protocol alone."""

    version = 1


def test_append_only(append_only: Served, tmp_path: Path) -> None:
    """On an append-only server all can be stored, again too, and claims can be deleted; nothing else can."""
    with closing(opener(append_only, tmp_path)()) as backend:
        backend.create()
        for kind in ObjectKind:
            name = "config" if kind is CONFIG else name_of(b"stays")
            backend.save(kind, name, b"stays")
            if kind is ObjectKind.CLAIM:
                backend.delete(kind, name)
                assert names(backend, kind) == set()
                continue
            if kind is not CONFIG:
                assert stored(backend, kind, b"stays") == uploaded(backend, kind, b"stays") == name
            with pytest.raises(StorageDenied) as caught:
                backend.delete(kind, name)
            assert "append-only" in str(caught.value.hint)
            assert backend.load(kind, name) == b"stays"


def test_long_listing(rclone: Served, tmp_path: Path) -> None:
    """A listing of more than ten thousand objects is complete."""
    with closing(opener(rclone, tmp_path)()) as backend:
        backend.create()
        planted = {name_of(number.to_bytes(4, "big")) for number in range(MANY)}
        for name in planted:
            folder = rclone.root / tmp_path.name / "data" / name[:2]
            folder.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
        assert {(info.name, info.size) for info in backend.list(PACK)} == {(name, 1) for name in planted}


@pytest.mark.parametrize("version", [1, 2])
def test_strangers_are_not_listed(version: int) -> None:
    """What is no name of ours is skipped, but no repository is made where anything is."""
    with rest_server(verify=False, version=version) as server, closing(backend_on(server)) as backend:
        backend.create()
        name = stored(backend, PACK, b"ours")
        for stranger in ("README", name.upper(), name[:-1]):
            server.objects[f"{PLACE}data/{stranger}"] = b"stranger"
        assert list(backend.list(PACK)) == [ObjectInfo(name, 4)]


def test_objects_vanish_during_a_listing_without_sizes() -> None:
    """Version 1 of the protocol: what somebody deletes between listing and question is not there."""
    with rest_server(verify=False, version=1) as server, closing(backend_on(server)) as backend:
        backend.create()
        kept, gone = stored(backend, PACK, b"kept"), stored(backend, PACK, b"gone")
        listing = backend.list(PACK)
        server.tricks.append(Trick("HEAD", gone, 404))
        assert list(listing) == [ObjectInfo(kept, 4)]


def test_buffers_of_uploads_are_lent_again() -> None:
    """What an earlier, longer upload has left in the memory is no part of a later one."""
    with rest_server(verify=False) as server, closing(backend_on(server)) as backend:
        backend.create()
        contents: list[Buffer] = [b"long " * 1000, b"short", b"", b"medium " * 100]
        for data in contents:
            name = uploaded(backend, PACK, bytes(data))
            assert backend.load(PACK, name) == data
