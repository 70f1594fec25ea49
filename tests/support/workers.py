"""Servers and workers as processes that can be killed, for tests: `python -m tests.support.workers ROLE DATA URL ...`.

Runs are carried out by a small program instead of ours, so that hundreds take seconds. It writes a line into a log when
it begins and one when it ends or goes; each is a single write to a file that is opened for appending.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

PACE: Final = {"look_s": 0.2, "beat_s": 0.2, "stale_s": 10.0, "end_s": 2.0}
"""A busy machine may keep a worker from beating for some seconds, and it must not count as dead for that."""

STUB: Final = """
import json, os, signal, sys, threading, time
log, seconds = sys.argv[1], float(sys.argv[2])
order = json.loads(sys.stdin.readline())
fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
def note(what):
    os.write(fd, f"{what} {order['name']}\\n".encode())
def leave(*_):
    note("gone")
    os._exit(1)
def watch():
    sys.stdin.read()
    leave()
note("begin")
signal.signal(signal.SIGTERM, leave)
threading.Thread(target=watch, daemon=True).start()
time.sleep(seconds)
note("end")
os.write(1, json.dumps({"kind": "end", "data": {"state": "done", "error": "", "result": {}}}).encode())
os._exit(0)
"""


def stub_command(log: Path, seconds: float) -> tuple[str, ...]:
    """A program in the place of ours; an empty path leaves ours there."""
    from api.runners.carrier import CHILD

    if not log.name:
        return CHILD
    return (sys.executable, "-S", "-c", STUB, str(log), str(seconds))


@contextmanager
def started(role: str, data: Path, url: str, log: Path, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    """A server or worker process; it is killed in the end."""
    command = [sys.executable, "-m", "tests.support.workers", role, str(data), url, str(log), str(seconds)]
    with (data / f"{role}.log").open("ab") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": os.defpath}, stdout=said, stderr=said
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def main(role: str, data: str, url: str, log: str, seconds: str) -> None:
    """Be a server (`embedded` or `procrastinate`) or a `worker`."""
    import asyncio

    from api.config import ServerConfig, load_server_keys
    from api.db.engine import Database
    from api.runners.assembly import Parts, make_runner
    from api.runners.carrier import Pace
    from api.services.repositories import Repositories
    from api.worker import work
    from bfrepo.core.clock import SystemClock

    runner = "embedded" if role == "embedded" else "procrastinate"
    config, clock = ServerConfig(data=Path(data), database=url, runner=runner, slots=4), SystemClock()
    pace, command = Pace(**PACE), stub_command(Path(log), float(seconds))
    if role == "worker":
        work(config, clock, lambda: None, pace=pace, command=command)
        return
    database, keys = Database(url), load_server_keys(config.data)
    opening = Repositories(database, keys, clock, config).opening
    parts = Parts(config, keys, clock, database, opening, pace=pace, command=command)

    async def run() -> None:
        task = asyncio.create_task(make_runner(config, database, parts).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())


if __name__ == "__main__":
    main(*sys.argv[1:])
