"""Runs from when they are due until they have ended, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from sqlalchemy import insert, select

from api.config import load_server_keys
from api.db.engine import Database
from api.db.schema import jobs, run_events, runs
from api.runners.allotment import Allotment
from api.runners.carrier import Carrier, Pace
from api.runners.notify import Refused, guard
from api.runners.orders import Order, Place
from api.runners.telling import Teller
from api.services.jobspecs import HookNames, JobSpec, Kind, Retries, RunSpec, Source
from api.services.locations import Opening, Secrets
from api.services.notices import seal_targets
from api.services.runqueue import Claim, Ending, RunQueue, insert_run
from api.services.schedules import Schedule
from tests.support import postgresql
from tests.support.jobs import allow
from tests.support.server import Stage, make_stage
from tests.support.stored import take_up
from tests.support.workers import started, stub_command

STALE_S = 60.0


class HandClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = datetime(2026, 3, 1, tzinfo=UTC)

    def now(self) -> datetime:
        """See Clock."""
        return self.time

    def monotonic(self) -> float:
        """See Clock."""
        return self.time.timestamp()


@contextmanager
def queue_of(stage: Stage, clock: HandClock) -> Iterator[tuple[RunQueue, Database]]:
    """The queue of a stage."""
    with stage.database() as database:
        yield RunQueue(database, clock, stale_s=STALE_S), database


def plan(stage: Stage, spec: JobSpec, due: float | None, *, repository: str = "0" * 32, name: str = "job") -> str:
    """A job of alpha's; its ID."""
    key = secrets.token_hex(16)
    row: dict[str, Any] = {
        "id": key,
        "tenant_id": stage.tenants["alpha"],
        "name": name,
        "kind": spec.kind.value,
        "enabled": True,
    }
    row |= {"repository_id": repository, "spec": msgspec.json.encode(spec).decode(), "next_due": due}
    with stage.database() as database, database.write() as connection:
        connection.execute(insert(jobs).values(**row, created=0.0, version=1))
    return key


def rows(database: Database) -> list[Any]:
    """All runs, the oldest first."""
    with database.read() as connection:
        return list(connection.execute(select(runs).order_by(runs.c.created, runs.c.attempt)).mappings())


def until(true: Callable[[], object], limit_s: float = 60.0) -> None:
    """Wait for something to be true."""
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


NEVER = Schedule(calendar=f"{time.gmtime().tm_year + 1}-01-01")
"""Not again while the tests go on."""
CHECK = JobSpec(kind=Kind.CHECK, schedule=Schedule(cron="0 2 * * *"), retries=Retries(count=0))


def test_many_servers_make_one_run(any_stage: Stage) -> None:
    """Of many who look at what is due at the same time, one makes the run."""
    clock = HandClock()
    for number in range(10):
        plan(any_stage, CHECK, clock.now().timestamp(), name=f"job-{number}")
    with queue_of(any_stage, clock) as (queue, database), ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: queue.make_due(), range(8)))
        assert sum(made) == len(rows(database)) == 10


def test_missed_runs_are_caught_up_once(any_stage: Stage) -> None:
    """However many times a job has missed while nobody looked, it runs once, and then at its next time."""
    clock = HandClock()
    job = plan(any_stage, CHECK, datetime(2026, 3, 1, 2, tzinfo=UTC).timestamp())
    clock.time = datetime(2026, 3, 9, 12, tzinfo=UTC)
    with queue_of(any_stage, clock) as (queue, database):
        assert [queue.make_due(), queue.make_due()] == [1, 0]
        with database.read() as connection:
            following = connection.execute(select(jobs.c.next_due).where(jobs.c.id == job)).scalar_one()
    assert datetime.fromtimestamp(following, UTC) == datetime(2026, 3, 10, 2, tzinfo=UTC)


def test_no_second_run_while_one_waits(stage: Stage) -> None:
    """A job that is due again before its run has ended is not run twice."""
    clock = HandClock()
    plan(stage, CHECK, clock.now().timestamp())
    with queue_of(stage, clock) as (queue, database):
        assert queue.make_due() == 1
        clock.time += timedelta(days=1, hours=3)
        assert queue.make_due() == 0
        assert len(rows(database)) == 1


