"""REST servers behind networks that fail, connections, users and certificates."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest
import trustme

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    InvalidValue,
    StorageDenied,
    StorageError,
    StorageObjectMissing,
)
from bfrepo.storage.location import RestLocation
from bfrepo.storage.options import RestOptions, parse_options
from bfrepo.storage.rest import RestBackend
from tests.storage.conformance import PACK, name_of, names, stored, uploaded
from tests.support.cutting import Line, line_to
from tests.support.rclone import Served, serve
from tests.support.rest_places import AS_SERVER, USER, WORD, backend_on, calls, created_on, location
from tests.support.rest_server import RestServer, Trick, rest_server

DATA = bytes(range(256)) * 4
NAME = name_of(DATA)


@pytest.fixture
def server() -> Iterator[RestServer]:
    """A server that takes our names."""
    with rest_server(verify=False) as server:
        yield server


@pytest.fixture
def backend(server: RestServer) -> Iterator[RestBackend]:
    """A backend with one pack, of DATA."""
    with created_on(server, stuck_after_s=0.4) as backend:
        stored(backend, PACK, DATA)
        yield backend


@pytest.fixture
def line(server: RestServer) -> Iterator[Line]:
    """A line to the server."""
    with line_to(server.port) as line:
        yield line


@pytest.fixture
def distant(line: Line, backend: RestBackend) -> Iterator[RestBackend]:
    """The same repository at the other end of a line."""
    with closing(RestBackend(location(line.port), RestOptions(), stuck_after_s=5)) as distant:
        yield distant


def test_answers_that_break_off(distant: RestBackend, line: Line) -> None:
    """An answer of which a part arrived is an error, whatever the part; the next try succeeds."""
    data = bytes(range(256)) * 4000
    name = stored(distant, PACK, data)
    buffer = memoryview(bytearray(len(data)))
    attempts: list[Callable[[], object]] = [
        lambda: distant.load(PACK, name),
        lambda: distant.read(PACK, name, 1, len(data) - 1),
        lambda: distant.read_into(PACK, name, 0, buffer),
    ]
    for attempt in attempts:
        for down in (0, 10, 1000, 900_000):
            line.down, line.cuts = down, 1
            with pytest.raises(StorageError, match=name[:8]):
                attempt()
            assert line.cuts == 0
    assert distant.load(PACK, name) == data


def test_uploads_that_break_off(distant: RestBackend, line: Line) -> None:
    """Of an upload that did not arrive nothing is seen; the next try succeeds."""
    data = bytes(range(256)) * 8000
    for up in (0, 100, 1_000_000):
        line.up, line.cuts = up, 1
        with pytest.raises(StorageError, match=name_of(data)[:8]):
            uploaded(distant, PACK, data)
        assert names(distant, PACK) == {NAME}
    assert names(distant, PACK) | {uploaded(distant, PACK, data)} == names(distant, PACK)


def test_answer_to_an_upload_that_is_lost(distant: RestBackend, line: Line) -> None:
    """An upload whose answer alone was lost has succeeded."""
    assert distant.size(PACK, NAME) == len(DATA)
    line.down, line.cuts = 0, 1
    name = uploaded(distant, PACK, b"arrives")
    assert line.cuts == 0
    assert distant.load(PACK, name) == b"arrives"


def test_listing_that_breaks_off(distant: RestBackend, line: Line) -> None:
    """Half a listing is an error."""
    expected = {stored(distant, PACK, bytes([number])) for number in range(50)} | {NAME}
    line.down, line.cuts = 3000, 1
    with pytest.raises(StorageError, match="listing of packs"):
        names(distant, PACK)
    assert names(distant, PACK) == expected


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_silent_server(backend: RestBackend, server: RestServer, method: str) -> None:
    """A server that says nothing is given up after a while, and can be asked again."""
    server.tricks.append(Trick(method, "data", 500, silent_s=2))
    server.tricks.append(Trick("GET", "data", 500))  # what is asked after an upload that got no answer
    with pytest.raises(StorageError, match=r"silent for 0\.4 s"):
        calls(backend, NAME)[method]()
    server.tricks.clear()
    calls(backend, NAME)[method]()


def test_nobody_listens(server: RestServer) -> None:
    """A refused connection is an error that names the place."""
    with line_to(server.port) as line:
        port = line.port
    with closing(RestBackend(location(port), RestOptions())) as backend:
        with pytest.raises(StorageError, match="connection refused") as caught:
            backend.load(PACK, NAME)
        assert backend.location in str(caught.value)


def test_unknown_host() -> None:
    """A server whose name nobody knows is an error that says so."""
    where = RestLocation("http://server.invalid/repo/", USER, WORD)
    with closing(RestBackend(where, RestOptions())) as backend, pytest.raises(StorageError, match="name is not known"):
        backend.load(PACK, NAME)


# --- connections


def test_connections_are_kept(backend: RestBackend, server: RestServer) -> None:
    """One thread uses one connection for everything, also where objects are missing."""
    server.connections.clear()
    for _ in range(5):
        stored(backend, PACK, b"new")
        backend.load(PACK, NAME)
        backend.read(PACK, NAME, 1, 5)
        backend.size(PACK, NAME)
        names(backend, PACK)
        backend.delete(PACK, name_of(b"new"))
        with pytest.raises(StorageObjectMissing):
            backend.load(PACK, name_of(b"new"))
        with pytest.raises(DamagedObject):
            backend.read(PACK, NAME, 1000, 500)
    assert len(server.connections) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_connections_than_told(server: RestServer, count: int) -> None:
    """Threads wait for one of the connections, and none is lost by errors."""
    with closing(backend_on(server, options=RestOptions(connections=count))) as backend:
        backend.create()
        name = stored(backend, PACK, DATA)
        assert backend.connections == count
        server.connections.clear()
        for number in range(20):
            server.tricks.append(Trick("GET", "data", (200, 404, 500, 206)[number % 4]))
        failed: list[BaseException] = []

        def ask() -> None:
            for _ in range(10):
                try:
                    backend.read(PACK, name, 5, 10)
                except BackupForgeError as error:
                    failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(failed) >= 10
        assert backend.read(PACK, name, 5, 10) == DATA[5:15]
        assert len(server.connections) <= count + len(failed)


# --- who may enter


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ((USER, WORD), {}),
        ((None, None), {"user": USER, "password": WORD}),
        ((USER, None), {"password": WORD}),
        ((USER, WORD), {"user": "another", "password": "another"}),
    ],
)
def test_user_and_password(server: RestServer, where: tuple[str | None, str | None], options: dict[str, str]) -> None:
    """User and password come from the location, else from the options, and go with every request, unasked."""
    server.credentials = f"{USER}:{WORD}"
    place = RestLocation(f"{server.url}me/repo/", *where)
    with closing(RestBackend(place, RestOptions(**options))) as backend:  # type: ignore[arg-type]
        backend.create()
        assert names(backend, PACK) == set()
        assert WORD not in backend.location


def test_user_and_password_of_any_characters(server: RestServer) -> None:
    """User and password go as UTF-8, as restic's do."""
    server.credentials = "jürgen:päss:wörd €"
    place = RestLocation(f"{server.url}me/repo/", "jürgen", "päss:wörd €")
    with closing(RestBackend(place, RestOptions())) as backend:
        backend.create()


