"""The server as a process, on the database of a Stage: what clients and kill -9 meet."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.program import ROOT
from tests.support.server import Stage

SCOPES: Final = ("store:read", "store:write", "store:delete")
_TIME_LIMIT_S: Final = 60.0


@dataclass(frozen=True)
class Serving:
    """A server process that answers. `url` has no slash at its end; `log` is what it says."""

    stage: Stage
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """Kill it with no chance to clean up."""
        self.process.kill()
        self.process.wait()

    @property
    def memory(self) -> int:
        """The bytes of memory that are its own now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) << 10


@contextmanager
def serving(stage: Stage, *options: str) -> Iterator[Serving]:
    """Serve for the time of the block."""
    data = stage.config.data
    log = data.parent / "server.log"
    command = [sys.executable, "-m", "cli", "server", "--data", str(data), "--listen", "127.0.0.1:0", *options]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(data.parent), "PATH": "/usr/bin:/bin"}
    environment["BACKUPFORGE_SERVER_DATABASE"] = stage.config.database
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=ROOT)
    try:
        yield Serving(stage, process, _announced(process, log), log)
    finally:
        process.kill()
        process.wait()


def _announced(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _TIME_LIMIT_S
    while True:
        said = log.read_text(errors="replace")
        match = re.search(r"https?://[^\s\"]+", said)
        if match is not None:
            return match.group()
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
