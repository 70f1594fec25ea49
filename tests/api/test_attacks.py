"""What attackers send: refused, with little memory, and without harm to others."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import func, select

from api.db.schema import audit, users
from tests.support.campaign import is_campaign
from tests.support.server import PASSWORD, make_stage
from tests.support.serving import Serving, serving
from tests.support.store_client import ALL, basic, sha256

MIB = 1 << 20
PLACE = "/repo/alpha/main/"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server for all tests here, with a store that holds something."""
    stage = make_stage(tmp_path_factory.mktemp("attacked") / "data")
    stage.api_token("alpha.admin", *ALL)
    with serving(stage) as server:
        assert ask(server, "POST", f"{PLACE}?create=true")[0] == 200
        assert ask(server, "POST", f"{PLACE}config", b"the config")[0] == 200
        yield server


def token_of(server: Serving) -> str:
    """The owner's token."""
    return next(token for name, token in server.stage.tokens.items() if "#" in name)


def ask(
    server: Serving, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """The status and body of an answer to the owner of the store, or whoever the headers name."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        sent = {"Authorization": basic(token_of(server)), **(headers or {})}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def talk(server: Serving, data: bytes, *, until_s: float = 10) -> bytes:
    """The head of the server's answer to these bytes; nothing where it just closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=until_s) as connection:
        connection.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer and (block := connection.recv(65536)):
            answer += block
        return answer


def is_well(server: Serving) -> bool:
    """Whether others are served, and quickly."""
    began = time.monotonic()
    return ask(server, "GET", "/healthz")[0] == 200 and time.monotonic() - began < 5


TRAVERSALS = [
    "/repo/alpha/main/../../server.key",
    "/repo/alpha/main/%2e%2e/%2e%2e/server.key",
    "/repo/alpha/main/..%2f..%2fserver.key",
    "/repo/alpha/main/data/..%2f..%2fconfig",
    "/repo/alpha/main/data/../config/../../../../server.key",
    "/repo/alpha/..%2f..%2f/config",
    "/repo/alpha/%2e%2e/config",
    "/repo/..%2f..%2f/main/config",
    "/repo/alpha/main%00/config",
    "/repo/alpha/main/config%00.key",
    "/repo/alpha/main/tmp/",
    "/repo//alpha/main/config",
    "/repo/alpha/main//config",
    "/repo/alpha/.gone-1/config",
    "/repo/alpha/main/data/%ff%fe",
    "/repo/\\..\\..\\server.key",
    "http://other/repo/alpha/main/../../../server.key",
]


@pytest.mark.parametrize("path", TRAVERSALS)
def test_traversal(server: Serving, path: str) -> None:
    """No path leads out of a store, or to what in it is no object."""
    for method in ("GET", "HEAD", "POST", "DELETE"):
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(token_of(server))}\r\n"
        answer = talk(server, head.encode("latin-1") + b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        assert answer[9:10] == b"4", answer
    assert not list(server.stage.config.data.glob("*config*"))
    assert ask(server, "GET", f"{PLACE}config") == (200, b"the config")


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "Ä", "\uff41", "a b", "A", "-a", "a" * 64, "'; DROP TABLE stores;--", "\u202e"]
)
def test_names_of_stores(server: Serving, name: str) -> None:
    """A store has a plain name, so that no file system and no reader takes it for another."""
    from urllib.parse import quote

    status, _body = ask(server, "POST", f"/repo/alpha/{quote(name, safe='')}/?create=true")
    assert status in (400, 404)
    assert [path.name for path in (server.stage.config.stores / server.stage.tenants["alpha"]).iterdir()] == ["main"]


SQL = [
    "' OR '1'='1",
    "'; DROP TABLE users;--",
    '" OR ""="',
    "%",
    "_",
    "\\",
    "' UNION SELECT password_hash FROM users--",
]


