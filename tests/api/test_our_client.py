"""Our own `rest:` backend on the data plane: what backends promise, and what repositories on servers have to stand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from bfrepo.core.errors import StorageDenied
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.options import RestOptions
from bfrepo.storage.rest import RestBackend
from tests.storage.conformance import MIB, PACK, BackendConformance, Place, name_of, stored
from tests.support.remote import Remote, RemoteSuite
from tests.support.rest_places import location
from tests.support.server import Stage, make_stage
from tests.support.serving import Serving, serving
from tests.support.store_client import ALL, settle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for all tests here, each with a store of its own."""
    with serving(make_stage(tmp_path_factory.mktemp("server") / "data")) as server:
        yield server


def backend_on(server: Serving, tenant: str, name: str, *scopes: str) -> RestBackend:
    """A client of a tenant's."""
    token = server.stage.api_token(f"{tenant}.admin", *(scopes or ALL))
    place = replace(location(server.port, f"/repo/{tenant}/{name}/"), user="anybody", password=token)
    return RestBackend(place, RestOptions())


class TestContract(BackendConformance):
    """The contract on the server."""

    @pytest.fixture
    def of_its_own(self, request: pytest.FixtureRequest) -> str:
        """A store that no other test has."""
        return f"store-{abs(hash(request.node.name)):x}"

    @pytest.fixture
    def place(self, server: Serving, of_its_own: str) -> Place:
        return Place(open=lambda: backend_on(server, "beta", of_its_own))

    @pytest.fixture
    def denied(self, server: Serving, backend: Backend, of_its_own: str) -> Iterator[Backend]:
        """A backend whose token allows to look, and no more."""
        stored(backend, PACK, b"kept")
        with closing(backend_on(server, "beta", of_its_own, "store:read")) as reader:
            yield reader

    @pytest.fixture
    def full(self, server: Serving, of_its_own: str) -> Iterator[Backend]:
        """A backend of a tenant with a quota."""
        settle(server.stage, quota_bytes=MIB)
        with closing(backend_on(server, "alpha", of_its_own)) as backend:
            backend.create()
            yield backend
        settle(server.stage, quota_bytes=None)


class TestServer(RemoteSuite):
    """Everyday life, kill -9 of clients, many at once."""

    @pytest.fixture
    def remote(self, stage: Stage) -> Iterator[Remote]:
        """A server for each test."""
        token = stage.api_token("main.root", *ALL)
        with serving(stage) as server:
            yield Remote(f"rest:http://anybody:{token}@127.0.0.1:{server.port}/repo/main", secrets=(token,))


def test_append_only(stage: Stage) -> None:
    """Of an append-only tenant all can be stored, again too, and claims can be deleted; nothing else can."""
    settle(stage, append_only=True)
    with serving(stage) as server, closing(backend_on(server, "alpha", "kept", "store:read", "store:write")) as backend:
        backend.create()
        for kind in ObjectKind:
            name = "config" if kind is ObjectKind.CONFIG else name_of(b"stays")
            backend.save(kind, name, b"stays")
            if kind is ObjectKind.CLAIM:
                backend.delete(kind, name)
                continue
            with pytest.raises(StorageDenied):
                backend.delete(kind, name)
            assert backend.load(kind, name) == b"stays"