def test_password_of_nobody(server: RestServer) -> None:
    """A password without a user is a mistake that is told at once."""
    with pytest.raises(InvalidValue, match="no user"):
        RestBackend(RestLocation(server.url, None, None), RestOptions(password=WORD))


def test_secrets_are_not_shown() -> None:
    """Neither options nor a location show a user's password to whoever prints them."""
    assert WORD not in repr(RestOptions(user=USER, password=WORD))
    assert WORD not in repr(location(1))


@pytest.mark.parametrize("name", ["user", "password"])
def test_secrets_are_no_options(name: str) -> None:
    """User and password cannot be given where everybody sees them, on the command line."""
    with pytest.raises(InvalidValue) as caught:
        parse_options([f"rest.{name}={WORD}"])
    assert WORD not in str(caught.value)


def test_proxies_of_the_environment_are_not_used(
    backend: RestBackend, server: RestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password goes to nobody but the server that the location names."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    with closing(backend_on(server)) as other:
        assert other.load(PACK, NAME) == DATA


def test_paths_of_any_characters(server: RestServer) -> None:
    """A path may have characters that URLs write in another way."""
    with closing(RestBackend(location(server.port, "/my backups/größe%20/"), RestOptions())) as backend:
        backend.create()
        stored(backend, PACK, DATA)
    assert list(server.objects) == [f"/my%20backups/gr%C3%B6%C3%9Fe%20/data/{NAME}"]


# --- certificates


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who says which certificates are good."""
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The authority's own certificate."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="module")
def ours(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A certificate of a client, with its key."""
    path = tmp_path_factory.mktemp("client") / "client.pem"
    authority.issue_cert("client@backup.example").private_key_and_cert_chain_pem.write_to_path(path)
    return str(path)


@pytest.fixture(scope="module")
def rclone_over_tls(authority: trustme.CA, ca_file: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that has a certificate and wants one."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    flags = ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem"), "--client-ca", ca_file]
    with serve("restic", folder / "served", *flags, environment=AS_SERVER) as server:
        yield server


