"""From what people write after `--repository` to a backend.

    /srv/backup, ./backup                                   a local directory
    s3:https://host[:port]/bucket[/prefix]                  S3 or compatible; without https:// as in
    s3:s3.region.amazonaws.com/bucket[/prefix]              this line, TLS is meant
    sftp:[user@]host[:port]:/path                           like scp; a path without a leading slash starts
    sftp://[user@]host[:port]//path                         at the user's home, as does a single slash in a URL
    rest:http[s]://[user:password@]host[:port]/path/        a BackupForge or restic REST server
    memory:                                                 nowhere, for tests

Only REST locations may hold a password. It is kept apart from the rest, and neither `shown` nor a message nor a `repr`
ever tells it. To that end an "@" behind the host, which may be the end of a password that was not percent-encoded, is
refused rather than taken for a part of the path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from bfrepo.core.clock import Clock
from bfrepo.core.errors import InvalidValue
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.layout import USUAL
from bfrepo.storage.limit import LimitedBackend, Limits
from bfrepo.storage.local import LocalBackend
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.options import StorageOptions
from bfrepo.storage.places import (
    LocalLocation,
    Location,
    MemoryLocation,
    RestLocation,
    S3Location,
    SftpLocation,
    bracketed,
)
from bfrepo.storage.retry import RetryingBackend, RetryPolicy

__all__ = [
    "LocalLocation",
    "Location",
    "MemoryLocation",
    "RestLocation",
    "S3Location",
    "SftpLocation",
    "open_backend",
    "open_bare_backend",
    "parse_location",
]

_NO_OPTIONS: Final = StorageOptions()
_NO_LIMITS: Final = Limits(None, None)
_USUAL_RETRIES: Final = RetryPolicy()

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)
_SCP_FORM = re.compile(
    r"(?:(?P<user>[^/:]+)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[^/:@\[\]]+)(?::(?P<port>\d+))?:(?P<path>[^@]+)"
)


def parse_location(text: str) -> Location:
    """The location that `text` means. Nothing is opened or looked at. Raises InvalidValue for what does not parse."""
    if not text or any(ord(character) < 32 for character in text):
        raise InvalidValue("a repository location is a path or a URL, and neither empty nor with control characters")
    match = _SCHEME.fullmatch(text)
    if match is None:
        return LocalLocation(Path(text))
    scheme, rest = match.groups()
    match scheme:
        case "s3":
            return _parse_s3(text, rest)
        case "sftp":
            return _parse_sftp_url(text) if rest.startswith("//") else _parse_scp_form(text, rest)
        case "rest":
            return _parse_rest(text, rest)
        case "memory" if not rest:
            return MemoryLocation()
        case _:
            raise _invalid(text, "URLs begin with s3:, sftp: or rest:; a path with a colon begins with ./")


def open_backend(
    location: Location,
    *,
    options: StorageOptions = _NO_OPTIONS,
    clock: Clock | None = None,
    limits: Limits = _NO_LIMITS,
    retries: RetryPolicy = _USUAL_RETRIES,
    folders: Mapping[ObjectKind, str] = USUAL,
) -> Backend:
    """A backend for the place, which need not hold a repository yet. `memory:` is a new, empty store each time.

    `folders` names directories of kinds that are not the usual ones, for a repository that is only read.

    From the inside to the outside: the storage itself; the limits, because every try takes bandwidth; the retries,
    because what is tried again must be paid for again, and no wait for bandwidth may be taken for a storage that does
    not answer. Outermost comes the cache, whose hits neither wait nor fail. It belongs to a repository, whose ID is in
    the config, and so it is `open_repository` that adds it.

    Local storage is not retried: a disk that fails goes on failing, and a volume that is not mounted needs somebody to
    mount it. Raises UsageError where the support for this kind of storage is not installed.
    """
    backend = open_bare_backend(location, options=options, clock=clock, folders=folders)
    if limits.up is not None or limits.down is not None:
        backend = LimitedBackend(backend, limits)
    return RetryingBackend(backend, retries) if location.remote else backend


def open_bare_backend(
    location: Location,
    *,
    options: StorageOptions = _NO_OPTIONS,
    clock: Clock | None = None,
    folders: Mapping[ObjectKind, str] = USUAL,
) -> Backend:
    """The storage itself, whose errors come as they are. What each kind needs is imported here, when it is needed."""
    match location:
        case LocalLocation(path):
            return LocalBackend(path, clock=clock, folders=folders)
        case MemoryLocation():
            return MemoryBackend()
        case S3Location():
            from bfrepo.storage.s3 import S3Backend  # noqa: PLC0415 - its library takes a third of a second

            return S3Backend(location, options.s3, folders=folders)
        case SftpLocation():
            from bfrepo.storage.sftp import SftpBackend  # noqa: PLC0415 - as above

            return SftpBackend(location, options.sftp, folders=folders)
        case RestLocation():
            from bfrepo.storage.rest import RestBackend  # noqa: PLC0415 - as above

            return RestBackend(location, options.rest)


def _parse_s3(text: str, rest: str) -> S3Location:
    hint = "write s3:https://host/bucket/prefix"
    parts = _split_url(text, rest if "://" in rest else f"https://{rest}", hint)
    if parts.scheme not in ("http", "https"):
        raise _invalid(text, hint)
    if parts.username is not None or parts.password is not None:
        raise _invalid(text, "give the access keys in the environment or in AWS's own files, never in the location")
    bucket, _, prefix = parts.path.strip("/").partition("/")
    if not bucket:
        raise _invalid(text, hint)
    return S3Location(f"{parts.scheme}://{_host_and_port(parts)}", bucket, prefix.strip("/"))


def _parse_sftp_url(text: str) -> SftpLocation:
    hint = "write sftp://user@host:port//path"
    parts = _split_url(text, text, hint)
    if parts.password is not None:
        raise _no_ssh_password(text)
    path = unquote(parts.path)[1:]
    if not path:
        raise _invalid(text, hint)
    return SftpLocation(unquote(parts.username) if parts.username else None, str(parts.hostname), parts.port, path)


def _parse_scp_form(text: str, rest: str) -> SftpLocation:
    match = _SCP_FORM.fullmatch(rest)
    if match is None:
        if ":" in rest.partition("@")[0] and "@" in rest:
            raise _no_ssh_password(text)
        raise _invalid(text, "write sftp:user@host:/path or sftp://user@host:port//path")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise _invalid(text, "a port is a number from 1 to 65535")
    return SftpLocation(match["user"], match["host"].strip("[]"), port, match["path"])


def _parse_rest(text: str, rest: str) -> RestLocation:
    hint = "write rest:https://user:password@host:port/path/"
    parts = _split_url(text, rest, hint)
    if parts.scheme not in ("http", "https"):
        raise _invalid(text, hint)
    path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
    return RestLocation(
        url=f"{parts.scheme}://{_host_and_port(parts)}{path}",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
    )


def _split_url(text: str, url: str, hint: str) -> SplitResult:
    """The parts of `url`, with a host and a port that can be one, and nothing behind the path."""
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or the brackets of an IPv6 address do not match
        raise _invalid(text, hint) from None
    if "@" in parts.path + parts.query + parts.fragment:
        raise _invalid(text, 'in a user name, a password or a path write %40 for "@", %2F for "/", %3F for "?"')
    if not usable or parts.query or parts.fragment:
        raise _invalid(text, hint)
    return parts


def _host_and_port(parts: SplitResult) -> str:
    port = f":{parts.port}" if parts.port is not None else ""
    return f"{bracketed(str(parts.hostname))}{port}"


def _no_ssh_password(text: str) -> InvalidValue:
    return _invalid(text, "a password cannot be part of an SFTP location: use an SSH key or agent")


def _invalid(text: str, hint: str) -> InvalidValue:
    return InvalidValue(f"{_without_secrets(text)} is not a repository location", hint=hint)


def _without_secrets(text: str) -> str:
    """`text` without anything that may be a user name or password: whatever stands before its last "@"."""
    before, at, after = text.rpartition("@")
    return f"{before.partition(':')[0]}:***@{after}" if at else text