def test_retries(any_stage: Stage) -> None:
    """A run that fails is tried again after its delay, then after twice as long, and so often and no more."""
    clock = HandClock()
    spec = msgspec.structs.replace(CHECK, retries=Retries(count=2, delay_s=100))
    plan(any_stage, spec, clock.now().timestamp())
    with queue_of(any_stage, clock) as (queue, database):
        queue.make_due()
        seen = []
        for delay in (100, 200, 0):
            (waiting,) = queue.waiting()
            claim = queue.claim(waiting.run_id, "me")
            assert claim is not None
            ending = queue.finish(claim, "failed", "no luck", {})
            assert ending is not None
            seen.append((claim.attempt, ending.retried))
            assert queue.waiting() == []
            clock.time += timedelta(seconds=delay)
        assert seen == [(1, True), (2, True), (3, False)]
        assert [row["state"] for row in rows(database)] == ["failed"] * 3


def test_one_writer_of_a_source(any_stage: Stage) -> None:
    """Of two runs that back up the same directories one waits for the other, whoever claims them; checks never do."""
    clock, tenant = HandClock(), any_stage.tenants["alpha"]
    backup = JobSpec(kind=Kind.BACKUP, source=Source(paths=("/srv/a", "/srv/b")))
    other = JobSpec(kind=Kind.BACKUP, source=Source(paths=("/srv/b/", "/srv/a")))
    with queue_of(any_stage, clock) as (queue, database):
        with database.write() as connection:
            for number, job in enumerate((backup, other, CHECK, CHECK)):
                run = RunSpec(repository="0", name="x", job=job)
                insert_run(connection, tenant, run, 1.0, job_id=None, due=1.0, run_id=f"{number:032}")
        ids = [f"{number:032}" for number in range(4)]
        with ThreadPoolExecutor(4) as pool:
            claims = list(pool.map(lambda run_id: queue.claim(run_id, "me"), ids))
        writers = [claim for claim in claims[:2] if claim is not None]
        assert len(writers) == 1 and None not in claims[2:]  # noqa: PT018
        assert queue.waiting() == []
        queue.finish(writers[0], "done", "", {})
        (waiting,) = queue.waiting()
        assert queue.claim(waiting.run_id, "me") is not None
        assert queue.claim(waiting.run_id, "me") is None


def test_lost_worker(any_stage: Stage) -> None:
    """A run without heartbeat is marked as interrupted and tried again; whoever had it changes nothing any more."""
    clock = HandClock()
    plan(any_stage, msgspec.structs.replace(CHECK, retries=Retries(count=1, delay_s=0)), clock.now().timestamp())
    with queue_of(any_stage, clock) as (queue, database):
        queue.make_due()
        claim = queue.claim(queue.waiting()[0].run_id, "me")
        assert claim is not None
        clock.time += timedelta(seconds=STALE_S - 1)
        assert queue.beat(claim) == "go on"
        clock.time += timedelta(seconds=STALE_S - 1)
        assert queue.recover() == []
        clock.time += timedelta(seconds=2)
        (ending,) = queue.recover()
        assert (ending.state, ending.retried, queue.recover()) == ("interrupted", True, [])
        assert queue.beat(claim) == "lost"
        assert queue.finish(claim, "done", "", {}) is None
        queue.tell(claim, [("warning", {})])
        assert [(row["state"], row["attempt"]) for row in rows(database)] == [("interrupted", 1), ("pending", 2)]


def test_only_the_newest_progress_is_kept(stage: Stage) -> None:
    """Hours of progress take one row."""
    clock = HandClock()
    plan(stage, CHECK, clock.now().timestamp())
    with queue_of(stage, clock) as (queue, database):
        queue.make_due()
        claim = queue.claim(queue.waiting()[0].run_id, "me")
        assert claim is not None
        for number in range(5):
            queue.tell(claim, [("progress", {"files_done": number}), ("warning", {"number": number})])
        with database.read() as connection:
            kinds = connection.execute(select(run_events.c.kind).order_by(run_events.c.id)).scalars().all()
    assert kinds == ["state", *["warning"] * 4, "progress", "warning"]


# --- with real processes


WAITING = """
[tenants.alpha.hooks]
wait = ["/bin/sh", "-c", "echo $$ $PPID >> {folder}/pids; [ -e {folder}/go ] || exec sleep 300"]
"""


