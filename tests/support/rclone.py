"""rclone as a server of a folder: `serve("restic", folder, "--append-only")`, `serve("s3", folder, ...)`.

It listens on 127.0.0.1 and a port that is free, and ends with the block. It writes what it has to say to a file, so
that a server nobody reads from never stands still.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import pytest

_TIME_LIMIT_S: Final = 120.0
_ANNOUNCED = re.compile(r"\[(https?)://127\.0\.0\.1:(\d+)/\]")


@dataclass(frozen=True)
class Served:
    """A running server. `url` ends with a slash; `log` is what it said so far; `root` is what it serves."""

    url: str
    port: int
    root: Path
    pid: int
    log: Path


@contextmanager
def serve(protocol: str, root: Path, *flags: str, environment: Mapping[str, str] | None = None) -> Iterator[Served]:
    """Serve `root` over `protocol` for the time of the block. `environment` may hold what no flag should tell."""
    program = find_rclone()
    line = [program, "serve", protocol, "--addr", "127.0.0.1:0", *flags, str(root)]
    variables = {**os.environ, "RCLONE_CONFIG": "", **(environment or {})}
    with tempfile.NamedTemporaryFile(prefix="rclone-", suffix=".log") as log:
        process = subprocess.Popen(line, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            scheme, port = _announced(process, log)
            yield Served(f"{scheme}://127.0.0.1:{port}/", port, root, process.pid, Path(log.name))
        finally:
            process.kill()
            process.wait()


def find_rclone() -> str:
    """The program: that of this Python's environment, else that of the system. Skips the test where there is none."""
    beside = Path(sys.executable).with_name("rclone")
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        pytest.skip("rclone is not installed")
    return found


def _announced(process: subprocess.Popen[bytes], log: IO[bytes]) -> tuple[str, int]:
    """The scheme and the port that the server says it listens on."""
    deadline = time.monotonic() + _TIME_LIMIT_S
    while True:
        said = Path(log.name).read_text(errors="replace")
        match = _ANNOUNCED.search(said)
        if match is not None:
            return match[1], int(match[2])
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.02)
