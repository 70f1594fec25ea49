"""One server process: what it does before it answers, how it listens, and how it ends.

Clients that are slow on purpose hold little and not for long: headers have to be there within seconds, between requests
a connection may idle for a minute, JSON bodies have their time limit in `routing`, and headers are limited in size and
number. Bodies that say they are compressed are taken as they are, so that none grows in memory.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from api.app import make_app
from api.config import ServerConfig, load_server_keys
from api.db.engine import Database
from api.db.migrate import migrate
from api.logs import REQUESTS, RequestLog, configure
from api.middleware import Handler
from api.services.accounts import Accounts
from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError

_HEADERS_S: Final = 20.0
_IDLE_S: Final = 60.0
_LOOK_S: Final = 5.0
_READ_AHEAD: Final = 256 << 10  # bytes of a body that wait for whoever takes them
_END_S: Final = 20.0
"""How long requests that are under way may take to end when the server is told to stop."""


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that answers. `first_secret` is there while nobody is a user: it makes the first administrator, once."""

    url: str
    first_secret: str | None


def serve(config: ServerConfig, clock: Clock, on_ready: Callable[[Listening], None]) -> None:
    """Serve until SIGTERM or SIGINT. Migrates the database first. For the main thread.

    Raises BackupForgeError when the database, the certificate or the address cannot be used.
    """
    tls = _tls_context(config)
    configure(as_json=config.log_json, requests=config.log_requests)
    os.umask(0o077)  # hashes of passwords and what tenants store are nobody else's business
    first_secret = prepare(config, clock)
    _allow_open_files()
    asyncio.run(_serve(config, clock, tls, lambda url: on_ready(Listening(url, first_secret))))


def prepare(config: ServerConfig, clock: Clock) -> str | None:
    """Make the database ready. A secret for the first administrator, None when there are users. Blocks."""
    keys = load_server_keys(config.data)
    database = Database(config.database, connections=1)
    try:
        migrate(database)
        return Accounts(database, keys, clock, config.password_cost).first_secret()
    finally:
        database.close()


async def _serve(
    config: ServerConfig, clock: Clock, tls: ssl.SSLContext | None, on_ready: Callable[[str], None]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop_once, stop)
    app = make_app(config, clock)
    heard = Heard()
    app.middlewares.insert(0, heard.note)
    runner = web.AppRunner(
        app,
        access_log=logging.getLogger(REQUESTS),
        access_log_class=RequestLog,
        keepalive_timeout=_IDLE_S,
        shutdown_timeout=_END_S,
        auto_decompress=False,
        read_bufsize=_READ_AHEAD,
    )
    await runner.setup()
    watch = asyncio.create_task(heard.watch(runner))
    try:
        await _listen(runner, config, tls)
        on_ready(config.base_url or _url(config, runner))
        await stop.wait()
    finally:
        watch.cancel()
        await runner.cleanup()


def _stop_once(stop: asyncio.Event) -> None:
    """The second signal ends the process at once."""
    stop.set()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


class Heard:
    """Which connections have sent a request. Those that do not within seconds are closed.

    From the first request on aiohttp itself closes what idles. Belongs to one loop.
    """

    def __init__(self, limit_s: float = _HEADERS_S, look_s: float = _LOOK_S) -> None:
        self._limit_s = limit_s
        self._look_s = look_s
        self._heard: set[web.RequestHandler] = set()
        self._since: dict[web.RequestHandler, float] = {}

    @web.middleware
    async def note(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """To be the application's first middleware."""
        self._heard.add(request.protocol)
        return await handler(request)

    async def watch(self, runner: web.AppRunner) -> None:
        """Close silent connections, until it is cancelled."""
        while True:
            await asyncio.sleep(self._look_s)
            if runner.server is not None:
                self._look(runner.server.connections, asyncio.get_running_loop().time())

    def _look(self, connections: list[web.RequestHandler], now: float) -> None:
        self._heard.intersection_update(connections)
        self._since = {each: self._since.get(each, now) for each in connections if each not in self._heard}
        for connection, since in self._since.items():
            if now - since > self._limit_s:
                connection.force_close()


async def _listen(runner: web.AppRunner, config: ServerConfig, tls: ssl.SSLContext | None) -> None:
    site = web.TCPSite(runner, config.listen_host, config.listen_port, ssl_context=tls)
    try:
        await site.start()
    except OSError as error:
        address = f"{config.listen_host}:{config.listen_port}"
        raise BackupForgeError(f"cannot listen on {address}: {error.strerror or error}") from error


def _url(config: ServerConfig, runner: web.AppRunner) -> str:
    port = runner.addresses[0][1]
    host = f"[{config.listen_host}]" if ":" in config.listen_host else config.listen_host
    return f"{'https' if config.tls_certificate else 'http'}://{host}:{port}"


def _tls_context(config: ServerConfig) -> ssl.SSLContext | None:
    if config.tls_certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(config.tls_certificate, config.tls_key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise BackupForgeError(f"the certificate {config.tls_certificate} cannot be used: {error}") from error
    return context


def _no_password() -> str:
    """Nobody is there to type one."""
    raise BackupForgeError("the key of the certificate is encrypted", hint="decrypt it with: openssl pkey")


def _allow_open_files() -> None:
    """Every connection is one; the usual 1,024 are few."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
