"""restic as a client of a server: `restic = Restic(url, token, home)`, `restic("backup", folder)`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

_TIME_LIMIT_S = 120.0


def find_restic() -> str:
    """The program: the one that RESTIC names, else that of the system. Skips the test where there is none."""
    found = os.environ.get("RESTIC") or shutil.which("restic")
    if found is None:
        pytest.skip("restic is not installed")
    return found


@dataclass(frozen=True)
class Restic:
    """One repository, as one user of it meets it."""

    url: str
    token: str
    home: Path

    def __call__(self, *arguments: str | Path, status: int = 0) -> str:
        """Run restic; what it says. Fails the test when it ends otherwise than expected."""
        ran = self.run(*arguments)
        assert ran.returncode == status, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run restic to its end, whatever that is."""
        parts = urlsplit(self.url)
        variables = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "RESTIC_PASSWORD": "tests only",
            # restic 0.14 takes user and password from the location alone.
            "RESTIC_REPOSITORY": f"rest:{parts.scheme}://anybody:{self.token}@{parts.netloc}{parts.path}",
        }
        command = [find_restic(), *map(str, arguments)]
        return subprocess.run(
            command, env=variables, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False
        )

    def snapshots(self) -> list[dict[str, Any]]:
        """What it lists."""
        ran = self.run("snapshots", "--json")
        assert ran.returncode == 0, ran.stderr
        found: list[dict[str, Any]] = json.loads(ran.stdout)
        return found
