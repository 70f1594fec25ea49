"""Mounts of snapshots by the real command, in a process of its own, that end with the test however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from typing import Final, TypeAlias

import pytest

from mount.mountpoint import find_mount
from tests.support.command import Command

_READY_WITHIN_S: Final = 120
_ENDS_WITHIN_S: Final = 60

DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "TERM", "--")
"""In front of a command: should the tests be killed, it gets a SIGTERM."""


@dataclass(frozen=True)
class Mounted:
    """A mount that is there. `top` is what its files are below."""

    command: Command
    top: Path
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        """What the mount has written to stderr until now."""
        return self.log.read_text()

    def at(self, source: Path) -> Path:
        """Where the newest snapshot has what was backed up from a path."""
        return self.top / "latest" / source.relative_to("/")

    def unmount(self) -> None:
        """End it as people do, and see it end well."""
        self.command("umount", self.top)
        assert self.ends() == 0, self.said()

    def signal(self, number: signal.Signals) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.ends()

    def ends(self) -> int:
        """The exit status, in time."""
        return self.process.wait(_ENDS_WITHIN_S)

    def peak_bytes(self) -> int:
        """The most memory that the process has had."""
        return self._status("VmHWM")

    def resident_bytes(self) -> int:
        """The memory that the process has now, without what is in files."""
        return self._status("RssAnon")

    def _status(self, field: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


Mount: TypeAlias = Callable[..., Mounted]
"""Mounts, with the arguments of `mounting` from the third on. All ends with the test."""


def skip_without_fuse() -> None:
    """Skips where nothing can be mounted."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("this system has no /dev/fuse for us")
    if shutil.which("fusermount3") is None:
        pytest.skip("there is no fusermount3")


@contextmanager
def mounting(
    command: Command, folder: Path, *arguments: str, before: Sequence[str] = DIES_WITH_US
) -> Iterator[Mounted]:
    """Mount below a folder; what is left of it at the end is taken away."""
    top, log = folder / "mnt", folder / "mount.log"
    top.mkdir(exist_ok=True)
    ours = replace(command, before=(*command.before, *before))
    with log.open("wb") as stream, ours.start("mount", top, *arguments, stdout=stream, stderr=stream) as process:
        try:
            wait_for_mount(top, lambda: process.poll() is None or not log.read_text())
            yield Mounted(command, top, process, log)
        finally:
            take_away(top, process)
    assert "Traceback" not in log.read_text(), log.read_text()


def wait_for_mount(top: Path, running: Callable[[], bool]) -> None:
    """Returns when there is a mount that answers."""
    deadline = monotonic() + _READY_WITHIN_S
    while find_mount(bytes(top)) is None:
        assert running(), (top.parent / "mount.log").read_text()
        assert monotonic() < deadline
        sleep(0.01)
    os.listdir(top)


def take_away(top: Path, process: subprocess.Popen[bytes]) -> None:
    """Nothing is mounted there any more, and nobody runs."""
    process.terminate()
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if find_mount(bytes(top)) is not None:
        subprocess.run(["umount", "-l", top], check=False, capture_output=True)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="mount-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def eventually(condition: Callable[[], object], within_s: float = 60) -> None:
    """Wait until something is so. Fails when it is not in time."""
    deadline = monotonic() + within_s
    while not condition():
        assert monotonic() < deadline
        sleep(0.02)
