"""`ssh://[user@]host[:port]/path`: what is meant by it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from bfrepo.core.errors import InvalidValue, UsageError
from bfrepo.sources.paths import absolute_path

_SCHEME: Final = "ssh://"


@dataclass(frozen=True, slots=True)
class RemoteHost:
    """A host, and who we are there; None where the configuration of SSH decides."""

    name: str
    user: str | None = None
    port: int | None = None

    @property
    def shown(self) -> str:
        """As it was written."""
        user = f"{self.user}@" if self.user else ""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return f"{_SCHEME}{user}{name}{f':{self.port}' if self.port else ''}"


def is_remote(argument: str) -> bool:
    """Whether something on another host is meant, rather than a file of this name."""
    return argument.startswith(_SCHEME)


def parse_remote(argument: str) -> tuple[RemoteHost, bytes]:
    """The host and the path, which is empty where there is none. Raises InvalidValue.

    A percent sign and two hexadecimal digits stand for a byte, as in any URL.
    """
    hint = "write ssh://user@host:port/path"
    try:
        parts = urlsplit(os.fsencode(argument).decode("latin-1"))
        name, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidValue(f"{argument!r} is not a place on a host", hint=hint) from None
    if not name or parts.query or parts.fragment or "\n" in argument:
        why = "write %3F for a question mark and %23 for a number sign" if parts.query or parts.fragment else hint
        raise InvalidValue(f"{argument!r} is not a place on a host", hint=why)
    if parts.password is not None:
        raise InvalidValue("a password in a location can be read by everybody", hint="use a key, or an agent")
    user = unquote_to_bytes(parts.username).decode(errors="replace") if parts.username else None
    path = unquote_to_bytes(parts.path.encode("latin-1"))
    return RemoteHost(name, user, port), absolute_path(path, b"/") if path else b""


def parse_remotes(arguments: Sequence[str]) -> tuple[RemoteHost, tuple[bytes, ...]]:
    """The one host that all of them are on, and the paths there, tidy and each once.

    Raises UsageError, InvalidValue.
    """
    if not all(map(is_remote, arguments)):
        raise UsageError("a snapshot is of this machine or of another", hint="make one backup of each")
    places = [parse_remote(each) for each in arguments]
    hosts = {host for host, _ in places}
    if len(hosts) > 1:
        raise UsageError("a snapshot is of one host", hint="make one backup of each")
    if not all(path for _, path in places):
        raise UsageError(f"{arguments[0]} names no path", hint=f"write {hosts.pop().shown}/ for everything there")
    return places[0][0], tuple(sorted({path for _, path in places}))
