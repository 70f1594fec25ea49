"""Runs from the moment they are due until they have ended: the side of the machines. The database is the truth.

    pending      due, or will be; nobody has it
    running      one worker has it, and says so every few seconds (`heartbeat`)
    done, incomplete, failed, cancelled     it has ended
    interrupted  its worker has died, or was stopped

Any number of servers and workers do all this at the same time. Every step is one transaction that changes a run only if
it still is what the step takes it for, so of several who try one succeeds:

    make due     a job's run for a time and attempt is unique, and the job's next time is set with it
    claim        pending -> running, by one; a unique index keeps a second writer of the same source out
    beat, finish only by the worker that has the run
    recover      running with an old heartbeat -> interrupted, with the next attempt if the job has one left

A worker that cannot beat ends its work before others may take its run for lost, so that no run is carried out twice at
the same time. Clocks of all machines have to agree to within seconds. Every method blocks.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from sqlalchemy import Connection, RowMapping, Select, and_, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from api.db.engine import Database
from api.db.schema import jobs, run_events, runs, tenants
from api.db.tenancy import Tenancy
from api.services.jobspecs import JobSpec, RunSpec, writer_key
from api.services.schedules import Schedule, next_due
from bfrepo.core.clock import Clock
from bfrepo.core.errors import InvalidValue

EndState = Literal["done", "incomplete", "failed", "interrupted", "cancelled"]
ENDED: Final = frozenset({"done", "incomplete", "failed", "interrupted", "cancelled"})

_AT_ONCE: Final = 200
"""Rows that one step deals with; the next step deals with the rest."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A run that somebody carries out. `worker` is the claim's own name: nobody has had it before."""

    run_id: str
    tenant_id: str
    tenant: str
    job_id: str | None
    attempt: int
    worker: str
    spec: RunSpec


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended, what it says about that, and whether another attempt follows."""

    run_id: str
    tenant_id: str
    job_id: str | None
    name: str
    state: EndState
    error: str
    result: dict[str, Any]
    retried: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pending run whose time has come."""

    run_id: str
    writer_key: str | None


class RunQueue:
    """The runs of all tenants. Thread-safe."""

    def __init__(self, database: Database, clock: Clock, *, stale_s: float) -> None:
        """After `stale_s` seconds without a heartbeat a run's worker counts as dead."""
        self._database = database
        self._clock = clock
        self._stale_s = stale_s

    # --- what becomes due

    def make_due(self) -> int:
        """Make a run for each job whose time has come, and set its next time. How many were made."""
        now = self._now()
        query = select(jobs.c.id).join(tenants, tenants.c.id == jobs.c.tenant_id)
        query = query.where(jobs.c.enabled, jobs.c.next_due <= now, tenants.c.deleted.is_(None))
        with self._database.read() as connection:
            found = list(connection.execute(query.order_by(jobs.c.next_due).limit(_AT_ONCE)).scalars())
        return sum(self._make_due(job_id, now) for job_id in found)

    def _make_due(self, job_id: str, now: float) -> bool:
        query = select(jobs).where(jobs.c.id == job_id, jobs.c.enabled, jobs.c.next_due <= now)
        with self._database.write() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).mappings().one_or_none()
            if row is None:  # another server was quicker
                return False
            following = following_due(row, now)
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(next_due=following))
            busy = select(runs.c.id).where(runs.c.job_id == job_id, runs.c.state.in_(("pending", "running"))).limit(1)
            if connection.execute(busy).first() is not None:  # it is due again before it has ended: once is enough
                return False
            return insert_run(connection, row["tenant_id"], spec_of(row), now, job_id=job_id, due=row["next_due"])

    # --- what waits

    def waiting(self, limit: int = _AT_ONCE) -> list[Waiting]:
        """Runs whose time has come and whose source nobody writes to, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(self._waiting().limit(limit)).all()
        return [Waiting(row.id, row.writer_key) for row in rows]

    def _waiting(self) -> Select[Any]:
        others = runs.alias("others")
        held = select(others.c.id).where(others.c.state == "running", others.c.writer_key == runs.c.writer_key)
        query = select(runs.c.id, runs.c.writer_key).join(tenants, tenants.c.id == runs.c.tenant_id)
        query = query.where(runs.c.state == "pending", runs.c.not_before <= self._now(), tenants.c.deleted.is_(None))
        return query.where(~held.exists()).order_by(runs.c.not_before, runs.c.id)

    def claim(self, run_id: str, worker: str) -> Claim | None:
        """Take a run to carry it out; None when somebody else has it, or has its source."""
        token, now = f"{worker[:60]}/{secrets.token_hex(8)}", self._now()
        values = {"state": "running", "worker": token, "started": now, "heartbeat": now}
        pending = and_(runs.c.id == run_id, runs.c.state == "pending", runs.c.not_before <= now)
        query = select(runs, tenants.c.name).join(tenants, tenants.c.id == runs.c.tenant_id).where(runs.c.id == run_id)
        try:
            with self._database.write() as connection:
                if connection.execute(update(runs).where(pending).values(values)).rowcount != 1:
                    return None
                row = connection.execute(query).mappings().one()
                add_event(connection, row, now, "state", {"state": "running", "attempt": row["attempt"]})
        except IntegrityError:  # uq_runs_one_writer
            return None
        spec = msgspec.json.decode(row["spec"], type=RunSpec)
        return Claim(run_id, row["tenant_id"], row["name"], row["job_id"], row["attempt"], token, spec)

    # --- what is under way

    def beat(self, claim: Claim) -> Literal["go on", "cancel", "lost"]:
        """Say that the run is still carried out, and hear what is wanted of it."""
        with self._database.write() as connection:
            change = update(runs).where(_held(claim)).values(heartbeat=self._now())
            wanted = connection.execute(change.returning(runs.c.cancel_requested)).scalar()
        return "lost" if wanted is None else "cancel" if wanted else "go on"

    def tell(self, claim: Claim, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Keep what a run has to say. Of its progress only the newest is kept."""
        now = self._now()
        with self._database.write() as connection:
            held = select(runs.c.id, runs.c.tenant_id).where(_held(claim)).with_for_update()
            row = connection.execute(held).mappings().one_or_none()
            if row is None:
                return
            if any(kind == "progress" for kind, _ in events):
                old = (run_events.c.run_id == claim.run_id) & (run_events.c.kind == "progress")
                connection.execute(delete(run_events).where(old))
            for kind, data in events:
                add_event(connection, {**row}, now, kind, data)

    def finish(self, claim: Claim, state: EndState, error: str, result: dict[str, Any]) -> Ending | None:
        """The run has ended; None if it was taken for lost before. A failed one is tried again as its job says."""
        with self._database.write() as connection:
            row = connection.execute(select(runs).where(_held(claim)).with_for_update()).mappings().one_or_none()
            return None if row is None else self._end(connection, row, state, error, result)

    def recover(self) -> list[Ending]:
        """Runs whose worker has died, now marked as interrupted."""
        limit = self._now() - self._stale_s
        stale = and_(runs.c.state == "running", runs.c.heartbeat < limit)
        with self._database.read() as connection:
            found = list(connection.execute(select(runs.c.id).where(stale).limit(_AT_ONCE)).scalars())
        endings = []
        for run_id in found:
            with self._database.write() as connection:
                query = select(runs).where(runs.c.id == run_id, stale).with_for_update(skip_locked=True)
                row = connection.execute(query).mappings().one_or_none()
                if row is not None:
                    endings.append(self._end(connection, row, "interrupted", "whoever carried it out has gone", {}))
        return endings

    def _end(
        self, connection: Connection, row: RowMapping, state: EndState, error: str, result: dict[str, Any]
    ) -> Ending:
        now, spec = self._now(), msgspec.json.decode(row["spec"], type=RunSpec)
        if row["cancel_requested"] and state in ("failed", "interrupted"):
            state = "cancelled"
        values = {
            "state": state,
            "finished": now,
            "error": error or None,
            "result": msgspec.json.encode(result).decode(),
        }
        connection.execute(update(runs).where(runs.c.id == row["id"]).values(values))
        retried = state in ("failed", "interrupted") and row["attempt"] <= spec.retries.count
        if retried:
            attempt = row["attempt"] + 1
            start = now + spec.retries.delay(row["attempt"])
            job_id, due = row["job_id"], row["due"]
            retried = insert_run(
                connection, row["tenant_id"], spec, now, job_id=job_id, due=due, attempt=attempt, not_before=start
            )
        add_event(connection, row, now, "end", {"state": state, "error": error, "retried": retried, "result": result})
        return Ending(row["id"], row["tenant_id"], row["job_id"], spec.name, state, error, result, retried)

    def _now(self) -> float:
        return self._clock.now().timestamp()


