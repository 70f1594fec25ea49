"""What a REST server's answers and failures mean, in our errors: what may be tried again, and what to do."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from urllib3.exceptions import ConnectTimeoutError, NameResolutionError
from urllib3.exceptions import TimeoutError as AnyTimeoutError

from bfrepo.core.errors import InvalidValue, StorageDenied, StorageError, StorageFull

_CERTIFICATE_WANTED: Final = ("CERTIFICATE_REQUIRED", "ALERT_BAD_CERTIFICATE", "ALERT_UNKNOWN_CA", "HANDSHAKE_FAILURE")
_LONGEST_WAIT_S: Final = 3600

_DENIED: Final[Mapping[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "give user and password in the location, or in BACKUPFORGE_REST_USERNAME and "
    "BACKUPFORGE_REST_PASSWORD; check both, and that this user may use this path",
    HTTPStatus.FORBIDDEN: "an append-only server lets nobody delete anything but claims: run forget and prune where "
    "it is not; else check what this user may do",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "allow larger requests in the server, or in the proxy in front of it (nginx: "
    "client_max_body_size); a repository made with a smaller --pack-size sends smaller ones",
}
_FAILED: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: "rest-server says this when it checks uploads: start it with --no-verify-upload",
    HTTPStatus.NOT_FOUND: "check the path in the location: rest-server takes two folders at most (/user/repository/)",
    HTTPStatus.METHOD_NOT_ALLOWED: "check the location: this is no server for repositories, or another path of it",
}


def refused(subject: str, shown: str, status: int, headers: Mapping[str, str]) -> StorageError:
    """The error for an answer that is not the one that was asked for."""
    message = f"{subject} in {shown}: the server answers {_named(status)}"
    if status in _DENIED:
        return StorageDenied(message, hint=_DENIED[status])
    if status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageFull(message, hint="make room on the server, or raise the quota, and run it again")
    error = StorageError(message, hint=_FAILED.get(status))
    error.retry_after_s = _seconds(headers.get("Retry-After", ""))
    return error


def redirected(shown: str, target: str | None) -> InvalidValue:
    """The error for a redirect. Following it would carry the password to whoever it names."""
    parts = urlsplit(target or "")
    place = f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another place"
    return InvalidValue(
        f"{shown}: the server redirects to {place}",
        hint="redirects are not followed: give the location where the repository is",
    )


def broken(subject: str, shown: str, error: Exception, *, stuck_after_s: float) -> StorageError:
    """The error for a request that got no answer, or not the whole of it."""
    message = f"{subject} in {shown}: "
    tls = _cause(error, ssl.SSLError)
    if isinstance(tls, ssl.SSLCertVerificationError):
        return StorageDenied(
            f"{message}the server's certificate is not trusted: {tls.verify_message}",
            hint="if it is the right server, name its authority: -o rest.ca-file=FILE",
        )
    if isinstance(tls, ssl.SSLError) and any(word in str(tls.reason) for word in _CERTIFICATE_WANTED):
        return StorageDenied(
            f"{message}the server does not accept our certificate, or wants one",
            hint="name a PEM file with certificate and key: -o rest.client-certificate=FILE",
        )
    return StorageError(message + _reason(error, tls, stuck_after_s))


def _reason(error: Exception, tls: BaseException | None, stuck_after_s: float) -> str:
    if isinstance(error, NameResolutionError):
        return "the server's name is not known"
    if isinstance(tls, ssl.SSLError):
        return f"TLS failed: {tls.reason or tls.strerror}"
    system = _cause(error, OSError)
    if isinstance(system, OSError) and system.strerror:
        return f"{system.strerror[:1].lower()}{system.strerror[1:]}"
    if isinstance(error, ConnectTimeoutError):
        return "the server cannot be reached"
    if isinstance(error, (AnyTimeoutError, TimeoutError)) or isinstance(system, TimeoutError):
        return f"the server was silent for {stuck_after_s:g} s"
    return "the connection broke off"


def _cause(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    """The first of `kind` among an error, what it was made from and what it tells."""
    seen: list[BaseException] = []
    left: list[object] = [error]
    while left:
        each = left.pop(0)
        if not isinstance(each, BaseException) or each in seen:
            continue
        if isinstance(each, kind):
            return each
        seen.append(each)
        left += [each.__cause__, each.__context__, *each.args]
    return None


def _named(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _seconds(text: str) -> float | None:
    """What `Retry-After` says, where it says it in seconds."""
    return min(int(text), _LONGEST_WAIT_S) if text.isdecimal() and len(text) < 10 else None
