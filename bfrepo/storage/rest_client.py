"""HTTP as restic's REST protocol uses it: a few connections that stay open, and errors that are ours.

Nothing is tried again here and no redirect is followed: a request either got the answer that is returned, or raises
StorageError. The user's name and password go with every request, only ever to the server that the location names; no
environment variable leads past that (such as those for proxies). Answers are not compressed: all we store is.
"""

from __future__ import annotations

import base64
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, cast
from urllib.parse import quote, urlsplit

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from bfrepo.core.errors import InvalidValue, StorageError
from bfrepo.storage.options import RestOptions
from bfrepo.storage.places import RestLocation
from bfrepo.storage.rest_errors import broken, redirected

LISTING: Final = "application/vnd.x.restic.rest.v2"
"""Asks for listings with sizes (version 2 of the protocol); a server that does not know it gives names alone."""

STUCK_AFTER_S: Final = 120.0
"""How long a server may be silent: storing a pack for good takes a slow disk some seconds, a slow cloud a minute."""

_CONNECT_S: Final = 30.0
_PIECE: Final = 64 * 1024
"""What is sent at once. The time limit is for each piece: eight uploads on a line of 8 KB/s stay below it."""

_DRAIN: Final = 64 * 1024
"""Up to here the rest of an answer that nobody wants is read, so that its connection can be used again."""

_RCLONE: Final = "rclone/"


class RestClient:
    """Sends requests to one server, from any thread, no more at once than `connections`."""

    def __init__(self, location: RestLocation, options: RestOptions, *, stuck_after_s: float = STUCK_AFTER_S) -> None:
        self.shown = location.shown
        """Where it is, for messages; without the password."""
        self.is_rclone = False
        """Whether the server is rclone, which replaces what is there, in place, although the protocol says that it
        refuses, and tells when there was nothing to delete."""
        parts = urlsplit(location.url)
        self._path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        self._headers = {
            "User-Agent": "backupforge",
            "Accept-Encoding": "identity",
            **_authorization(location, options),
        }
        self._stuck_after_s = stuck_after_s
        self._places = _Places(options.connections)
        self._pool = _pool(location.url, options, stuck_after_s)

    @contextmanager
    def ask(
        self, method: str, path: str, subject: str, headers: Mapping[str, str] = {}, body: memoryview | None = None
    ) -> Iterator[BaseHTTPResponse]:
        """The answer to a request, of which only the head was read, whatever its status.

        `subject` names in errors what the request is about. What reading the answer raises becomes StorageError, too.
        """
        sent = {**self._headers, **headers}
        if body is not None:
            sent |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        with self._places.taken(f"{subject} in {self.shown}"), self._failing(subject):
            answer = self._pool.urlopen(
                method,
                self._path + path,
                body=None if body is None else _pieces(body),
                headers=sent,
                retries=False,
                redirect=False,
                preload_content=False,
                decode_content=False,
            )
            try:
                self.is_rclone = self.is_rclone or answer.headers.get("Server", "").startswith(_RCLONE)
                if 300 <= answer.status < 400:
                    raise redirected(self.shown, answer.headers.get("Location"))
                yield answer
            finally:
                _let_go(answer)

    def close(self) -> None:
        """Let go of all connections. Whoever waits for one gets a StorageError."""
        self._places.close()
        self._pool.close()

    @contextmanager
    def _failing(self, subject: str) -> Iterator[None]:
        try:
            yield
        except (HTTPError, OSError) as error:
            raise broken(subject, self.shown, error, stuck_after_s=self._stuck_after_s) from error


class _Places:
    """How many requests there may be at once. The pool's own queue would be waited at for ever once it is closed."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, subject: str) -> Iterator[None]:
        """A place for the time of the block, as soon as there is one. Raises StorageError when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._free or self._closed)
            if self._closed:
                raise StorageError(f"{subject}: the connection was closed")
            self._free -= 1
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify()

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Patient:
    """A connection that gives a server as long to take a piece as to answer: urllib3 sends within the time to connect.

    On a slow line that several uploads share a piece takes its time, though nothing is wrong.
    """

    sock: socket.socket | None

    def __init__(self, *arguments: Any, sends_within_s: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._sends_within_s = sends_within_s

    def send(self, data: Any) -> None:
        """See `http.client.HTTPConnection.send`."""
        if self.sock is not None:
            self.sock.settimeout(self._sends_within_s)
        super().send(data)  # type: ignore[misc]


class _PatientHttp(_Patient, HTTPConnection):
    """By HTTP."""


class _PatientHttps(_Patient, HTTPSConnection):
    """By HTTPS."""


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _PatientHttp


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _PatientHttps


def _pieces(body: memoryview) -> Iterator[bytes]:
    return (cast("bytes", body[start : start + _PIECE]) for start in range(0, len(body), _PIECE))


def _let_go(answer: BaseHTTPResponse) -> None:
    """Give the connection back: to be used again where nothing is left in it, else to be made anew."""
    left = answer.length_remaining
    if left is not None and left <= _DRAIN:
        answer.drain_conn()
    else:
        answer.close()
    answer.release_conn()


def _authorization(location: RestLocation, options: RestOptions) -> dict[str, str]:
    """HTTP's basic authentication, sent before anybody asks. Raises InvalidValue for a password of nobody."""
    user = location.user if location.user is not None else options.user
    password = location.password if location.password is not None else options.password
    if user is None:
        if password is None:
            return {}
        raise InvalidValue(
            f"there is a password for {location.shown}, but no user", hint="set BACKUPFORGE_REST_USERNAME, too"
        )
    token = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def _pool(url: str, options: RestOptions, stuck_after_s: float) -> HTTPConnectionPool:
    parts = urlsplit(url)
    settings: dict[str, Any] = {
        "timeout": Timeout(connect=_CONNECT_S, read=stuck_after_s),
        "maxsize": options.connections,
        "sends_within_s": stuck_after_s,
    }
    if parts.scheme == "http":
        return _HttpPool(str(parts.hostname), parts.port, **settings)
    return _HttpsPool(str(parts.hostname), parts.port, ssl_context=_tls(options), **settings)


def _tls(options: RestOptions) -> ssl.SSLContext:
    """How the server proves who it is, and how we do. Raises InvalidValue for files that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
    except OSError as error:
        raise _unusable("rest.ca-file", options.ca_file, error) from error
    if options.client_certificate is not None:
        try:
            # Without a password of its own OpenSSL would ask for that of an encrypted key on the terminal.
            context.load_cert_chain(options.client_certificate, password=b"")
        except OSError as error:
            raise _unusable("rest.client-certificate", options.client_certificate, error) from error
    return context


def _unusable(option: str, path: str | None, error: OSError) -> InvalidValue:
    reason = "it does not hold what it should" if isinstance(error, ssl.SSLError) else str(error.strerror).lower()
    return InvalidValue(
        f"{option}: cannot use {path}: {reason}",
        hint="a PEM file: certificates of authorities, or a certificate with its key, which may not be encrypted",
    )
