"""A stand-in for restic's rest-server, with what it does and rclone does not: python has no such server to install.

    names are checked     a body whose SHA-256 is not its name: 400, unless it is told not to (--no-verify-upload)
    nothing is replaced   403 for what is there already; a long body is not read, and the connection closed
    append-only           403 for every deletion but that of locks
    a quota               507 for what has no room left; a body without a length: 411
    versions              listings with names alone for who does not ask for version 2
    depth                 404 for a repository deeper than two folders

From restic's doc/REST_backend.rst and rest-server's repo/repo.go and quota/quota.go. Besides it has tricks: an answer
that a test wants in place of the next one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_OBJECT = re.compile(r"(/(?:[^/]+/){0,2})(data|index|keys|locks|snapshots)/([0-9a-f]{64})?")
_CONFIG = re.compile(r"(/(?:[^/]+/){0,2})(config)()")
_REPOSITORY = re.compile(r"(/(?:[^/]+/){0,2})()()")
_V1, _V2 = "application/vnd.x.restic.rest.v1", "application/vnd.x.restic.rest.v2"
_READ_ANYWAY = 256 << 10
_TYPES = ("data", "index", "keys", "locks", "snapshots")


@dataclass(frozen=True)
class Trick:
    """What to answer in place of the truth: to a request of this method whose path holds these words."""

    method: str
    path: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    silent_s: float = 0
    """How long to say nothing before that."""


@dataclass
class RestServer:
    """A running server, and what it holds: objects by their path."""

    port: int = 0
    verify: bool = True
    append_only: bool = False
    quota: int | None = None
    version: int = 2
    credentials: str | None = None
    """user:password, if it wants them."""
    objects: dict[str, bytes] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)
    """The folders that exist."""
    tricks: deque[Trick] = field(default_factory=deque)
    requests: list[str] = field(default_factory=list)
    """What was asked for, "GET /a/config"."""
    connections: set[int] = field(default_factory=set)
    """The ports of all clients' connections so far."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def take_trick(self, method: str, path: str) -> Trick | None:
        """The first trick that is meant for a request."""
        with self.lock:
            for trick in self.tricks:
                if trick.method == method and trick.path in path:
                    self.tricks.remove(trick)
                    return trick
        return None


@contextmanager
def rest_server(
    context: ssl.SSLContext | None = None,
    *,
    verify: bool = True,
    append_only: bool = False,
    version: int = 2,
    credentials: str | None = None,
) -> Iterator[RestServer]:
    """A server for the time of the block."""
    state = RestServer(verify=verify, append_only=append_only, version=version, credentials=credentials)

    class Handler(_Handler):
        server_state = state

    server = _Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.stopped.set()
        server.shutdown()
        server.close_connections()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 50

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        super().shutdown_request(request)
        if isinstance(request, socket.socket):
            self._open.discard(request)

    def close_connections(self) -> None:
        """End those that clients keep open."""
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no event."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "rest-server-double", ""
    server_state: RestServer
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads it."""

    def _handle(self) -> None:
        state = self.server_state
        self.unread = int(self.headers.get("Content-Length") or 0)
        with state.lock:
            state.requests.append(f"{self.command} {self.path}")
            state.connections.add(self.client_address[1])
        trick = state.take_trick(self.command, self.path)
        if trick is not None:
            state.stopped.wait(trick.silent_s)
            self._finish(trick.status, trick.body, trick.headers)
        elif not self._may_enter():
            self._finish(401, b"Unauthorized\n")
        else:
            self._answer()

    def _may_enter(self) -> bool:
        wanted = self.server_state.credentials
        if wanted is None:
            return True
        token = base64.b64encode(wanted.encode()).decode()
        return self.headers.get("Authorization") == f"Basic {token}"

    def _answer(self) -> None:
        path, _, query = self.path.partition("?")
        for pattern, methods in (
            (_CONFIG, {"GET": self._get, "HEAD": self._get, "POST": self._save_config, "DELETE": self._delete}),
            (_OBJECT, {"GET": self._get, "HEAD": self._get, "POST": self._save, "DELETE": self._delete}),
            (_REPOSITORY, {"POST": self._create}),
        ):
            match = pattern.fullmatch(path)
            if match is None:
                continue
            place, kind, name = match.groups()
            if kind in _TYPES and not name:
                methods = {"GET": self._list}
            if self.command not in methods:
                return self._finish(405, b"Method Not Allowed\n")
            self.place, self.kind, self.query = place, kind, query
            handle: Callable[[str], None] = methods[self.command]
            return handle(path)
        return self._finish(404, b"404 page not found\n")

    def _create(self, path: str) -> None:
        if self.query != "create=true":
            return self._finish(400)
        self.server_state.places.update(f"{path}{kind}/" for kind in _TYPES)
        return self._finish(200)

    def _list(self, path: str) -> None:
        state = self.server_state
        if path not in state.places:
            return self._finish(404, b"Not Found\n")
        with state.lock:
            found = {
                name.removeprefix(path): len(data) for name, data in state.objects.items() if name.startswith(path)
            }
        if state.version == 2 and self.headers.get("Accept") == _V2:
            items: object = [{"name": name, "size": size} for name, size in found.items()]
            return self._finish(200, json.dumps(items).encode(), {"Content-Type": _V2})
        # Of nothing the old one makes null: the JSON of Go for a list that was never begun.
        return self._finish(200, json.dumps(list(found) or None).encode(), {"Content-Type": _V1})

    def _get(self, path: str) -> None:
        data = self.server_state.objects.get(path)
        if data is None:
            return self._finish(404, b"Not Found\n")
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None or self.kind == "config":
            return self._finish(200, data)
        start, end = int(wanted[1]), min(int(wanted[2]) + 1, len(data))
        if start >= len(data):
            return self._finish(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        return self._finish(206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def _save(self, path: str) -> None:
        state = self.server_state
        if path in state.objects:
            return self._finish(403, b"Forbidden\n")
        length = int(self.headers.get("Content-Length", "-1"))
        if length < 0:
            return self._finish(411)
        if state.quota is not None and sum(map(len, state.objects.values())) + length > state.quota:
            return self._finish(507)
        body = self._body()
        if len(body) < length or (state.verify and hashlib.sha256(body).hexdigest() != path[-64:]):
            return self._finish(400, b"Bad Request\n")
        with state.lock:
            state.objects[path] = body
        return self._finish(200)

    def _save_config(self, path: str) -> None:
        body = self._body()
        state = self.server_state
        with state.lock:
            if path in state.objects:
                return self._finish(403, b"Forbidden\n")
            state.objects[path] = body
        return self._finish(200)

    def _delete(self, path: str) -> None:
        state = self.server_state
        if state.append_only and self.kind != "locks":
            return self._finish(403, b"Forbidden\n")
        with state.lock:
            there = state.objects.pop(path, None) is not None
        return self._finish(200 if there else 404)

    def _body(self) -> bytes:
        self.unread = 0
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _skip_body(self) -> None:
        """As Go's server does: a short body is read, a long one costs the connection."""
        if self.unread <= _READ_ANYWAY:
            self.rfile.read(self.unread)
        else:
            self.close_connection = True

    def _finish(self, status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self._skip_body()
        self.send_response(status)
        sent = {"Content-Length": str(len(body)), **headers}
        for name, value in sent.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if "Content-Length" in headers and int(headers["Content-Length"] or 0) > len(body):
            self.close_connection = True
