"""Where a password comes from: a file, a command, a variable, or somebody at the terminal.

A password is never an argument, and never part of a message.
"""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
from dataclasses import dataclass, field, replace

from bfrepo.core.errors import BackupForgeError, UsageError

TRIES = 3
"""How often somebody at the terminal may type a wrong password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordSource:
    """At most one of the first three is set; with none the terminal is asked. `option` is how its options begin."""

    file: str | None = None
    command: str | None = None
    value: bytes | None = field(default=None, repr=False)
    option: str = field(default="--password-", compare=False)

    @property
    def given(self) -> bool:
        """Whether there is no need to ask."""
        return bool(self.file or self.command or self.value)

    def read(self, prompt: str) -> bytes:
        """The password. Raises UsageError where there is nobody to ask, BackupForgeError where it cannot be read."""
        if self.value is not None:
            return self.value
        if self.file:
            return _read_file(self.file)
        if self.command:
            return _run_command(self.command)
        return self._ask(prompt)

    def read_new(self, prompt: str) -> bytes:
        """A password that is being chosen: typed twice, and not empty."""
        password = self.read(prompt)
        if not password:
            raise UsageError("an empty password is not allowed")
        if not self.given and self._ask("the same again: ") != password:
            raise UsageError("the two passwords are not the same", hint="run the command again")
        return password

    def _ask(self, prompt: str) -> bytes:
        try:
            os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
        except OSError:
            variable = "BACKUPFORGE_" + self.option.strip("-").replace("-", "_").upper()
            raise UsageError(
                f"no password was given, and there is no terminal to ask for it: {prompt.strip().rstrip(':')}",
                hint=f"use {self.option}file, {self.option}command or the environment variable {variable}",
            ) from None
        return os.fsencode(getpass.getpass(prompt))


def one_of(*levels: PasswordSource, option: str) -> PasswordSource:
    """The first level that says anything. Raises UsageError when it says more than one thing."""
    for level in levels:
        if (level.file is not None) + (level.command is not None) + (level.value is not None) > 1:
            raise UsageError(
                "more than one source of the password was given",
                hint=f"use {option}file, {option}command or a variable for it, only one of them",
            )
        if level.given:
            return replace(level, option=option)
    return PasswordSource(option=option)


def _read_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.readline().rstrip(b"\r\n")
    except OSError as error:
        raise BackupForgeError(f"cannot read the password file {path}: {error.strerror}") from error


def _run_command(line: str) -> bytes:
    """The first line of what the command prints. Its arguments stay out of messages: they may be secret themselves."""
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"the password command does not parse: {error}") from None
    if not argv:
        raise UsageError("the password command is empty")
    try:
        done = subprocess.run(argv, stdout=subprocess.PIPE, check=False)
    except OSError as error:
        raise BackupForgeError(f"cannot run the password command {argv[0]}: {error.strerror}") from None
    if done.returncode != 0:
        raise BackupForgeError(f"the password command {argv[0]} failed with exit status {done.returncode}")
    return done.stdout.partition(b"\n")[0].rstrip(b"\r")
