"""Hooks: commands of the user's that run before and after a routine, or when it has failed.

They are processes in a group of their own, so that one that has to go takes its children with it. What they print goes
where the caller says; they read nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.units import format_duration

HookKind: TypeAlias = Literal["before", "after", "failure"]

HookCommand: TypeAlias = str | tuple[str, ...]
"""A line for the shell, or a program and its arguments."""

_GRACE_S: Final = 10.0
"""How long a hook that was asked to end may take until it is killed."""

_LONGEST_VALUE: Final = 8192
"""Characters of a variable. Linux refuses to start a program with one of 128 KiB (execve(2))."""

_SECRETS: Final = ("BACKUPFORGE_PASSWORD", "BACKUPFORGE_FROM_PASSWORD")


class HookFailed(BackupForgeError):
    """A hook could not be started, ended with another status than 0, or took too long."""

    code = "hook-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The commands, each list in its order.

    `environment` is what they get beside our own variables; no password is passed on. `output` is the file descriptor
    for what they print; each may take `timeout_s` seconds.
    """

    before: tuple[HookCommand, ...] = ()
    after: tuple[HookCommand, ...] = ()
    failure: tuple[HookCommand, ...] = ()
    environment: Mapping[str, str]
    timeout_s: float
    output: int

    def of(self, kind: HookKind) -> tuple[HookCommand, ...]:
        """The commands of one kind."""
        return {"before": self.before, "after": self.after, "failure": self.failure}[kind]

    def run(self, kind: HookKind, variables: Mapping[str, str]) -> None:
        """Run the commands of a kind, one after the other, until one fails. Raises HookFailed.

        `variables` are told to them as BACKUPFORGE_<NAME>. Whatever else is raised meanwhile, such as Interrupted by a
        signal handler, ends the hook that runs.
        """
        ours = {f"BACKUPFORGE_{name}": _as_value(value) for name, value in variables.items()}
        environment = {name: value for name, value in self.environment.items() if name not in _SECRETS} | ours
        for number, command in enumerate(self.of(kind), 1):
            _run(command, f"{kind} hook {number} ({_program(command)})", environment, self.timeout_s, self.output)


def _run(command: HookCommand, name: str, environment: Mapping[str, str], timeout_s: float, output: int) -> None:
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        raise HookFailed(f"cannot run {name}: {getattr(error, 'strerror', None) or error}") from error
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise HookFailed(f"{name} took longer than {format_duration(timeout_s)} and was ended") from None
    except BaseException:
        _end(process)
        raise
    if status < 0:
        raise HookFailed(f"{name} was ended by signal {-status}")
    if status:
        raise HookFailed(f"{name} failed with exit status {status}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole group, by force where asking is not enough.

    The group keeps its number while anybody is in it, so this reaches nobody else.
    """
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    except ProcessLookupError:
        process.wait()


def _program(command: HookCommand) -> str:
    """What stands first: the rest may hold what is not for a log."""
    words = command.split() if isinstance(command, str) else command
    return os.path.basename(words[0]) if words else ""


def _as_value(text: str) -> str:
    """Text as the value of a variable, which cannot hold a NUL and should not be long."""
    return text.replace("\0", " ")[:_LONGEST_VALUE]