def test_tls(rclone_over_tls: Served, ca_file: str, ours: str) -> None:
    """With an authority and a certificate of one's own everything goes as without; large objects, too."""
    where = location(rclone_over_tls.port, "/whole/", scheme="https")
    data = bytes(range(256)) * 20_000
    with closing(RestBackend(where, RestOptions(ca_file=ca_file, client_certificate=ours))) as backend:
        backend.create()
        name = uploaded(backend, PACK, data)
        assert backend.load(PACK, name) == data
        buffer = memoryview(bytearray(len(data) - 7))
        backend.read_into(PACK, name, 7, buffer)
        assert buffer == data[7:]
        assert names(backend, PACK) == {name}


@pytest.mark.parametrize(
    ("with_authority", "host", "error", "hint"),
    [
        (False, "127.0.0.1", "not trusted", "rest.ca-file"),
        (True, "localhost", "not trusted", "rest.ca-file"),
        (True, "127.0.0.1", "does not accept our certificate", "rest.client-certificate"),
    ],
)
def test_tls_that_fails(
    rclone_over_tls: Served, ca_file: str, with_authority: bool, host: str, error: str, hint: str
) -> None:
    """A server that nobody vouches for, or for another name, or that wants to know us, is refused and says why."""
    where = RestLocation(f"https://{host}:{rclone_over_tls.port}/other/", USER, WORD)
    with closing(RestBackend(where, RestOptions(ca_file=ca_file if with_authority else None))) as backend:
        with pytest.raises(StorageDenied, match=error) as caught:
            backend.create()
        assert hint in str(caught.value.hint)
        assert WORD not in str(caught.value)


def test_certificate_of_another_authority(rclone_over_tls: Served, ca_file: str, tmp_path: Path) -> None:
    """A certificate of ours that the server does not accept is a refusal."""
    path = tmp_path / "client.pem"
    trustme.CA().issue_cert("client@backup.example").private_key_and_cert_chain_pem.write_to_path(path)
    where = location(rclone_over_tls.port, "/other/", scheme="https")
    options = RestOptions(ca_file=ca_file, client_certificate=str(path))
    with closing(RestBackend(where, options)) as backend, pytest.raises(StorageDenied, match="our certificate"):
        backend.create()


