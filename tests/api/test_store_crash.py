"""kill -9 of the server in the middle of uploads: what is in the store is whole, and the count is right again."""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import select

from api.db.schema import stores
from tests.support.backups import incompressible
from tests.support.campaign import campaign_s
from tests.support.server import Stage
from tests.support.serving import Serving, serving
from tests.support.store_client import ALL, basic

SIZE = 3_000_000
WRITERS = 6


class Writer(threading.Thread):
    """Sends objects until the server is gone; remembers which were acknowledged, and which deletions."""

    def __init__(self, server: Serving, token: str, number: int) -> None:
        super().__init__()
        self.stored: set[str] = set()
        self._server = server
        self._headers = {"Authorization": basic(token)}
        self._random = random.Random(number)

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        with closing(connection), suppress(OSError, http.client.HTTPException):
            while True:
                data = incompressible(self._random.getrandbits(60), self._random.randrange(1, SIZE))
                name = hashlib.sha256(data).hexdigest()
                if self._ask(connection, "POST", name, data) == 200:
                    self.stored.add(name)
                if self._random.random() < 0.3 and self.stored:
                    gone = self._random.choice(sorted(self.stored))
                    self.stored.discard(gone)  # whether or not the answer comes, nobody may count on it any more
                    self._ask(connection, "DELETE", gone)

    def _ask(self, connection: http.client.HTTPConnection, method: str, name: str, data: bytes | None = None) -> int:
        connection.request(method, f"/repo/alpha/main/data/{name}", data, self._headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status


def make(server: Serving, token: str) -> None:
    """Make the store."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/repo/alpha/main/?create=true", b"", {"Authorization": basic(token)})
    assert connection.getresponse().status == 200
    connection.close()


def _rounds() -> Iterator[int]:
    began, number = time.monotonic(), 0
    while number < 3 or time.monotonic() - began < campaign_s(0):
        yield number
        number += 1


@pytest.mark.slow
def test_killed_server(any_stage: Stage) -> None:
    """After kill -9 all that was acknowledged is there, all that is there is whole, and as much is counted."""
    stage = any_stage
    token = stage.api_token("alpha.admin", *ALL)
    with serving(stage) as server:
        make(server, token)
    folder, chance = stage.config.stores / stage.tenants["alpha"] / "main", random.Random(7)
    expected: set[str] = set()
    for number in _rounds():
        with serving(stage) as server:
            writers = [Writer(server, token, 100 * number + each) for each in range(WRITERS)]
            for writer in writers:
                writer.start()
            time.sleep(chance.uniform(0.3, 1.2))
            server.kill()
            for writer in writers:
                writer.join()
        expected |= set[str]().union(*(writer.stored for writer in writers))
        found = {path.name: path for path in (folder / "data").rglob("*") if path.is_file()}
        assert expected <= set(found)
        assert all(hashlib.sha256(path.read_bytes()).hexdigest() == name for name, path in found.items())
    assert expected
    with serving(stage):
        assert _settled(stage, folder) == sum(path.stat().st_size for path in (folder / "data").rglob("*/*"))
    assert not list((folder / "tmp").iterdir())


def _settled(stage: Stage, folder: Path) -> int:
    """What is counted when the server has counted anew; at once, as it happens when a server starts."""
    deadline, wanted = time.monotonic() + 30, sum(path.stat().st_size for path in (folder / "data").rglob("*/*"))
    while True:
        with stage.database() as database, database.read() as connection:
            counted = int(connection.execute(select(stores.c.bytes)).scalar_one())
        if counted == wanted or time.monotonic() > deadline:
            return counted
        time.sleep(0.05)
