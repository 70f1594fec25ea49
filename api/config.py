"""What a server is started with, and the secret it keeps in its data directory."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bfrepo.core.errors import BackupForgeError, InvalidValue

_KEY_FILE: Final = "server.key"
_KEY_SIZE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The settings of one server process. `database` is an SQLAlchemy URL, which may hold a password."""

    data: Path
    database: str = field(repr=False)
    listen_host: str = "127.0.0.1"
    listen_port: int = 8420
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    base_url: str | None = None
    """How clients reach the server, where a proxy stands before it; for the links it prints and sends."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses whose X-Forwarded-For is believed."""
    allowed_locations: tuple[str, ...] = ()
    """Where tenants' repositories may be beside their own stores: beginnings of locations; {tenant} stands for the ID
    of the tenant who asks."""
    runner: str = "embedded"
    """`embedded` runs jobs in the server's process, `procrastinate` leaves them to workers."""
    slots: int = 2
    """How many runs go on at once in a server's or worker's care."""
    password_cost: int = 12
    """bcrypt's cost: each step doubles the time of a login."""
    threads: int = 16
    """How much blocking work goes on at once."""
    log_requests: bool = False
    """Whether the log has a line for each request."""
    log_json: bool = False
    """Whether the log is JSON lines."""
    max_body: int = 1 << 20
    """Bytes a JSON body may have. The data plane has limits of its own."""

    @property
    def stores(self) -> Path:
        """Where the data plane keeps what clients send, a folder for each tenant."""
        return self.data / "stores"

    @property
    def caches(self) -> Path:
        """Where the server keeps what it knows of repositories that are far away, a folder for each tenant."""
        return self.data / "caches"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """Keys derived from the server's secret, each for one use."""

    tokens: bytes = field(repr=False)
    sealing: bytes = field(repr=False)


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, such as 127.0.0.1:8420 or [::]:8420. Raises InvalidValue."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535 or (":" in host and not bracketed):
        raise InvalidValue(f"{text!r} is no address to listen on", hint="write HOST:PORT, such as 127.0.0.1:8420")
    return host.strip("[]") or "0.0.0.0", int(port)


def default_database(data: Path) -> str:
    """The database of a server that is told none."""
    return f"sqlite:///{data / 'server.sqlite'}"


def load_server_keys(data: Path, *, make: bool = True) -> ServerKeys:
    """The keys of the server whose data directory this is; made when it has none yet, unless `make` is false.

    Raises BackupForgeError when others may read the secret or it is not one.
    """
    path = data / _KEY_FILE
    if make:
        with suppress(FileExistsError):
            _make_secret(path)
    elif not path.exists():
        raise BackupForgeError(f"there is no {path}", hint="copy it from the server's data folder, and keep it closed")
    if path.stat().st_mode & 0o077:
        raise BackupForgeError(f"others may read {path}", hint=f"chmod 600 {path}")
    secret = path.read_bytes()
    if len(secret) != _KEY_SIZE:
        raise BackupForgeError(f"{path} is not the key of a server: it has {len(secret)} bytes instead of {_KEY_SIZE}")
    return ServerKeys(_derive(secret, b"tokens"), _derive(secret, b"sealing"))


def _make_secret(path: Path) -> None:
    """Write a new secret, whole or not at all. Raises FileExistsError when there is one."""
    if path.exists():
        raise FileExistsError(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_KEY_FILE}.{secrets.token_hex(4)}")
    fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(fd, secrets.token_bytes(_KEY_SIZE))
        os.fsync(fd)
        os.link(unfinished, path)  # unlike a rename it never replaces the secret of a server that was quicker
    finally:
        os.close(fd)
        unfinished.unlink()


def _derive(secret: bytes, use: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"backupforge server " + use).derive(secret)
