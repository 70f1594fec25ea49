"""The real command in a process of its own: `python -m cli`, with a home, a cache and a repository that are a test's.

Whatever the command does, it never shows a traceback: every run is checked for that. Warnings are errors in it, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final

from tests.support.program import PASSWORD, ROOT, Ran

_TIME_LIMIT_S: Final = 120

WITHOUT_PRIVILEGES: Final = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--") if os.geteuid() == 0 else ()
"""In front of a command: permissions count for it. The superuser without capabilities is a user like any other, and
still reaches the interpreter and the test's own folder, wherever they are."""


@dataclass(frozen=True)
class Command:
    """Runs commands. `before` is what stands in front of the interpreter, such as WITHOUT_PRIVILEGES.

    `environment` beats what is set here; a value of None takes a variable away.
    """

    home: Path
    repository: Path
    before: Sequence[str] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)

    def __call__(self, *arguments: str | bytes | Path, status: int = 0, stdin: bytes = b"") -> Ran:
        """Run a command, which must end with `status`."""
        done = subprocess.run(
            self.line(*arguments),
            env=self.variables(),
            cwd=self.home,
            input=stdin,
            capture_output=True,
            timeout=_TIME_LIMIT_S,
        )
        ran = Ran(done.returncode, *(os.fsdecode(stream) for stream in (done.stdout, done.stderr)))
        assert "Traceback" not in ran.err, ran.err
        assert ran.status == status, (arguments, ran)
        return ran

    @contextmanager
    def start(self, *arguments: str | bytes | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Start a command, for a test that does something to it while it runs; it does not outlive the block."""
        with subprocess.Popen(
            self.line(*arguments),
            env=self.variables(),
            cwd=self.home,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def line(self, *arguments: str | bytes | Path) -> list[str | bytes | Path]:
        """The whole command line."""
        return [*self.before, sys.executable, "-W", "error", "-m", "cli", *arguments]

    def variables(self) -> dict[str, str]:
        """The environment of the command, which has nothing of that of the tests but the way to programs."""
        plain: dict[str, str | None] = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "HOME": str(self.home),
            "BACKUPFORGE_REPOSITORY": str(self.repository),
            "BACKUPFORGE_PASSWORD": PASSWORD,
        }
        return {name: value for name, value in {**plain, **self.environment}.items() if value is not None}

    def snapshots(self) -> list[str]:
        """The IDs of all snapshots, oldest first."""
        return [each["id"] for each in self("list", "--json").document]

    def objects(self, kind: str) -> list[Path]:
        """The stored files of a kind: "packs", "index", "snapshots", "keys", "claims"."""
        return sorted(path for path in (self.repository / kind).rglob("*") if path.is_file())


def with_password(folder: Path) -> Command:
    """A command whose environment has a password. There is no repository yet."""
    home = folder / "home"
    home.mkdir()
    return Command(home, folder / "repository")


def without_encryption(folder: Path, *arguments: str) -> Command:
    """A command with an empty repository that is not encrypted, so that no password costs time."""
    command = replace(with_password(folder), environment={"BACKUPFORGE_PASSWORD": None})
    command("init", "--encryption", "none", *arguments)
    return command


def failure(ran: Ran) -> dict[str, Any]:
    """What the one JSON object on stderr says, of a command that failed with --json."""
    found: dict[str, Any] = json.loads(ran.err)
    assert (found["message_type"], found["code"]) == ("exit_error", ran.status), ran
    return found


def wait_until(condition: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    """Wait until something is so that a running command brings about. It may not end before."""
    deadline = monotonic() + _TIME_LIMIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert monotonic() < deadline
        sleep(0.005)