def _backup(stage: Stage, folder: Path, retries: Retries) -> None:
    files = allow(stage, folder / "alpha", WAITING.format(folder=folder))
    repository = take_up(stage, password="very secret").id
    spec = JobSpec(
        kind=Kind.BACKUP, source=Source(paths=(str(files),)), hooks=HookNames(before=("wait",)), retries=retries,
        schedule=NEVER,
    )  # fmt: skip
    plan(stage, spec, stage.now, repository=repository)


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_kill_in_the_middle_of_a_backup(any_stage: Stage, tmp_path: Path) -> None:
    """After kill -9 of the server its run ends with it, hooks too; the next server finds it interrupted and tries it
    again. No secret is in the command line or environment of the run's process."""
    _backup(any_stage, tmp_path, Retries(count=1, delay_s=0))
    place = ("embedded", any_stage.config.data, any_stage.config.database, Path(), 0.0)
    with started(*place) as server:
        until((tmp_path / "pids").exists)
        until(lambda: len((tmp_path / "pids").read_text().split()) == 2)
        hook, child = map(int, (tmp_path / "pids").read_text().split())
        known = b"".join(Path(f"/proc/{child}/{name}").read_bytes() for name in ("cmdline", "environ"))
        assert b"api.runners.child" in known
        assert b"secret" not in known
        server.send_signal(signal.SIGKILL)
        server.wait()
        until(lambda: _is_gone(hook) and _is_gone(child))
    (tmp_path / "go").touch()
    with any_stage.database() as database, started(*place):
        until(lambda: rows(database)[-1]["state"] == "done")
        states = [(row["state"], row["attempt"]) for row in rows(database)]
    assert states == [("interrupted", 1), ("done", 2)]


def test_a_server_that_is_stopped(stage: Stage, tmp_path: Path) -> None:
    """SIGTERM of the server ends its runs well, and they are tried again by the next."""
    _backup(stage, tmp_path, Retries(count=1, delay_s=0))
    with (
        started("embedded", stage.config.data, stage.config.database, Path(), 0.0) as server,
        stage.database() as database,
    ):
        until((tmp_path / "pids").exists)
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        first, second = rows(database)
    assert (first["state"], first["error"]) == ("interrupted", "the server or worker was stopped")
    assert second["state"] == "pending"


def test_a_crash_of_the_process(stage: Stage, tmp_path: Path) -> None:
    """A run whose process dies has failed, and says how; the server goes on."""
    _backup(stage, tmp_path, Retries(count=0))
    with started("embedded", stage.config.data, stage.config.database, Path(), 0.0), stage.database() as database:
        until((tmp_path / "pids").exists)
        until(lambda: len((tmp_path / "pids").read_text().split()) == 2)
        os.kill(int((tmp_path / "pids").read_text().split()[1]), signal.SIGKILL)
        until(lambda: rows(database)[-1]["state"] == "failed")
        assert "ended by signal 9" in rows(database)[-1]["error"]
        os.kill(int((tmp_path / "pids").read_text().split()[0]), signal.SIGKILL)


