"""File systems for a test alone: mounted in a mount namespace that ends with the process that holds it.

Nothing is ever mounted for anybody else, and however a test ends, nothing stays mounted: the holder reads from a pipe
of the test process, and ends when that does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Mounts:
    """A mount namespace."""

    pid: int

    @property
    def before(self) -> tuple[str, ...]:
        """In front of a command: it sees the mounts, and works in the root directory."""
        return ("nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--")

    def seen(self, path: Path) -> Path:
        """An absolute path of the namespace, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root{path}")

    def run(self, *command: str | Path) -> None:
        """Run a program there."""
        subprocess.run([*self.before, *command], check=True, capture_output=True, cwd="/")


@contextmanager
def mounts_of_its_own() -> Iterator[Mounts]:
    """A new mount namespace. Skips the test where the system allows none."""
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", "echo ready; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            pytest.skip("this system allows no mount namespaces")
        try:
            yield Mounts(holder.pid)
        finally:
            holder.stdin.close()