@pytest.mark.parametrize("text", SQL)
def test_sql_in_strings(server: Serving, text: str) -> None:
    """Strings are values wherever they are sent: nobody gets in by them, sees more, or changes anything."""
    bearer = {"Authorization": f"Bearer {server.stage.tokens['main.root']}", "Content-Type": "application/json"}
    with server.stage.database() as database, database.read() as connection:
        before = connection.execute(select(func.count()).select_from(users)).scalar()
    from urllib.parse import quote

    login = json.dumps({"email": f"x{text}@example.org".replace(" ", ""), "password": text}).encode()
    assert ask(server, "POST", "/api/auth/login", login, {"Content-Type": "application/json"})[0] in (400, 401, 429)
    assert ask(server, "GET", f"/api/tenants/{quote(text, safe='')}", headers=bearer)[0] == 404
    assert ask(server, "GET", f"/api/tenants?cursor={quote(text)}", headers=bearer)[0] == 400
    assert ask(server, "GET", f"/repo/{quote(text, safe='')}/{quote(text, safe='')}/config")[0] == 404
    for header in (f"Bearer {text}", f"Bearer bft_{text}", basic(f"bft_{text}")):
        assert ask(server, "GET", "/api/auth/me", headers={"Authorization": header})[0] == 401
    body = json.dumps({"name": f"x{text}", "scopes": ["jobs:read"]}).encode()
    status, answer = ask(server, "POST", "/api/auth/tokens", body, bearer)
    assert (status, json.loads(answer)["name"]) == (201, f"x{text}")
    with server.stage.database() as database, database.read() as connection:
        assert connection.execute(select(func.count()).select_from(users)).scalar() == before


def test_header_injection(server: Serving) -> None:
    """What a client sends cannot end a header of the answer and begin another, nor a line of the audit log."""
    for value in ("abc%0d%0aSet-Cookie:%20x=1", "abc\r\n evil", "a" * 33, "ünïcode"):
        head = f"GET /api/nothing HTTP/1.1\r\nHost: x\r\nX-Request-ID: {value}\r\nConnection: close\r\n\r\n"
        answer = talk(server, head.encode())
        assert b"Set-Cookie" not in answer
        assert b"evil" not in answer.partition(b"\r\n\r\n")[0]
    answer = talk(
        server, b"GET /repo/alpha/x%0d%0aSet-Cookie:%20y/config HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert b"Set-Cookie" not in answer
    assert answer.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX" + b"a" * 100_000 + b": 1\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_malformed_requests(server: Serving, request_bytes: bytes) -> None:
    """What two readers could understand in two ways, or no one at all, is refused, and the connection ends."""
    try:
        answer = talk(server, request_bytes)
    except ConnectionResetError:
        answer = b""
    assert not answer or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer[:200]
    assert is_well(server)


def test_bombs(server: Serving) -> None:
    """A body that would grow is refused as it is, on every side of the server."""
    bomb = gzip.compress(b"\0" * (256 * MIB))
    before = server.memory
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
        headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
        assert ask(server, "POST", "/api/auth/login", bomb, headers)[0] == 415
        assert ask(server, "POST", f"{PLACE}data/{sha256(bomb)}", bomb, headers)[0] == 415
    nested = b"[" * 500_000
    assert ask(server, "POST", "/api/auth/login", nested, {"Content-Type": "application/json"})[0] == 400
    assert server.memory - before < 20 * MIB


def test_oversized_bodies(server: Serving) -> None:
    """More than is read of a body is refused by its length, before a byte of it is taken."""
    before = server.memory
    for path, length in (
        ("/api/auth/login", 2 * MIB),
        (f"{PLACE}data/{'0' * 64}", 2 << 30),
        (f"{PLACE}config", 1 << 62),
    ):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(token_of(server))}\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        assert talk(server, head.encode()).startswith(b"HTTP/1.1 413 ")
    assert server.memory - before < 10 * MIB