class DeafQueue:
    """A queue whose database does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("the database is away")


def test_a_process_ends_when_the_database_is_away(tmp_path: Path) -> None:
    """A run that cannot beat is ended before another worker may take it for lost."""
    pace = Pace(look_s=0.1, beat_s=0.1, stale_s=2.0, end_s=0.5)
    command = stub_command(tmp_path / "log", 60.0)
    opening = Opening(tenant_id="tenant", location="memory:", secrets=Secrets(), append_only=False)
    order = Order(name="x", place=Place(data="/", allowed_locations=()), opening=opening)
    none = Allotment(DeafQueue())  # type: ignore[arg-type]
    carrier = Carrier(DeafQueue(), lambda claim: order, none, lambda ending: None, pace, command)  # type: ignore[arg-type]
    claim = Claim("run", "tenant", "alpha", None, 1, "me", RunSpec(repository="0", name="x"))
    began = time.monotonic()
    asyncio.run(carrier.carry_out(claim))
    assert (tmp_path / "log").read_text() == "begin x\n"
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_the_database_restarts(tmp_path: Path) -> None:
    """While PostgreSQL is restarted under load no run is lost, and none completes twice."""
    with postgresql.serve() as server:
        stage = make_stage(tmp_path / "data", server.url(server.new_database()), runner="procrastinate")
        spec = JobSpec(kind=Kind.CHECK, schedule=NEVER, retries=Retries(count=9, delay_s=0))
        repository = take_up(stage).id
        for number in range(40):
            plan(stage, spec, stage.now, repository=repository, name=f"job-{number}")
        place = (stage.config.data, stage.config.database, tmp_path / "log", 0.5)
        with started("procrastinate", *place), started("worker", *place), started("embedded", *place):
            until((tmp_path / "log").exists)
            for _ in range(2):
                time.sleep(1)
                server.stop()
                time.sleep(0.5)
                server.start()
            with stage.database() as database:
                until(lambda: [row["state"] for row in rows(database)].count("done") >= 40, 120)
                found = rows(database)
    done = [row["job_id"] for row in found if row["state"] == "done"]
    assert len(done) == len(set(done)) == 40
    assert {row["state"] for row in found} <= {"done", "interrupted"}


# --- notifications


class _Hook(http.server.BaseHTTPRequestHandler):
    got: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        _Hook.got.append(json.loads(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@pytest.fixture
def webhook() -> Iterator[int]:
    """The port of a server that takes what is posted."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    _Hook.got.clear()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("rule, host, told", [
    ('connect = ["127.0.0.0/8"]', "127.0.0.1", 1),
    ('connect = ["127.0.0.0/8"]', "localhost", 1),
    ('connect = ["10.0.0.0/8"]', "127.0.0.1", 0),
    ("", "127.0.0.1", 0),
    ("", "localhost", 0),
    ("", "[::ffff:127.0.0.1]", 0),
])  # fmt: skip
def test_notifications(stage: Stage, webhook: int, rule: str, host: str, told: int) -> None:
    """A webhook hears how a run ended, but not one in a network that the operator has not opened to the tenant."""
    (stage.config.data / "allowed.toml").write_text(f"[tenants.alpha]\n{rule}\n")
    _tell(stage, f"json://{host}:{webhook}/x", "failed")
    assert len(_Hook.got) == told
    if told:
        assert (_Hook.got[0]["title"], _Hook.got[0]["type"]) == ("BackupForge: job: failed", "failure")
        assert _Hook.got[0]["message"] == "no luck"


@pytest.mark.parametrize("notify, state, retried, told", [
    ("failure", "done", False, 0), ("failure", "failed", True, 0), ("failure", "cancelled", False, 0),
    ("failure", "incomplete", False, 1), ("always", "done", False, 1), ("never", "failed", False, 0),
])  # fmt: skip
def test_when_people_are_told(stage: Stage, webhook: int, notify: Any, state: Any, retried: bool, told: int) -> None:
    """They are told what they asked for, and only when no further attempt follows."""
    (stage.config.data / "allowed.toml").write_text('[tenants.alpha]\nconnect = ["127.0.0.1"]\n')
    _tell(stage, f"json://127.0.0.1:{webhook}", state, notify=notify, retried=retried)
    assert len(_Hook.got) == told


def _tell(stage: Stage, target: str, state: Any, *, notify: Any = "always", retried: bool = False) -> None:
    keys, tenant = load_server_keys(stage.config.data), stage.tenants["alpha"]
    job = plan(stage, msgspec.structs.replace(CHECK, notify=notify), None)
    with stage.database() as database:
        sealed = seal_targets(keys, tenant, job, (target,))
        with database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job).values(sealed_targets=sealed))
        Teller(database, keys, stage.config).tell(Ending("run", tenant, job, "job", state, "no luck", {}, retried))


@pytest.mark.parametrize("address", [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b:1::1",
])  # fmt: skip
def test_addresses_of_ours(address: str) -> None:
    """Loopback, private, link-local and translated addresses are no place for notifications; public ones are."""
    look = guard([])
    with pytest.raises(Refused):
        look("socket.connect", (None, (address, 80)))
    look("socket.connect", (None, ("93.184.215.14", 443)))
    look("socket.connect", (None, ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", 443, 0, 0)))
    with pytest.raises(Refused):
        look("socket.connect", (None, "/run/docker.sock"))
    with pytest.raises(Refused):
        look("subprocess.Popen", ())
