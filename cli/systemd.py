"""Schedules as systemd timers: a service and a timer for each profile, of the system for root, else of the user.

The service hides no part of the file system, as all of it may have to be backed up, and mounts by hooks must be seen.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from bfrepo.core.errors import BackupForgeError
from cli.exit_codes import MEANINGS
from cli.schedules import Entry, Job, require_success, run_program

SYSTEM_UNITS: Final = Path("/etc/systemd/system")

_MARK: Final = "# Written by 'backupforge schedule'; 'backupforge schedule remove' takes it away again."

_PREFIX: Final = "backupforge-"

_SERVICE: Final = """\
{mark}
[Unit]
Description=BackupForge, profile {profile}
Documentation=man:backupforge-run(1)
{network}
[Service]
Type=oneshot
ExecStart={command}
{variables}
# On SIGTERM the run ends well and its failure hooks follow; that may take a while.
KillMode=mixed
TimeoutStopSec=5min

# Backups give way to whatever else the machine does.
Nice=10
CPUSchedulingPolicy=batch
IOSchedulingClass=best-effort
IOSchedulingPriority=7

# Nothing that hides files: they are to be backed up.
NoNewPrivileges=true
LockPersonality=true
RestrictRealtime=true
SystemCallArchitectures=native
UMask=0077
"""

_NETWORK: Final = "Wants=network-online.target\nAfter=network-online.target\n"

_TIMER: Final = """\
{mark}
[Unit]
Description=BackupForge, when to run profile {profile}

[Timer]
OnCalendar={calendar}
# A run that was missed, as the machine was off, is made up for.
Persistent=true
# Not all machines at the same second.
RandomizedDelaySec=5min

[Install]
WantedBy=timers.target
"""

_CALENDAR: Final = re.compile(r"^OnCalendar=(.*)$", re.MULTILINE)

_UNKNOWN: Final = ("", "n/a", "[not set]")


class SystemdSchedule:
    """Timers of systemd (systemd.timer(5)). See cli.schedules.Schedule."""

    def __init__(self, directory: Path, *, of_user: bool) -> None:
        self._directory = directory
        self._of_user = of_user

    def preview(self, job: Job) -> list[tuple[str, str]]:
        """The two unit files."""
        command = " ".join(_quoted(word).replace("$", "$$") for word in job.command)
        variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in job.variables.items())
        service = _SERVICE.format(
            mark=_MARK,
            profile=job.profile,
            network="" if self._of_user else _NETWORK,
            command=command,
            variables=variables,
        )
        timer = _TIMER.format(mark=_MARK, profile=job.profile, calendar=_escaped(job.calendar))
        paths = self._paths(job.profile)
        return [(str(path), text) for path, text in zip(paths, (service, timer), strict=True)]

    def install(self, job: Job) -> list[str]:
        """Write the units, and start the timer."""
        units = [(Path(path), text) for path, text in self.preview(job)]
        for path, _ in units:
            _refuse_foreign(path)
        for path, text in units:
            _write(path, text)
        self._systemctl("daemon-reload")
        self._systemctl("enable", units[1][0].name)
        self._systemctl("restart", units[1][0].name)  # and not just start: one that was there gets its new calendar
        return ["timers of users run while they are logged in; for always: loginctl enable-linger"] * self._of_user

    def remove(self, profile: str) -> list[str]:
        """Stop the timer, and remove both units."""
        ours = [path for path in self._paths(profile) if path.exists()]
        for path in ours:
            _refuse_foreign(path)
        if ours:
            timer = self._paths(profile)[1]
            if timer in ours:
                self._systemctl("disable", "--now", timer.name)
            for path in ours:
                _unlink(path)
            self._systemctl("daemon-reload")
        return [str(path) for path in ours]

    def entries(self) -> list[Entry]:
        """By the unit files; what systemd itself knows is added where it answers."""
        found = []
        for path in sorted(self._directory.glob(f"{_PREFIX}*.timer")):
            text = _read(path)
            if text.startswith(_MARK):
                found.append(self._entry(path, text))
        return found

    def _entry(self, path: Path, text: str) -> Entry:
        calendar = _CALENDAR.search(text)
        timer = self._properties(path.name)
        service = self._properties(path.with_suffix(".service").name)
        return Entry(
            profile=path.stem.removeprefix(_PREFIX),
            calendar=calendar[1].replace("%%", "%") if calendar else "",
            next_run=_known(timer.get("NextElapseUSecRealtime")),
            last_run=_known(service.get("ExecMainStartTimestamp")) or _known(timer.get("LastTriggerUSec")),
            last_result=_result(service),
        )

    def _paths(self, profile: str) -> tuple[Path, Path]:
        name = self._directory / f"{_PREFIX}{profile}"
        return Path(f"{name}.service"), Path(f"{name}.timer")

    def _systemctl(self, *arguments: str) -> None:
        require_success(
            run_program(*self._command(), *arguments), hint="the unit files are written: see 'systemctl status'"
        )

    def _properties(self, unit: str) -> Mapping[str, str]:
        """What systemd says about a unit; nothing when it does not answer."""
        names = "NextElapseUSecRealtime,LastTriggerUSec,ActiveState,Result,ExecMainStatus,ExecMainStartTimestamp"
        done = run_program(*self._command(), "show", unit, f"--property={names}")
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    def _command(self) -> tuple[str, ...]:
        return ("systemctl", "--user") if self._of_user else ("systemctl",)


def _result(service: Mapping[str, str]) -> str | None:
    """How the last run ended, in a few words."""
    if service.get("ActiveState") == "activating":
        return "running"
    if not _known(service.get("ExecMainStartTimestamp")):
        return None
    status = service.get("ExecMainStatus", "")
    if service.get("Result") in ("success", "exit-code") and status.isdecimal() and int(status) in MEANINGS:
        return MEANINGS[int(status)]
    return service.get("Result")


def _known(value: str | None) -> str | None:
    return None if value is None or value in _UNKNOWN else value


def _escaped(text: str) -> str:
    """Without specifiers (systemd.unit(5))."""
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word of a setting (systemd.syntax(7))."""
    escaped = _escaped(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return escaped if re.fullmatch(r"[\w@%+=:,./-]+", text, re.ASCII) else f'"{escaped}"'


def _refuse_foreign(path: Path) -> None:
    if path.exists() and not _read(path).startswith(_MARK):
        raise BackupForgeError(
            f"{path} was not written by 'backupforge schedule', and is left alone",
            hint="rename it, or the profile",
        )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BackupForgeError(f"cannot read {path}: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    """The whole file or nothing."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise BackupForgeError(f"cannot write {path}: {error.strerror}") from error


def _unlink(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise BackupForgeError(f"cannot remove {path}: {error.strerror}") from error
