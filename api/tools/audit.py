"""The audit log: a JSON line before each call and one behind it, so that a call which never ends is in it too.

    {"time": ..., "event": "begin", "call": 7, "process": 4711, "client": "...", "method": "tools/call",
     "name": "forget_snapshots", "arguments": {"snapshots": ["latest"]}}
    {"time": ..., "event": "end", "call": 7, "process": 4711, "outcome": "done", "duration_s": 0.1}

What is read out of a repository is never in it, and of arguments only those that a tool knows: whoever sends a password
along by mistake finds its name here and not the password. A log that cannot be written refuses the call.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from api.tools.bounds import cut
from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError

_MOST_TEXT: Final = 256
_MOST_ITEMS: Final = 100


class AuditFailed(BackupForgeError):
    """What cannot be written down is not done."""

    code = "audit-failed"


class AuditLog:
    """Adds lines to a file that only its owner may read. Thread-safe, and for any number of processes at a time."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._calls = 0

    def begin(
        self, client: str, method: str, name: str, arguments: Mapping[str, Any], known: Collection[str]
    ) -> Audited:
        """A call begins. Raises AuditFailed."""
        with self._lock:
            self._calls += 1
            number = self._calls
        told = {cut(key): _bounded(value) if key in known else "(unknown)" for key, value in arguments.items()}
        self._write(
            "begin", number, client=cut(client), method=method, name=cut(name), arguments=told,
        )  # fmt: skip
        return Audited(self, self._clock, number)

    def _write(self, event: str, number: int, **fields: Any) -> None:
        now = self._clock.now().isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "call": number, "process": os.getpid(), **fields}) + "\n"
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, line.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise AuditFailed(
                f"the audit log {self._path} cannot be written ({error.strerror}), so nothing is done"
            ) from error

    def end(self, number: int, outcome: str, detail: str, duration_s: float) -> None:
        """A call has ended. Raises AuditFailed."""
        fields = {"detail": cut(detail, _MOST_TEXT)} if detail else {}
        self._write("end", number, outcome=outcome, duration_s=round(duration_s, 3), **fields)


class Audited:
    """A call that is going on."""

    def __init__(self, log: AuditLog, clock: Clock, number: int) -> None:
        self._log = log
        self._clock = clock
        self._number = number
        self._begun = clock.monotonic()

    def end(self, outcome: str, detail: str = "") -> None:
        """It has ended: "done", "failed", "asked" (somebody has to confirm it first) or "cancelled"."""
        self._log.end(self._number, outcome, detail, self._clock.monotonic() - self._begun)


def _bounded(value: Any) -> Any:
    """A value of an argument, cut down; what no tool takes is named by its type."""
    if isinstance(value, str):
        return cut(value, _MOST_TEXT)
    if isinstance(value, list):
        return [_bounded(each) for each in value[:_MOST_ITEMS] if not isinstance(each, list | dict)]
    return value if value is None or isinstance(value, bool | int | float) else f"({type(value).__name__})"
