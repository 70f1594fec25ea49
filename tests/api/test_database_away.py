"""The database goes away and comes back while clients ask and store: they are told so, and nothing is lost."""

from __future__ import annotations

import hashlib
import http.client
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support import postgresql
from tests.support.backups import incompressible
from tests.support.server import make_stage
from tests.support.serving import Serving, serving
from tests.support.store_client import ALL, PLACE, basic


class Asker(threading.Thread):
    """Asks again and again, on one connection while that lasts, and remembers the answers."""

    def __init__(self, server: Serving, ask: Callable[[http.client.HTTPConnection, int], int]) -> None:
        super().__init__()
        self.statuses: list[int] = []
        self._server = server
        self._ask = ask
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._ended.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
            with closing(connection), suppress(http.client.HTTPException):
                while not self._ended.is_set():
                    number += 1
                    self.statuses.append(self._ask(connection, number))

    def end(self) -> None:
        """Wait for the last answer."""
        self._ended.set()
        self.join()


def status_of(connection: http.client.HTTPConnection) -> int:
    """The status of the answer, which is read and not kept."""
    answer = connection.getresponse()
    answer.read()
    return answer.status


@pytest.mark.slow
def test_restarts_under_load(tmp_path: Path) -> None:
    """While PostgreSQL is restarted, answers are right or 503; afterwards all is as before, and all that was
    acknowledged is there."""
    with postgresql.serve() as database:
        stage = make_stage(tmp_path / "data", database.url(database.new_database()))
        headers = {"Authorization": basic(stage.api_token("alpha.admin", *ALL))}
        bearer = {"Authorization": f"Bearer {stage.tokens['alpha.admin']}"}
        stored: set[str] = set()

        def look(connection: http.client.HTTPConnection, _number: int) -> int:
            connection.request("GET", "/api/auth/me", headers=bearer)
            return status_of(connection)

        def store(connection: http.client.HTTPConnection, number: int) -> int:
            data = incompressible(1000 * threading.get_ident() + number, 50_000)
            name = hashlib.sha256(data).hexdigest()
            connection.request("POST", f"{PLACE}data/{name}", data, headers)
            status = status_of(connection)
            if status == 200:
                stored.add(name)
            return status

        with serving(stage) as server:
            with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
                connection.request("POST", f"{PLACE}?create=true", b"", headers)
                assert status_of(connection) == 200
            askers = [Asker(server, look), Asker(server, look), Asker(server, store), Asker(server, store)]
            for asker in askers:
                asker.start()
            for _ in range(3):
                time.sleep(0.5)
                database.stop()
                time.sleep(0.5)
                database.start()
            time.sleep(1)
            for asker in askers:
                asker.end()
            assert all(set(asker.statuses) == {200, 503} for asker in askers), [set(a.statuses) for a in askers]
            assert [asker.statuses[-1] for asker in askers] == [200] * 4
    found = {path.name for path in (stage.config.stores / stage.tenants["alpha"] / "main" / "data").rglob("*/*")}
    assert stored
    assert stored <= found
