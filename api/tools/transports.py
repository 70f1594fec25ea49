"""How clients reach the tools: over the standard streams of this process, or over HTTP on this machine."""

from __future__ import annotations

import hmac
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import anyio
import uvicorn
from mcp.server import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Receive, Scope, Send

from api.tools.calls import Toolbox
from bfrepo.core.errors import BackupForgeError, InvalidValue, UsageError

SHORTEST_TOKEN: Final = 16
_PATH: Final = "/mcp"
_LEAVE_S: Final = 5
_SESSIONS: Final = 32


def serve_stdio(server: MCPServer[Toolbox]) -> None:
    """Serve the one client that has started us, until it closes its end. Standard output is the wire."""
    anyio.run(server.run_stdio_async)


def parse_local(listen: str) -> tuple[str, int]:
    """The address in "127.0.0.1:8421". Raises UsageError for one that other machines reach, InvalidValue."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    host = "127.0.0.1" if host == "localhost" else host
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise InvalidValue(f"{listen!r} is no address", hint="write 127.0.0.1:PORT") from error
    if not port.isdecimal() or int(port) > 65535:
        raise InvalidValue(f"{listen!r} has no port", hint="write 127.0.0.1:PORT")
    if not local:
        raise UsageError(
            f"{host} is reached from other machines, and there is no TLS here",
            hint="listen on 127.0.0.1, and let clients come through an SSH tunnel or a proxy that has TLS",
        )
    return host, int(port)


def check_token(token: str) -> None:
    """Raises UsageError for one that could be guessed, or that no header can carry."""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"the token has to be {SHORTEST_TOKEN} or more plain characters",
            hint="make one with: openssl rand -hex 32",
        )


def serve_http(server: MCPServer[Toolbox], host: str, port: int, token: str, on_ready: Callable[[str], None]) -> None:
    """Serve clients that know the token, until SIGINT or SIGTERM; `on_ready` gets the URL. Raises BackupForgeError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen()
        except OSError as error:
            raise BackupForgeError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        port = listening.getsockname()[1]
        names = [f"[{host}]" if ":" in host else host, "localhost"]
        security = TransportSecuritySettings(
            allowed_hosts=[f"{name}:{port}" for name in names],
            allowed_origins=[f"http://{name}:{port}" for name in names],
        )
        app = server.streamable_http_app(
            streamable_http_path=_PATH, transport_security=security, host=host, max_sessions=_SESSIONS
        )
        config = uvicorn.Config(
            _TokenNeeded(app, token), log_level="warning", access_log=False, timeout_graceful_shutdown=_LEAVE_S
        )
        on_ready(f"http://{names[0]}:{port}{_PATH}")
        with _ending_well():
            uvicorn.Server(config).run(sockets=[listening])


@contextmanager
def _ending_well() -> Iterator[None]:
    """Have SIGINT and SIGTERM end nothing but the server, which raises them once more when it has ended."""
    before = {number: signal.signal(number, lambda number, frame: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _TokenNeeded:
    """Lets nobody through who does not send the token: 401, before anything is read of the request."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] == "lifespan" or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        headers = [(b"www-authenticate", b"Bearer"), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _is_known(self, scope: Scope) -> bool:
        sent = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        if scope["type"] != "http" or len(sent) != 1:
            return False
        scheme, _, token = sent[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token, self._token)