def _held(claim: Claim) -> Any:
    """The run, as long as the worker has it."""
    return and_(runs.c.id == claim.run_id, runs.c.state == "running", runs.c.worker == claim.worker)


def following_due(row: RowMapping | dict[str, Any], now: float) -> float | None:
    """When a job is due next, in seconds since 1970; None for one without a schedule, or whose dates have passed."""
    schedule: Schedule | None = msgspec.json.decode(row["spec"], type=JobSpec).schedule
    if schedule is None:
        return None
    try:
        following = next_due(schedule, row["id"], datetime.fromtimestamp(now, UTC))
    except (
        InvalidValue,
        ValueError,
        OSError,
    ):  # a zone that this machine does not know: never, rather than all the time
        return None
    return None if following is None else following.timestamp()


def spec_of(row: RowMapping | dict[str, Any]) -> RunSpec:
    """What a run of this job does."""
    job = msgspec.json.decode(row["spec"], type=JobSpec)
    return RunSpec(repository=row["repository_id"], name=row["name"], job=job)


def insert_run(
    connection: Connection,
    tenant_id: str,
    spec: RunSpec,
    now: float,
    *,
    job_id: str | None,
    due: float,
    attempt: int = 1,
    not_before: float | None = None,
    run_id: str | None = None,
) -> bool:
    """Make a pending run. False when there is one of this job for this time and attempt already."""
    row = {
        "id": run_id or secrets.token_hex(16),
        "tenant_id": tenant_id,
        "job_id": job_id,
        "kind": "restore" if spec.job is None else spec.job.kind.value,
        "spec": msgspec.json.encode(spec).decode(),
        "writer_key": writer_key(tenant_id, spec),
        "state": "pending",
        "attempt": attempt,
        "due": due,
        "not_before": now if not_before is None else not_before,
        "created": now,
        "cancel_requested": False,
    }
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    made = dialect.insert(runs).values(row).on_conflict_do_nothing().returning(runs.c.id)
    return connection.execute(made).scalar() is not None


def add_event(connection: Connection, row: Any, now: float, kind: str, data: dict[str, Any]) -> None:
    """One event of a run."""
    text = msgspec.json.encode(data).decode()
    connection.execute(Tenancy(row["tenant_id"]).insert(run_events, run_id=row["id"], at=now, kind=kind, data=text))
