"""Runs as their owners see them: what became of jobs and restores, and what they say while they go on."""

from __future__ import annotations

import secrets
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from sqlalchemy import RowMapping, select

from api.config import ServerConfig
from api.db.engine import Database
from api.db.schema import repositories, run_events, runs, tenants
from api.db.tenancy import Tenancy
from api.fields import utc, utc_or_none
from api.identity import Caller
from api.paging import Paged, cut_page, page_of
from api.problems import Problem, not_found
from api.services.allowances import load_allowance, restore_target
from api.services.audit import Origin, record
from api.services.jobspecs import RestoreSpec, RunSpec, Short, Text
from api.services.runqueue import ENDED, add_event, insert_run
from bfrepo.core.clock import Clock

State = Literal["pending", "running", "done", "incomplete", "failed", "interrupted", "cancelled"]

_EVENTS_AT_ONCE = 500


class RunFilter(Paged, kw_only=True, forbid_unknown_fields=True):
    """Which runs to list: those of a job, or in a state."""

    job: Short | None = None
    state: State | None = None


class Run(msgspec.Struct, kw_only=True):
    """A run as answers show it. `result` depends on what was done; `error` says why it failed."""

    id: str
    job: str | None
    kind: str
    name: str
    repository: str
    state: State
    attempt: int
    due: datetime
    not_before: datetime
    created: datetime
    started: datetime | None
    finished: datetime | None
    cancel_requested: bool
    result: dict[str, Any]
    error: str | None


class RunPage(msgspec.Struct):
    """Some runs, the latest first."""

    items: list[Run]
    next_cursor: str


class RestoreRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What of a snapshot to restore, and into which directory of the machine that does it."""

    repository: Short
    target: Text
    path: Annotated[str, Meta(max_length=4096, pattern=r"^[^\x00]*$")] = ""
    overwrite: Literal["always", "if-changed", "if-newer", "never"] = "if-changed"


class Event(msgspec.Struct):
    """Something that a run has said."""

    id: int
    at: float
    kind: str
    data: str


class Runs:
    """Runs of tenants. Thread-safe; every method blocks."""

    def __init__(self, database: Database, clock: Clock, config: ServerConfig) -> None:
        self._database = database
        self._clock = clock
        self._config = config

    def page(self, caller: Caller, wanted: RunFilter) -> RunPage:
        """The tenant's runs."""
        query = Tenancy(caller.tenant_id).select(runs)
        if wanted.job is not None:
            query = query.where(runs.c.job_id == wanted.job)
        if wanted.state is not None:
            query = query.where(runs.c.state == wanted.state)
        query = page_of(query, (runs.c.created, runs.c.id), wanted, descending=True)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        shown, cursor = cut_page(rows, wanted, lambda row: (row["created"], row["id"]))
        return RunPage([run_view(row) for row in shown], cursor)

    def get(self, caller: Caller, run_id: str) -> Run:
        """One of them. Raises Problem."""
        query = Tenancy(caller.tenant_id).select(runs).where(runs.c.id == run_id)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise not_found("run")
        return run_view(row)

    def cancel(self, origin: Origin, caller: Caller, run_id: str) -> Run:
        """End a run: at once if it waits, else as soon as it can. One that has ended stays as it is. Raises Problem."""
        mine, now = Tenancy(caller.tenant_id), self._clock.now().timestamp()
        query = mine.select(runs).where(runs.c.id == run_id)
        with self._database.write() as connection:
            row = connection.execute(query.with_for_update()).mappings().one_or_none()
            if row is None:
                raise not_found("run")
            if row["state"] not in ENDED:
                values: dict[str, Any] = {"cancel_requested": True}
                if row["state"] == "pending":
                    values |= {"state": "cancelled", "finished": now}
                    add_event(connection, row, now, "end", {"state": "cancelled", "error": "", "retried": False})
                connection.execute(mine.update(runs).where(runs.c.id == run_id).values(values))
                record(connection, origin, "run.cancel", run_id)
            return run_view(connection.execute(query).mappings().one())

    def restore(self, origin: Origin, caller: Caller, snapshot: str, request: RestoreRequest) -> Run:
        """Have something restored. Raises Problem for what is not there, and for a target that is not allowed."""
        mine, now, run_id = Tenancy(caller.tenant_id), self._clock.now().timestamp(), secrets.token_hex(16)
        what = RestoreSpec(snapshot=snapshot, path=request.path, target=request.target, overwrite=request.overwrite)
        with self._database.write() as connection:
            known = mine.select(repositories, repositories.c.name).where(repositories.c.id == request.repository)
            if connection.execute(known).first() is None:
                raise Problem(HTTPStatus.BAD_REQUEST, "unknown-repository", "there is no such repository")
            tenant = connection.execute(select(tenants.c.name).where(tenants.c.id == caller.tenant_id)).scalar_one()
            restore_target(load_allowance(self._config.data, tenant), request.target)
            spec = RunSpec(repository=request.repository, name="restore", restore=what)
            insert_run(connection, caller.tenant_id, spec, now, job_id=None, due=now, run_id=run_id)
            record(connection, origin, "snapshot.restore", run_id, snapshot)
            return run_view(connection.execute(mine.select(runs).where(runs.c.id == run_id)).mappings().one())

    def events(self, caller: Caller, run_id: str, after: int) -> tuple[list[Event], bool]:
        """What the run has said after event number `after`, and whether that is the last of it."""
        mine = Tenancy(caller.tenant_id)
        state = mine.select(runs, runs.c.state).where(runs.c.id == run_id)
        query = mine.select(run_events).where(run_events.c.run_id == run_id, run_events.c.id > after)
        with self._database.read() as connection:
            ended = connection.execute(state).scalar() in {*ENDED, None}  # or taken away with its job
            rows = connection.execute(query.order_by(run_events.c.id).limit(_EVENTS_AT_ONCE)).mappings().all()
        found = [Event(row["id"], row["at"], row["kind"], row["data"]) for row in rows]
        return found, ended and len(found) < _EVENTS_AT_ONCE


def run_view(row: RowMapping | dict[str, Any]) -> Run:
    """A run as clients see it."""
    spec = msgspec.json.decode(row["spec"], type=RunSpec)
    return Run(
        id=row["id"],
        job=row["job_id"],
        kind=row["kind"],
        name=spec.name,
        repository=spec.repository,
        state=row["state"],
        attempt=row["attempt"],
        due=utc(row["due"]),
        not_before=utc(row["not_before"]),
        created=utc(row["created"]),
        started=utc_or_none(row["started"]),
        finished=utc_or_none(row["finished"]),
        cancel_requested=row["cancel_requested"],
        result=msgspec.json.decode(row["result"]) if row["result"] else {},
        error=row["error"],
    )
