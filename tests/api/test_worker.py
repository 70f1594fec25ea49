"""Servers and workers that share a PostgreSQL database: no run is lost, and none is carried out twice."""

from __future__ import annotations

import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import func, insert, select

from api.db.engine import Database
from api.db.schema import jobs, runs
from api.services.jobspecs import JobSpec, Kind, Retries
from api.services.schedules import Schedule
from tests.support.campaign import campaign_s, is_campaign
from tests.support.server import Stage, make_stage
from tests.support.stored import take_up
from tests.support.workers import ROOT, started

LEAST_KILLS = 6
SHARED = ["procrastinate", "procrastinate", "worker", "worker", "worker"]


@pytest.fixture
def shared(tmp_path: Path, postgres_url: str) -> Stage:
    """A database on PostgreSQL."""
    return make_stage(tmp_path / "data", postgres_url, runner="procrastinate")


def plan(stage: Stage, count: int, retries: Retries) -> None:
    """Jobs that are due now, and then not for a year."""
    repository = take_up(stage).id
    schedule = Schedule(calendar=f"{time.gmtime().tm_year + 1}-01-01")
    spec = msgspec.json.encode(JobSpec(kind=Kind.CHECK, schedule=schedule, retries=retries)).decode()
    row: dict[str, Any] = {"tenant_id": stage.tenants["alpha"], "kind": "check", "spec": spec}
    row |= {"repository_id": repository, "enabled": True, "next_due": stage.now, "created": stage.now, "version": 1}
    rows = [{**row, "id": secrets.token_hex(16), "name": f"job-{number}"} for number in range(count)]
    with stage.database() as database, database.write() as connection:
        connection.execute(insert(jobs), rows)


def counts(database: Database) -> dict[str, int]:
    """Runs by their state."""
    with database.read() as connection:
        rows = connection.execute(select(runs.c.state, func.count()).group_by(runs.c.state))
        return {row[0]: row[1] for row in rows}


def finished(database: Database, count: int, deadline: float) -> bool:
    """Whether so many runs are done, and none is under way, before it is too late."""
    while time.monotonic() < deadline:
        now = counts(database)
        if now.get("done", 0) >= count and not now.get("running", 0) + now.get("pending", 0):
            return True
        time.sleep(0.2)
    return False


def busy(database: Database) -> list[int]:
    """The process IDs of those that carry out runs."""
    with database.read() as connection:
        workers = connection.execute(select(runs.c.worker).where(runs.c.state == "running")).scalars().all()
    return [int(worker.split("/")[1]) for worker in workers]


@pytest.mark.slow
@pytest.mark.parametrize("kinds, due", [(SHARED, 200), (["embedded"] * 3, 60)], ids=["workers", "embedded"])
def test_killed_at_random(shared: Stage, tmp_path: Path, kinds: list[str], due: int) -> None:
    """With two servers and three workers that are killed again and again, each job that is due completes exactly once,
    and no two processes work for it at the same time."""
    random_, log = random.Random(7), tmp_path / "log"
    seconds = 5.0 if is_campaign() else 0.4
    plan(shared, due, Retries(count=20, delay_s=0))
    began, kills = time.monotonic(), 0
    with shared.database() as database, ExitStack() as stack:
        processes: list[subprocess.Popen[bytes] | None] = [None] * len(kinds)

        def start_all() -> None:
            for number, kind in enumerate(kinds):
                process = processes[number]
                if process is None or process.poll() is not None:
                    new = started(kind, shared.config.data, shared.config.database, log, seconds)
                    processes[number] = stack.enter_context(new)

        while kills < LEAST_KILLS or time.monotonic() - began < campaign_s(0):
            start_all()
            time.sleep(random_.uniform(0.1, 1.0))
            hit = busy(database)
            alive = [process for process in processes if process is not None and process.poll() is None]
            victims = [process for process in alive if process.pid in hit] if kills % 3 else alive
            if hit and victims:
                kills += 1
                victim = random_.choice(victims)
                victim.send_signal(random_.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                victim.wait()
            elif not counts(database).keys() - {"done", "interrupted"} and counts(database):
                break
        start_all()
        assert finished(database, due, time.monotonic() + 240), counts(database)
        with database.read() as connection:
            states = connection.execute(select(runs.c.job_id, runs.c.state)).all()
    completed = Counter(job for job, state in states if state == "done")
    assert (len(completed), set(completed.values())) == (due, {1})
    assert {state for _, state in states} == {"done", "interrupted"}  # some were hit
    _check_log(log, due)


def _check_log(log: Path, due: int) -> None:
    """No process begins with a job while another has it, and each job came to its end."""
    busy, ended = set(), set()
    for line in log.read_text().splitlines():
        what, name = line.split()
        if what == "begin":
            assert name not in busy, f"{name} is carried out twice at a time"
            busy.add(name)
        else:
            busy.discard(name)
        if what == "end":
            ended.add(name)
    assert len(ended) == due


def test_a_worker_by_its_command(shared: Stage, tmp_path: Path) -> None:
    """`backupforge worker` carries out what a server leaves to it, with our own program, and ends when it is told."""
    plan(shared, 3, Retries(count=0))
    url, data = shared.config.database, str(shared.config.data)
    command = [sys.executable, "-m", "cli", "worker", "--data", data, "--database", url]
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=ROOT)
    try:
        with shared.database() as database:
            assert finished(database, 3, time.monotonic() + 60), counts(database)
        worker.send_signal(signal.SIGTERM)
        said, _ = worker.communicate(timeout=30)
        assert (worker.returncode, said) == (0, b"the worker waits for runs\nthe worker has ended\n")
    finally:
        worker.kill()
        worker.communicate()


def test_workers_need_postgresql(stage: Stage) -> None:
    """With SQLite, or without the server's key, a worker says what it needs."""
    command = [sys.executable, "-m", "cli", "worker", "--data", str(stage.config.data)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    for database, words in (("sqlite:///x", "need a PostgreSQL"), ("postgresql://a@127.0.0.1:1/b", "server.key")):
        data = "/nonexistent" if words == "server.key" else str(stage.config.data)
        done = subprocess.run(
            [*command[:-1], data, "--database", database], capture_output=True, text=True, env=environment, cwd=ROOT
        )
        assert done.returncode in (1, 2)
        assert words in done.stderr
