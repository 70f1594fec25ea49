"""Schedules: what both ways of running profiles at fixed times have in common, and which of them this machine has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from bfrepo.core.errors import BackupForgeError, InvalidValue, UsageError

SYSTEMD_RUNS: Final = Path("/run/systemd/system")
"""There exactly when systemd is the init of this machine (sd_booted(3))."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to run and when. `calendar` is as in systemd.time(7); `variables` are told to the command."""

    profile: str
    calendar: str
    command: tuple[str, ...]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A schedule that is installed. Times are for people to read; None for what is not known."""

    profile: str
    calendar: str
    next_run: str | None = None
    last_run: str | None = None
    last_result: str | None = None


class Schedule(Protocol):
    """A way to run profiles at fixed times. Only what it has written itself is ever changed or removed."""

    def preview(self, job: Job) -> list[tuple[str, str]]:
        """What `install` would write: where, and the text. Raises InvalidValue for a calendar it cannot express."""

    def install(self, job: Job) -> list[str]:
        """Write it, in place of what was there for the same profile; remarks for the user. Raises BackupForgeError."""

    def remove(self, profile: str) -> list[str]:
        """Take away what `install` wrote; where that was, empty when there was nothing. Raises BackupForgeError."""

    def entries(self) -> list[Entry]:
        """All that is installed."""


def require_plain_name(profile: str) -> None:
    """Raise UsageError for a profile's name that cannot be the name of a unit."""
    if not _NAME.fullmatch(profile):
        raise UsageError(
            f"a profile called {profile!r} cannot be scheduled",
            hint="give it a name of letters, digits, '.', '_' and '-'",
        )


def require_calendar(text: str) -> None:
    """Raise InvalidValue for what systemd does not take for a calendar, where it can be asked."""
    if not text.isprintable() or not text.strip():
        raise invalid_calendar(text)
    if shutil.which("systemd-analyze") and run_program("systemd-analyze", "calendar", "--", text).returncode:
        raise invalid_calendar(text)


def invalid_calendar(text: str, why: str = "does not say when to run") -> InvalidValue:
    """The error for a calendar that cannot be used."""
    return InvalidValue(
        f"{text!r} {why}",
        hint="write hourly, daily, weekly, monthly, '02:30', 'Mon..Fri 03:00' or '*-*-01 04:00': see systemd.time(7)",
    )


def own_program() -> tuple[str, ...]:
    """How a scheduler starts this program: by the script beside the interpreter, else as a module."""
    script = Path(sys.executable).with_name("backupforge")
    return (str(script),) if script.exists() else (sys.executable, "-m", "cli")


def run_program(
    *arguments: str, text: str | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises BackupForgeError when it cannot be started; its status is for the caller."""
    try:
        return subprocess.run(
            arguments, input=text, capture_output=True, text=True, errors="replace", env=environment, check=False
        )
    except OSError as error:
        raise BackupForgeError(f"cannot run {arguments[0]}: {error.strerror}") from error


def require_success(done: subprocess.CompletedProcess[str], hint: str | None = None) -> None:
    """Raise BackupForgeError, with what the program said, when it failed."""
    if done.returncode:
        command: Sequence[str] = done.args
        said = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise BackupForgeError(f"{' '.join(command)} failed: {said}", hint=hint)
