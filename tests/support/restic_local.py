"""restic with a repository in a folder, for tests that read it without restic."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.restic import find_restic

PASSWORD = "tests only"
_TIME_LIMIT_S = 120.0


@dataclass(frozen=True)
class LocalRestic:
    """One repository."""

    folder: Path
    home: Path

    def __call__(self, *arguments: str | Path, password: str = PASSWORD, statuses: tuple[int, ...] = (0,)) -> str:
        """Run restic; what it prints."""
        variables = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "RESTIC_PASSWORD": password,
            "RESTIC_REPOSITORY": str(self.folder),
            "RESTIC_CACHE_DIR": str(self.home / "cache"),
        }
        done = subprocess.run(
            [find_restic(), *map(str, arguments)],
            env=variables,
            capture_output=True,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
        assert done.returncode in statuses, done.stdout + done.stderr
        return done.stdout.decode()

    def snapshots(self) -> list[dict[str, Any]]:
        """What it lists, oldest first."""
        found: list[dict[str, Any]] = json.loads(self("snapshots", "--json"))
        return sorted(found, key=lambda each: str(each["time"]))

    def files(self, kind: str) -> list[Path]:
        """The stored files of a kind: "data", "index", "snapshots"."""
        return sorted(path for path in (self.folder / kind).rglob("*") if path.is_file())


def make_restic(folder: Path, *options: str) -> LocalRestic:
    """A new repository below a folder."""
    restic = LocalRestic(folder / "restic", folder)
    restic("init", *options)
    return restic
