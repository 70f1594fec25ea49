"""The API of Proxmox VE, by proxmoxer: with a token, over TLS that is verified, and answers that are checked.

Facts: the API viewer of Proxmox VE 9 (pve-docs, api-viewer/apidata.js) and the behaviour of pve-http-server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests
from proxmoxer import ProxmoxAPI
from proxmoxer.core import AuthenticationError, ResourceException

from bfrepo.core.errors import BackupForgeError, InvalidValue

T = TypeVar("T")

_PORT: Final = 8006
_TIMEOUT_S: Final = 60
"""proxmoxer's own 5 s are too few for a node that asks another one, or a cluster that is busy."""

_PAUSES_S: Final = (1.0, 3.0)
"""What only asks is asked again after these, when the connection fails or a node does not reach another one."""

_UNREACHABLE: Final = (595, 597, 598, 599)
_TOKEN: Final = re.compile(r"(?P<user>[^\s:/!=]+@[^\s:/!=]+)!(?P<name>[A-Za-z][A-Za-z0-9._-]+)=(?P<secret>\S+)")


class ProxmoxError(BackupForgeError):
    """What the API of Proxmox VE did not do."""

    code = "proxmox-failed"


class ProxmoxDenied(ProxmoxError):
    """The token is wrong, or has no right to do it."""

    code = "proxmox-denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiSettings:
    """Where the API is and who we are there: `token` is "USER@REALM!NAME=SECRET". `ca_file` are certificates to trust
    in place of the system's, such as the cluster's /etc/pve/pve-root-ca.pem.
    """

    host: str
    port: int = _PORT
    token: str = field(repr=False)
    ca_file: str | None = None


