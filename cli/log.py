"""The log file: what is said to people, with the time, for whoever asks later what happened."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Final

from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError

_STYLES: Final = re.compile(r"\x1b\[[0-9;]*m")


class LogFile:
    """Appends whole lines to a file that only its owner can read. Callers take turns."""

    def __init__(self, path: str, clock: Clock, *, as_json: bool) -> None:
        """Raises BackupForgeError when the file cannot be opened."""
        self._clock = clock
        self._as_json = as_json
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BackupForgeError(f"cannot open the log file {path}: {error.strerror}") from error

    def write(self, level: str, message: str, fields: Mapping[str, Any] | None = None) -> None:
        """One line. Raises BackupForgeError when it cannot be written."""
        time = self._clock.now().isoformat(timespec="seconds")
        message = _STYLES.sub("", message)
        if self._as_json:
            entry = {"time": time, "level": level, "message": message, **(fields or {})}
            line = json.dumps(entry, separators=(",", ":"))
        else:
            line = f"{time} {level} {message}" if message else f"{time} {level} {json.dumps(fields)}"
        try:
            os.write(self._fd, f"{line}\n".encode(errors="backslashreplace"))
        except OSError as error:
            raise BackupForgeError(f"cannot write to the log file: {error.strerror}") from error