def test_tls_to_a_server_without(server: RestServer) -> None:
    """TLS with a server that speaks none fails as TLS."""
    where = location(server.port, scheme="https")
    with closing(RestBackend(where, RestOptions())) as backend, pytest.raises(StorageError, match="TLS failed"):
        backend.load(PACK, NAME)


@pytest.mark.parametrize("content", [None, b"no certificate"])
@pytest.mark.parametrize("option", ["ca_file", "client_certificate"])
def test_certificates_that_cannot_be_read(tmp_path: Path, option: str, content: bytes | None) -> None:
    """A file that is missing, or holds something else, is a mistake that names the option and the file."""
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidValue, match=f"{option.replace('_', '-')}.*file.pem"):
        RestBackend(location(1, scheme="https"), RestOptions(**{option: str(path)}))  # type: ignore[arg-type]


def test_encrypted_key(tmp_path: Path, ours: str) -> None:
    """A key that wants a password is refused; nobody is asked for one."""
    from cryptography.hazmat.primitives import serialization

    pem = Path(ours).read_bytes()
    key = serialization.load_pem_private_key(pem, None)
    kind, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.BestAvailableEncryption(b"word")
    path = tmp_path / "encrypted.pem"
    path.write_bytes(pem[pem.index(b"-----BEGIN CERT") :] + key.private_bytes(serialization.Encoding.PEM, kind, plain))
    with pytest.raises(InvalidValue, match="client-certificate"):
        RestBackend(location(1, scheme="https"), RestOptions(client_certificate=str(path)))


# --- servers that keep us waiting


@contextmanager
def reader(pause_s: float, piece: int) -> Iterator[int]:
    """A server that takes so many bytes at a time and says 200 in the end; its port. With `piece` 0 it takes none."""
    done = threading.Event()

    def take(client: socket.socket) -> None:
        with client:
            head = client.recv(1 << 16)
            size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or b"0")
            left = size - len(head.partition(b"\r\n\r\n")[2])
            while left > 0 and not done.wait(pause_s):
                left -= len(client.recv(piece)) if piece else 0
            if not left:
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    def accept() -> None:
        while not done.is_set():
            with suppress(OSError):
                client = listening.accept()[0]
                threads.append(threading.Thread(target=take, args=(client,)))
                threads[-1].start()

    threads = [threading.Thread(target=accept)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        threads[0].start()
        try:
            yield listening.getsockname()[1]
        finally:
            done.set()
            listening.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


def test_server_that_stops_reading() -> None:
    """An upload that a server takes no more of fails when it has been silent for as long as it may."""
    with reader(0.05, 0) as port, closing(RestBackend(location(port), RestOptions(), stuck_after_s=0.5)) as backend:
        begun = monotonic()
        with pytest.raises(StorageError, match="the server was silent"):
            backend.save(PACK, NAME, bytes(20 << 20))
        assert monotonic() - begun < 10


def test_slow_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload may take any time, as long as the server takes some of it now and then."""
    monkeypatch.setattr("bfrepo.storage.rest_client._CONNECT_S", 0.2)
    with reader(0.01, 1 << 15) as port, closing(RestBackend(location(port), RestOptions(), stuck_after_s=5)) as backend:
        backend.save(PACK, NAME, bytes(8 << 20))


def test_closed_while_somebody_waits(server: RestServer) -> None:
    """Whoever waits for a connection when the backend is closed hears of it, and does not wait for ever."""
    server.places.add("/me/repo/data/")
    server.tricks.append(Trick("GET", "data/", silent_s=1, body=b"[]"))
    backend = backend_on(server, options=RestOptions(connections=1))
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(names, backend, PACK) for _ in range(3)]
        while not server.requests:
            sleep(0.01)
        sleep(0.1)
        backend.close()
        outcomes = [call.exception(timeout=20) for call in calls]
    assert [type(outcome) for outcome in outcomes].count(StorageError) >= 2