def parse_api(place: str) -> tuple[str, int]:
    """The host and port of "pve.example.com" or "https://pve.example.com:8006". Raises InvalidValue."""
    parts = urlsplit(place if "://" in place else f"https://{place}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme != "https" or not host or parts.path not in ("", "/") or parts.query or parts.username:
        raise InvalidValue(f"{place!r} is not where an API is", hint="write https://pve.example.com:8006")
    return host, port or _PORT


class ProxmoxApi:
    """The API, as one user of it. Used by one thread at a time."""

    def __init__(self, settings: ApiSettings) -> None:
        """Asks nothing yet. Raises InvalidValue for a token that is none."""
        match = _TOKEN.fullmatch(settings.token)
        if match is None:
            raise InvalidValue("the token of the Proxmox API does not look like USER@REALM!NAME=SECRET")
        self.host: Final = settings.host
        self._secret = match["secret"]
        self._api = ProxmoxAPI(
            settings.host,
            port=settings.port,
            user=match["user"],
            token_name=match["name"],
            token_value=self._secret,
            verify_ssl=settings.ca_file or True,
            timeout=_TIMEOUT_S,
        )

    def get(self, shape: type[T], *path: str, **params: str | int) -> T:
        """Ask for something, which has to have this shape. Raises ProxmoxError."""
        for pause in (*_PAUSES_S, None):
            try:
                return self._checked(shape, path, self._call("get", path, params))
            except _Unreachable as error:
                if pause is None:
                    raise ProxmoxError(str(error), hint=error.hint) from error
                time.sleep(pause)
        raise AssertionError

    def post(self, *path: str, **params: str | int) -> str:
        """Have something done; what comes back, mostly the UPID of a task. Raises ProxmoxError."""
        return self._checked(str, path, self._call("post", path, params))

    def _call(self, method: str, path: Sequence[str], params: dict[str, str | int]) -> Any:
        resource = self._api
        for name in path:
            resource = resource(name)
        where = f"{self.host}: /{'/'.join(path)}"
        try:
            return getattr(resource, method)(**params)
        except ResourceException as error:
            raise self._refusal(where, error) from None
        except AuthenticationError as error:
            raise ProxmoxDenied(f"{where}: {self._safe(str(error))}") from None
        except requests.exceptions.SSLError as error:
            raise ProxmoxError(
                f"{self.host} cannot be trusted: {self._safe(_innermost(error))}",
                hint="give the cluster's certificate, /etc/pve/pve-root-ca.pem, as the file of CA certificates",
            ) from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise _Unreachable(f"{self.host} does not answer: {self._safe(_innermost(error))}") from None
        except ValueError:
            raise ProxmoxError(f"{where}: the answer is no JSON") from None

    def _refusal(self, where: str, error: ResourceException) -> BackupForgeError:
        details = "; ".join(f"{key}: {value}" for key, value in dict(error.errors or {}).items())
        said = " ".join(f"{error.content or error.status_message} {details}".split())
        text = f"{where}: {self._safe(said)} ({error.status_code})"
        if error.status_code in _UNREACHABLE:
            return _Unreachable(text)
        if error.status_code in (401, 403):
            return ProxmoxDenied(text, hint="is the token right, and has it the role that the task needs?")
        return ProxmoxError(text)

    def _checked(self, shape: type[T], path: Sequence[str], answer: Any) -> T:
        try:
            return msgspec.convert(answer, type=shape, strict=False)
        except msgspec.ValidationError as error:
            raise ProxmoxError(f"{self.host}: /{'/'.join(path)}: an answer that makes no sense: {error}") from error

    def _safe(self, text: str) -> str:
        """Words of a server, on one line and without the secret."""
        return "".join(each for each in text.replace(self._secret, "...") if each.isprintable())[:300].strip()


class _Unreachable(ProxmoxError):
    """It may be different in a moment."""


def _innermost(error: BaseException) -> str:
    """What really went wrong, of errors that are packed in each other."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return str(reason or error)


# --- tasks

_UPID: Final = re.compile(
    r"UPID:(?P<node>[a-zA-Z0-9][a-zA-Z0-9-]*):[0-9A-F]{8}:[0-9A-F]{8,9}:[0-9A-F]{8}:(?P<kind>[^:\s/]+):[^:\s/]*:[^:\s/]+:"
)
_FIRST_WAIT_S: Final = 0.2
_LONGEST_WAIT_S: Final = 5.0
_LINES: Final = 500


class _Status(msgspec.Struct):
    status: str
    exitstatus: str = ""


class _LogLine(msgspec.Struct):
    n: int
    t: str = ""


class TaskFailed(ProxmoxError):
    """A task of Proxmox VE ended with an error."""

    code = "proxmox-task-failed"


def wait_for_task(api: ProxmoxApi, upid: str, tell: Callable[[str], None], cancelled: Callable[[], bool]) -> str:
    """Wait until a task has ended; gives its exit status: "OK", or "WARNINGS: n".

    `tell` is told each line of its log, once. When `cancelled` says so, waiting ends and the task goes on. Raises
    TaskFailed with what the task says, and ProxmoxError.
    """
    match = _UPID.fullmatch(upid)
    if match is None:
        raise ProxmoxError(f"{api.host}: {upid[:80]!r} is no task")
    path = ("nodes", match["node"], "tasks", upid)
    seen, pause = 0, _FIRST_WAIT_S
    while True:
        status = api.get(_Status, *path, "status")
        seen = _tell_log(api, path, seen, tell)
        if status.status == "stopped":
            break
        if cancelled():
            raise TaskFailed(f"nobody waits for the task {match['kind']} any more; it goes on", hint=upid)
        time.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_WAIT_S)
    if status.exitstatus != "OK" and not status.exitstatus.startswith("WARNINGS: "):
        why = "".join(each for each in status.exitstatus if each.isprintable())[:300]
        raise TaskFailed(f"the task {match['kind']} on {match['node']} failed: {why or 'nobody knows why'}", hint=upid)
    return status.exitstatus


def _tell_log(api: ProxmoxApi, path: Sequence[str], seen: int, tell: Callable[[str], None]) -> int:
    """Tell the lines behind the first `seen`; how many there are by now."""
    while True:
        lines = api.get(list[_LogLine], *path, "log", start=seen, limit=_LINES)
        new = [line for line in lines if line.n > seen and (line.n, line.t) != (1, "no content")]
        for line in new:
            tell(line.t)
        seen += len(new)
        if len(lines) < _LINES:
            return seen
