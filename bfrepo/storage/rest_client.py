"""HTTP as restic's REST protocol uses it: a few connections that stay open, and errors that are ours.

Nothing is tried again here and no redirect is followed: a request either got the answer that is returned, or raises
StorageError. The user's name and password go with every request, only ever to the server that the location names; no
environment variable leads past that (such as those for proxies). Answers are not compressed: all we store is.
"""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, cast
from urllib.parse import quote, urlsplit

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Timeout
from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from bfrepo.core.errors import InvalidValue
from bfrepo.storage.options import RestOptions
from bfrepo.storage.places import RestLocation
from bfrepo.storage.rest_errors import broken, redirected

LISTING: Final = "application/vnd.x.restic.rest.v2"
"""Asks for listings with sizes (version 2 of the protocol); a server that does not know it gives names alone."""

STUCK_AFTER_S: Final = 120.0
"""How long a server may be silent: storing a pack for good takes a slow disk some seconds, a slow cloud a minute."""

_CONNECT_S: Final = 30.0
_PIECE: Final = 256 * 1024
"""What is sent at once. The time limit is for each piece, not for a whole pack on a slow line."""

_DRAIN: Final = 64 * 1024
"""Up to here the rest of an answer that nobody wants is read, so that its connection can be used again."""

_RCLONE: Final = "rclone/"


class RestClient:
    """Sends requests to one server, from any thread, no more at once than `connections`."""

    def __init__(self, location: RestLocation, options: RestOptions, *, stuck_after_s: float = STUCK_AFTER_S) -> None:
        self.shown = location.shown
        """Where it is, for messages; without the password."""
        self.overwrites = False
        """Whether the server replaces what is there, in place, although the protocol says that it refuses."""
        parts = urlsplit(location.url)
        self._path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
        self._headers = {
            "User-Agent": "backupforge",
            "Accept-Encoding": "identity",
            **_authorization(location, options),
        }
        self._stuck_after_s = stuck_after_s
        self._pool = _pool(location.url, options, Timeout(connect=_CONNECT_S, read=stuck_after_s))

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
        try:
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
                self.overwrites = self.overwrites or answer.headers.get("Server", "").startswith(_RCLONE)
                if 300 <= answer.status < 400:
                    raise redirected(self.shown, answer.headers.get("Location"))
                yield answer
            finally:
                _let_go(answer)
        except (HTTPError, OSError) as error:
            raise broken(subject, self.shown, error, stuck_after_s=self._stuck_after_s) from error

    def close(self) -> None:
        """Let go of all connections."""
        self._pool.close()


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


def _pool(url: str, options: RestOptions, timeout: Timeout) -> HTTPConnectionPool:
    parts = urlsplit(url)
    host = str(parts.hostname)
    count = options.connections
    if parts.scheme == "http":
        return HTTPConnectionPool(host, parts.port, timeout=timeout, maxsize=count, block=True)
    return HTTPSConnectionPool(host, parts.port, timeout=timeout, maxsize=count, block=True, ssl_context=_tls(options))


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
