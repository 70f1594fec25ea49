"""Schedules as lines of the user's crontab, where there is no systemd.

Each of our lines ends with a mark that names the profile and the calendar. Every other line stays as it is. A crontab
that cannot be read is never written.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError
from cli.crontimes import CronTimes, parse_calendar
from cli.schedules import Entry, Job, require_success, run_program

_MARK: Final = "# backupforge-schedule"

_OURS: Final = re.compile(rf"(?P<times>\S+ \S+ \S+ \S+ \S+) .*{_MARK} (?P<profile>\S+): (?P<calendar>.*)")

_EMPTY: Final = re.compile(r"no crontab|no such file", re.IGNORECASE)
"""What crontabs say of a user who has none: Debian's and Fedora's, and busybox's."""


class CronSchedule:
    """Lines of a crontab (crontab(5)). See cli.schedules.Schedule."""

    def __init__(self, environment: Mapping[str, str], clock: Clock) -> None:
        self._environment = {**environment, "LC_ALL": "C"}
        self._clock = clock

    def preview(self, job: Job) -> list[tuple[str, str]]:
        """The one line."""
        return [("crontab", f"{_line(job)}\n")]

    def install(self, job: Job) -> list[str]:
        """Put the line in place of the one there was for this profile, else at the end."""
        line, lines = _line(job), self._read()
        others = [each for each in lines if _profile_of(each) != job.profile]
        self._write([*others, line])
        return ["cron makes up for no run that was missed while the machine was off"]

    def remove(self, profile: str) -> list[str]:
        """Remove the line."""
        lines = self._read()
        kept = [each for each in lines if _profile_of(each) != profile]
        if len(kept) != len(lines):
            self._write(kept)
        return ["the line from the crontab"] if len(kept) != len(lines) else []

    def entries(self) -> list[Entry]:
        """By our lines. Cron keeps no account of what it ran."""
        now = self._clock.now()
        matches = [match for match in map(_OURS.fullmatch, self._read()) if match is not None]
        return [
            Entry(profile=match["profile"], calendar=match["calendar"], next_run=_next_run(match, now))
            for match in matches
        ]

    def _read(self) -> list[str]:
        """The lines there are. Raises BackupForgeError when that cannot be found out."""
        if shutil.which("crontab") is None:
            raise BackupForgeError(
                "systemd does not run on this machine, and there is no cron",
                hint="install cron, or let a scheduler of your own run 'backupforge run PROFILE'",
            )
        done = run_program("crontab", "-l", environment=self._environment)
        if done.returncode and _EMPTY.search(done.stderr):
            return []
        require_success(done, hint="nothing was changed")
        return done.stdout.splitlines()

    def _write(self, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        require_success(run_program("crontab", "-", text=text, environment=self._environment))


def _line(job: Job) -> str:
    """Runs of cron are quiet, so that it mails only what went wrong."""
    variables = [f"{name}={value}" for name, value in job.variables.items()]
    command = shlex.join(["env", *variables, "nice", "-n", "10", *job.command, "--quiet"])
    if "\n" in command:
        raise BackupForgeError("a crontab cannot hold a command with a line break in it")
    escaped = command.replace("%", "\\%")  # which would be a line break for cron
    return f"{parse_calendar(job.calendar)} {escaped} {_MARK} {job.profile}: {job.calendar}"


def _profile_of(line: str) -> str | None:
    match = _OURS.fullmatch(line)
    return match["profile"] if match else None


def _next_run(match: re.Match[str], now: datetime) -> str | None:
    """When the line runs next, unless somebody has changed its times by hand."""
    times: CronTimes = parse_calendar(match["calendar"])
    when = times.next_after(now) if str(times) == match["times"] else None
    return f"{when:%a %Y-%m-%d %H:%M:%S %Z}" if when else None
