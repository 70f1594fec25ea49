"""A real PostgreSQL for tests, on a Unix socket in a folder of its own: `with serve() as server`.

It refuses to run as root, so root's tests start it as `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

import psycopg
import pytest

_TIME_LIMIT_S: Final = 120.0
_USER: Final = "tester"
_SETTINGS: Final = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB", "max_connections=300")


@dataclass
class PostgreSQL:
    """A server. It can be stopped and started again; its databases stay."""

    folder: Path
    programs: Path
    _process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    def new_database(self, template: str = "template0") -> str:
        """The name of a new database: empty, or a copy of one that nobody is connected to."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return name

    def drop(self, database: str) -> None:
        """Remove a database, whoever is connected to it."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {database} WITH (FORCE)".encode())

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [part for setting in _SETTINGS for part in ("-c", setting)]
        place = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-c", "listen_addresses="]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_as_somebody(), str(self.programs / "postgres"), *place, *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        deadline = time.monotonic() + _TIME_LIMIT_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        """End it at once, as its "immediate" shutdown does: clients lose their connections."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(3)  # SIGQUIT
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def serve() -> Iterator[PostgreSQL]:
    """A server for the time of the block, or a test that is skipped where there is no PostgreSQL."""
    programs = _find_programs()
    # Not in pytest's folders: they are closed to other users, and too deep for the path of a socket.
    with tempfile.TemporaryDirectory(prefix="bf-pg-") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        _run(folder, programs / "initdb", "-D", folder / "data", "-U", _USER, "--auth=trust", "--no-sync", "-E", "UTF8")
        server = PostgreSQL(folder, programs)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _find_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    somewhere = shutil.which("initdb")
    if not found and somewhere is None:
        pytest.skip("PostgreSQL is not installed")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("PostgreSQL does not run as root, and setpriv is not installed")
    return (found[-1] if found else Path(str(somewhere))).parent


def _as_somebody() -> list[str]:
    """What stands before a command so that root does not run it, and so that it never outlives the tests."""
    if shutil.which("setpriv") is None:
        return []
    user = pwd.getpwnam("nobody")
    change = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *change, "--pdeathsig=QUIT", "--"]


def _run(folder: Path, *command: str | Path) -> None:
    done = subprocess.run(
        [*_as_somebody(), *map(str, command)], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