def test_expectations(server: Serving) -> None:
    """Who asks before sending a body gets the refusal instead of a 100; who may go on gets both answers."""

    def head(name: str, length: int) -> bytes:
        lines = f"POST {PLACE}{name} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(token_of(server))}\r\n"
        return (lines + f"Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n").encode()

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head("config", 100))
        assert connection.recv(65536).startswith(b"HTTP/1.1 403 ")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head(f"keys/{sha256(b'asked')}", 5))
        assert connection.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"asked")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_slow_connections(server: Serving) -> None:
    """Hundreds that send a header, or a body, a byte at a time keep nobody else waiting."""
    open_ones = []
    upload = f"POST {PLACE}data/{'1' * 64} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(token_of(server))}\r\n"
    try:
        for number in range(300):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            connection.sendall(
                b"GET / HTTP/1.1\r\nX: " if number % 2 else f"{upload}Content-Length: 9\r\n\r\nx".encode()
            )
            open_ones.append(connection)
        assert all(is_well(server) for _ in range(5))
        assert ask(server, "GET", f"{PLACE}config") == (200, b"the config")
    finally:
        for connection in open_ones:
            connection.close()


def test_slow_readers(server: Serving) -> None:
    """Who asks for objects and does not read them keeps nobody else waiting, and takes no memory."""
    data = bytes(range(256)) * (16 * MIB // 256)
    assert ask(server, "POST", f"{PLACE}data/{sha256(data)}", data)[0] == 200
    head = f"GET {PLACE}data/{sha256(data)} HTTP/1.1\r\nHost: x\r\nAuthorization: {basic(token_of(server))}\r\n\r\n"
    before, open_ones = server.memory, []
    try:
        for _ in range(50):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            connection.sendall(head.encode())
            open_ones.append(connection)
        time.sleep(0.5)
        assert ask(server, "GET", f"{PLACE}data/{sha256(data)}")[1] == data
        assert server.memory - before < 20 * MIB
    finally:
        for connection in open_ones:
            connection.close()


@pytest.mark.slow
def test_memory_of_uploads(server: Serving) -> None:
    """64 uploads at once take as little memory as their number allows, not what they weigh."""
    before, most = server.memory, 0
    done = threading.Event()

    def upload(number: int) -> int:
        data = number.to_bytes(2, "big") * (8 * MIB)
        return ask(server, "POST", f"{PLACE}data/{sha256(data)}", data)[0]

    def watch() -> int:
        highest = 0
        while not done.wait(0.02):
            highest = max(highest, server.memory)
        return highest

    with ThreadPoolExecutor(65) as pool:
        watching = pool.submit(watch)
        statuses = list(pool.map(upload, range(64)))
        done.set()
        most = watching.result()
    assert set(statuses) == {200}
    assert most - before < 128 * MIB  # of 1024 that were sent


@pytest.mark.slow
def test_many_logins(server: Serving) -> None:
    """Logins by the thousand, right ones and wrong ones, leave the memory as it was; others are served meanwhile."""
    count = 10_000 if is_campaign() else 600

    def login(number: int) -> int:
        email = "alpha.viewer@example.org" if number % 3 == 0 else f"nobody-{number}@example.org"
        body = json.dumps({"email": email, "password": PASSWORD if number % 2 else "wrong"}).encode()
        return ask(server, "POST", "/api/auth/login", body, {"Content-Type": "application/json"})[0]

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(login, range(100)))
        before = server.memory
        pending = pool.map(login, range(100, count))
        assert is_well(server)
        statuses = set(pending)
    assert statuses <= {200, 401, 429, 503}
    assert server.memory - before < 24 * MIB
    with server.stage.database() as database, database.read() as connection:
        details = connection.execute(select(audit.c.detail)).scalars().all()
        assert not [detail for detail in details if PASSWORD in detail]


def test_nothing_secret_in_the_log(server: Serving) -> None:
    """Whatever was tried, the log names no token and no password, and no fault of the server."""
    said = Path(server.log).read_text()
    assert token_of(server) not in said
    assert PASSWORD not in said
    assert "Traceback" not in said, said
