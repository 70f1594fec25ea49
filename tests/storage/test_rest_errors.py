"""What REST servers can do wrong, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    InvalidValue,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.rest import RestBackend
from tests.storage.conformance import CONFIG, MIB, PACK, name_of, names, stored, uploaded
from tests.support.rest_places import PLACE, WORD, backend_on, calls, created_on
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
        server.requests.clear()
        yield backend


# --- names


def test_server_that_checks_names() -> None:
    """A server that wants names to be SHA-256 hashes is found out by `create`, which says what to do."""
    with rest_server() as server, closing(backend_on(server)) as backend:
        with pytest.raises(StorageDenied, match="SHA-256") as caught:
            backend.create()
        assert "--no-verify-upload" in str(caught.value.hint)
        assert server.objects == {}


def test_server_that_checks_names_later(backend: RestBackend, server: RestServer) -> None:
    """Where a server begins to check names the error says what it may be, and nothing is stored."""
    server.verify = True
    with pytest.raises(StorageError, match="400") as caught:
        stored(backend, PACK, b"new")
    assert "--no-verify-upload" in str(caught.value.hint)
    assert names(backend, PACK) == {NAME}


def test_create_leaves_nothing(server: RestServer) -> None:
    """`create` leaves no object, also after one that was interrupted while it tried the server."""
    server.tricks.append(Trick("DELETE", "locks", 500))
    with closing(backend_on(server)) as backend:
        with pytest.raises(StorageError):
            backend.create()
        assert len(server.objects) == 1
        assert names(backend, ObjectKind.CLAIM) == set()
        backend.create()
    assert server.objects == {}


def test_create_on_an_append_only_server() -> None:
    """An append-only server is good enough for a new repository."""
    with rest_server(verify=False, append_only=True) as server, created_on(server):
        assert server.objects == {}


# --- what answers mean


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
@pytest.mark.parametrize(
    ("status", "error", "hint"),
    [
        (401, StorageDenied, "BACKUPFORGE_REST_PASSWORD"),
        (403, StorageDenied, "append-only"),
        (413, StorageDenied, "client_max_body_size"),
        (507, StorageFull, "room"),
        (500, StorageError, ""),
        (502, StorageError, ""),
        (599, StorageError, ""),
    ],
)
def test_refusals(
    backend: RestBackend, server: RestServer, method: str, status: int, error: type[StorageError], hint: str
) -> None:
    """Every refusal becomes its error, which names the object, the place and the status, and tells no password."""
    server.tricks.append(Trick(method, "data", status))
    with pytest.raises(error, match=str(status)) as caught:
        calls(backend, NAME)[method]()
    assert type(caught.value) is error
    assert "pack" in str(caught.value)
    assert backend.location in str(caught.value)
    assert hint in str(caught.value.hint)
    assert WORD not in f"{caught.value!r} {caught.value.hint}"
    calls(backend, NAME)[method]()  # and the connection can be used again


@pytest.mark.parametrize(("said", "seconds"), [("7", 7), ("", None), ("Fri, 31 Dec 1999 23:59:59 GMT", None)])
@pytest.mark.parametrize("status", [429, 503])
def test_server_that_wants_a_pause(
    backend: RestBackend, server: RestServer, status: int, said: str, seconds: float | None
) -> None:
    """How long a server wants to be left alone is told to whoever tries again."""
    server.tricks.append(Trick("GET", "data", status, {"Retry-After": said}))
    with pytest.raises(StorageError) as caught:
        backend.load(PACK, NAME)
    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_redirects_are_refused(backend: RestBackend, server: RestServer, method: str) -> None:
    """No redirect is followed: the password would go to whoever it names. It is no error that passes by itself."""
    target = "https://user:word@elsewhere.example/path?token=word"
    server.tricks.append(Trick(method, "data", 301, {"Location": target}))
    with pytest.raises(InvalidValue, match=r"https://elsewhere\.example$") as caught:
        calls(backend, NAME)[method]()
    assert "word@" not in str(caught.value)


def test_config_that_exists(backend: RestBackend, server: RestServer) -> None:
    """A config that appears just before ours is stored is no lack of permission."""
    server.tricks.append(Trick("HEAD", "config", 404))
    server.objects[f"{PLACE}config"] = b"first"
    with pytest.raises(StorageObjectExists):
        backend.save(CONFIG, "config", b"second")


def test_config_that_may_not_be_stored(backend: RestBackend, server: RestServer) -> None:
    """A config that is forbidden though there is none is a lack of permission."""
    server.tricks.append(Trick("POST", "config", 403))
    with pytest.raises(StorageDenied, match="config"):
        backend.save(CONFIG, "config", b"first")


def test_large_object_that_is_there(backend: RestBackend, server: RestServer) -> None:
    """What the server has is not an error, also where it hangs up without reading what it has."""
    data = bytes(8 * MIB)
    uploaded(backend, PACK, data)
    for _ in range(5):
        uploaded(backend, PACK, data)
    assert names(backend, PACK) == {NAME, name_of(data)}


def test_deletion_that_did_nothing(backend: RestBackend, server: RestServer) -> None:
    """A server that says 404 to a deletion is believed only when the object is gone."""
    server.tricks.append(Trick("DELETE", "data", 404))
    with pytest.raises(StorageError, match="still there"):
        backend.delete(PACK, NAME)


@pytest.mark.parametrize("read", [lambda each: each.load(PACK, NAME), lambda each: each.read(PACK, NAME, 0, 9)])
def test_object_that_the_server_cannot_read(
    backend: RestBackend, server: RestServer, read: Callable[[Backend], object]
) -> None:
    """404 for an object that is there is no missing object: rclone says so when its own storage fails."""
    server.tricks.append(Trick("GET", "data", 404))
    with pytest.raises(StorageError) as caught:
        read(backend)
    assert type(caught.value) is StorageError


# --- a place that has vanished


def test_vanished_repository(backend: RestBackend, server: RestServer) -> None:
    """Where there was a repository and is none, nothing is called missing, and no listing is called empty."""
    backend.save(CONFIG, "config", b"config")
    server.objects.clear()
    for call in (lambda: backend.load(PACK, NAME), lambda: names(backend, PACK), lambda: backend.size(PACK, NAME)):
        with pytest.raises(StorageError, match="vanished") as caught:
            call()
        assert not isinstance(caught.value, StorageObjectMissing)
    with pytest.raises(StorageObjectMissing):
        backend.load(CONFIG, "config")


def test_vanished_folder(backend: RestBackend, server: RestServer) -> None:
    """A folder that the server does not find is no empty listing."""
    server.places.remove(f"{PLACE}data/")
    with pytest.raises(StorageError, match="not a complete repository"):
        names(backend, PACK)


@pytest.mark.parametrize(
    "trick",
    [
        Trick("GET", "data/", 200, body=b"<html>log in, please</html>"),
        Trick("GET", "data/", 200, body=b'[{"name": "no size"}]'),
        Trick("GET", "data/", 200, body=b'[{"name": "\xff", "size": 1}]'),
        Trick("GET", "data/", 200, body=b"[" * 100_000),
        Trick("GET", "data/", 200, body=b""),
        Trick("GET", "data/", 500),
        Trick("GET", "data/", 200, {"Content-Length": "5000"}, b"[]"),
        Trick("GET", "data/", 200, {"Content-Length": "", "Connection": "close"}, b"[]"),
    ],
)
def test_listings_that_are_none(backend: RestBackend, server: RestServer, trick: Trick) -> None:
    """What is not a whole listing is an error, and never a short one."""
    server.tricks.append(trick)
    with pytest.raises(StorageError, match="listing of packs"):
        names(backend, PACK)
    assert names(backend, PACK) == {NAME}


# --- ranges


@pytest.mark.parametrize(
    "trick",
    [
        Trick("GET", "data", 206, {"Content-Range": "bytes 0-9/1024"}, DATA[:10]),  # the first bytes, not the others
        Trick("GET", "data", 206, {"Content-Range": "bytes 100-104/1024"}, DATA[100:105]),
        Trick("GET", "data", 206, {"Content-Range": "bytes 200-209/1024"}, DATA[200:210]),
        Trick("GET", "data", 206, {"Content-Range": "everything"}, DATA[100:110]),
        Trick("GET", "data", 206, {}, DATA[100:110]),
        Trick("GET", "data", 206, {"Content-Range": "bytes 100-109/1024", "Content-Length": "10"}, DATA[100:105]),
        Trick("GET", "data", 206, {"Content-Range": "bytes 100-109/1024"}, DATA[100:105]),
        Trick("GET", "data", 200, {"Content-Length": "1024"}, DATA[:50]),
        Trick("GET", "data", 200, {"Content-Length": "", "Connection": "close"}, DATA),
    ],
)
@pytest.mark.parametrize("read", ["read", "read_into"])
def test_wrong_ranges(backend: RestBackend, server: RestServer, trick: Trick, read: str) -> None:
    """An answer with another range than was asked for, or with less, is an error and never other bytes."""
    server.tricks.append(trick)
    wanted: object = 10 if read == "read" else memoryview(bytearray(10))
    with pytest.raises(StorageError, match=NAME[:8]):
        getattr(backend, read)(PACK, NAME, 100, wanted)
    assert backend.read(PACK, NAME, 100, 10) == DATA[100:110]


def test_server_that_knows_no_ranges(backend: RestBackend, server: RestServer) -> None:
    """Where the whole object comes instead of a range the range is taken out of it."""
    data = bytes(range(256)) * 10_000
    name = stored(backend, PACK, data)
    for offset, length in ((0, 10), (1_000_000, 300_000), (len(data) - 1, 1)):
        server.tricks.append(Trick("GET", "data", 200, body=data))
        assert backend.read(PACK, name, offset, length) == data[offset : offset + length]
    server.tricks.append(Trick("GET", "data", 200, body=data))
    with pytest.raises(DamagedObject):
        backend.read(PACK, name, len(data), 1)


def test_object_without_size(backend: RestBackend, server: RestServer) -> None:
    """A server that does not tell a size does not make it zero."""
    server.tricks.append(Trick("HEAD", "data", 200, {"Content-Length": ""}))
    with pytest.raises(StorageError, match="size"):
        backend.size(PACK, NAME)


def test_errors_are_ours(backend: RestBackend, server: RestServer) -> None:
    """Whatever bytes a server answers with, the error is one of ours."""
    answers = [Trick("GET", "data", 200, {"Content-Length": "-5"}), Trick("GET", "data", 200, {"Content-Length": "x"})]
    for trick in answers:
        server.tricks.append(trick)
        with pytest.raises(BackupForgeError):
            backend.load(PACK, NAME)
