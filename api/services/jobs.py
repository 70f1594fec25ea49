"""Jobs: what is planned, for which repository, and when. Every method blocks.

Operators plan backups and checks; whatever removes data, or changes what does, takes an administrator. What a job reads
and runs has to be allowed by the operator of the server: `allowances`.
"""

from __future__ import annotations

import secrets
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy import Connection, RowMapping, func, select
from sqlalchemy.exc import IntegrityError

from api.config import ServerConfig, ServerKeys
from api.db.engine import Database
from api.db.schema import jobs, repositories, run_events, runs, tenants
from api.db.tenancy import Tenancy
from api.fields import Title, utc, utc_or_none
from api.identity import Access, Caller
from api.paging import Paged, cut_page, page_of
from api.problems import Problem, not_found
from api.services.allowances import cluster_of, hook_command, load_allowance, readable_paths, remote_paths
from api.services.audit import Origin, record
from api.services.jobspecs import GuestSource, HookNames, JobSpec, Retention, Retries, Short, Source, check_spec
from api.services.notices import Target, check_target, seal_targets, shown_target, unseal_targets
from api.services.runqueue import following_due, insert_run, spec_of
from api.services.runs import Run, run_view
from api.services.schedules import Schedule, check_schedule
from api.services.tenants import check_version
from bfrepo.core.clock import Clock

_MOST: Final = 1000
"""Jobs of one tenant."""


class JobRequest(JobSpec, kw_only=True, forbid_unknown_fields=True):
    """A job that is to be."""

    name: Title
    repository: Short
    enabled: bool = True
    targets: tuple[Target, ...] = ()


class JobChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is to change; the rest stays. What a job does, and where, never changes: make another one for that."""

    name: Title | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    source: Source | UnsetType = UNSET
    proxmox: GuestSource | UnsetType = UNSET
    schedule: Schedule | UnsetType | None = UNSET
    retention: Retention | UnsetType | None = UNSET
    hooks: HookNames | UnsetType = UNSET
    retries: Retries | UnsetType = UNSET
    tags: tuple[Short, ...] | UnsetType = UNSET
    host: Short | UnsetType | None = UNSET
    notify: Literal["never", "failure", "always"] | UnsetType = UNSET
    targets: tuple[Target, ...] | UnsetType = UNSET


class Job(JobSpec, kw_only=True):
    """A job as answers show it. Of `targets` only kind and host are told, as the rest of them may be a password."""

    id: str
    name: str
    repository: str
    enabled: bool
    targets: list[str]
    next_due: datetime | None
    created: datetime
    version: int


class JobPage(msgspec.Struct):
    """Some jobs, by name."""

    items: list[Job]
    next_cursor: str


class Jobs:
    """Jobs of tenants. Thread-safe."""

    def __init__(self, database: Database, keys: ServerKeys, clock: Clock, config: ServerConfig) -> None:
        self._database = database
        self._keys = keys
        self._clock = clock
        self._config = config

    def page(self, caller: Caller, page: Paged) -> JobPage:
        """The tenant's jobs."""
        query = page_of(Tenancy(caller.tenant_id).select(jobs), (jobs.c.name,), page)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        shown, cursor = cut_page(rows, page, lambda row: (row["name"],))
        return JobPage([self._view(row) for row in shown], cursor)

    def get(self, caller: Caller, job_id: str) -> Job:
        """One of them. Raises Problem."""
        with self._database.read() as connection:
            return self._view(find_job(connection, caller, job_id))

    def create(self, origin: Origin, caller: Caller, request: JobRequest) -> Job:
        """Plan a job. Raises Problem: 403 for what the caller or the tenant may not do, 409 for a name that is taken;
        and the library's errors for what makes no sense."""
        spec = JobSpec(**{name: getattr(request, name) for name in JobSpec.__struct_fields__})
        _check_rank(caller, spec)
        self._check(caller, spec)
        job_id, now = secrets.token_hex(16), self._now()
        row: dict[str, Any] = {
            "id": job_id,
            "name": request.name,
            "kind": spec.kind.value,
            "repository_id": request.repository,
            "spec": msgspec.json.encode(spec).decode(),
            "sealed_targets": self._seal(caller, job_id, request.targets),
            "enabled": request.enabled,
            "created": now,
            "version": 1,
        }
        row["next_due"] = following_due(row, now) if request.enabled else None
        try:
            with self._database.write() as connection:
                self._check_room(connection, caller, request.repository)
                connection.execute(Tenancy(caller.tenant_id).insert(jobs, **row))
                record(connection, origin, "job.create", job_id, f"{spec.kind} {request.name}")
        except IntegrityError as error:
            raise _name_taken(request.name) from error
        return self._view({**row, "tenant_id": caller.tenant_id})

    def change(self, origin: Origin, caller: Caller, job_id: str, expected: int | None, change: JobChange) -> Job:
        """Change a job. Its next run is planned anew. Raises Problem: 403, 404, 409, 412; and the library's errors."""
        given = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not UNSET}
        parts = {name: value for name, value in given.items() if name in JobSpec.__struct_fields__}
        try:
            with self._database.write() as connection:
                row = find_job(connection, caller, job_id, lock=True)
                check_version(row, expected)
                spec = msgspec.structs.replace(before := _spec(row), **parts)
                for each in (before, spec):
                    _check_rank(caller, each)
                if parts:
                    self._check(caller, spec)
                new: dict[str, Any] = {name: given[name] for name in ("name", "enabled") if name in given}
                new |= {"spec": msgspec.json.encode(spec).decode(), "version": row["version"] + 1}
                if "targets" in given:
                    new["sealed_targets"] = self._seal(caller, job_id, given["targets"])
                merged = {**row, **new}
                if "schedule" in given or "enabled" in given:
                    merged["next_due"] = new["next_due"] = (
                        following_due(merged, self._now()) if merged["enabled"] else None
                    )
                connection.execute(Tenancy(caller.tenant_id).update(jobs).where(jobs.c.id == job_id).values(new))
                record(connection, origin, "job.change", job_id, " ".join(sorted(given)))
                return self._view(merged)
        except IntegrityError as error:
            raise _name_taken(str(given.get("name"))) from error

    def delete(self, origin: Origin, caller: Caller, job_id: str, expected: int | None) -> None:
        """Remove a job and the account of its runs. Raises Problem: 403, 404, 409 while it runs, 412."""
        mine = Tenancy(caller.tenant_id)
        with self._database.write() as connection:
            row = find_job(connection, caller, job_id, lock=True)
            check_version(row, expected)
            _check_rank(caller, _spec(row))
            of_job = mine.select(runs, runs.c.id).where(runs.c.job_id == job_id)
            states = mine.select(runs, runs.c.state).where(runs.c.job_id == job_id).with_for_update()
            if "running" in connection.execute(states).scalars().all():
                raise Problem(HTTPStatus.CONFLICT, "job-runs", "the job runs", hint="cancel its run first")
            connection.execute(mine.delete(run_events).where(run_events.c.run_id.in_(of_job)))
            connection.execute(mine.delete(runs).where(runs.c.job_id == job_id))
            connection.execute(mine.delete(jobs).where(jobs.c.id == job_id))
            record(connection, origin, "job.delete", job_id, row["name"])

    def run(self, origin: Origin, caller: Caller, job_id: str) -> Run:
        """Run a job now, whatever its schedule says. One that waits already is enough. Raises Problem."""
        mine, now, run_id = Tenancy(caller.tenant_id), self._now(), secrets.token_hex(16)
        with self._database.write() as connection:
            row = find_job(connection, caller, job_id, lock=True)
            waits = mine.select(runs).where(
                runs.c.job_id == job_id, runs.c.state == "pending", runs.c.not_before <= now
            )
            found = connection.execute(waits.limit(1)).mappings().one_or_none()
            if found is None:
                insert_run(connection, caller.tenant_id, spec_of(row), now, job_id=job_id, due=now, run_id=run_id)
                found = connection.execute(mine.select(runs).where(runs.c.id == run_id)).mappings().one()
            record(connection, origin, "job.run", job_id, found["id"])
        return run_view(found)

    def _check(self, caller: Caller, spec: JobSpec) -> None:
        """Raises the library's errors for what makes no sense or is not allowed here."""
        check_spec(spec)
        if spec.schedule is not None:
            check_schedule(spec.schedule)
        with self._database.read() as connection:
            tenant = connection.execute(select(tenants.c.name).where(tenants.c.id == caller.tenant_id)).scalar_one()
        allowance = load_allowance(self._config.data, tenant)
        if spec.source is not None and spec.source.remote is not None:
            remote_paths(allowance, spec.source.remote, spec.source.paths)
        elif spec.source is not None:
            readable_paths(allowance, spec.source.paths)
        if spec.proxmox is not None:
            cluster_of(allowance, spec.proxmox.cluster)
        for name in spec.hooks.all():
            hook_command(allowance, name)

    def _check_room(self, connection: Connection, caller: Caller, repository_id: str) -> None:
        mine = Tenancy(caller.tenant_id)
        known = mine.select(repositories, repositories.c.id).where(repositories.c.id == repository_id)
        if connection.execute(known).first() is None:
            raise Problem(HTTPStatus.BAD_REQUEST, "unknown-repository", "there is no such repository")
        if connection.execute(mine.select(jobs, func.count())).scalar_one() >= _MOST:
            raise Problem(HTTPStatus.CONFLICT, "too-many-jobs", f"a tenant may have {_MOST} jobs")

    def _seal(self, caller: Caller, job_id: str, targets: tuple[str, ...]) -> bytes | None:
        for target in targets:
            check_target(target)
        return seal_targets(self._keys, caller.tenant_id, job_id, targets) if targets else None

    def _view(self, row: RowMapping | dict[str, Any]) -> Job:
        sealed = row["sealed_targets"]
        targets = unseal_targets(self._keys, row["tenant_id"], row["id"], sealed) if sealed else ()
        return Job(
            id=row["id"],
            name=row["name"],
            repository=row["repository_id"],
            enabled=row["enabled"],
            targets=[shown_target(target) for target in targets],
            next_due=utc_or_none(row["next_due"]),
            created=utc(row["created"]),
            version=row["version"],
            **msgspec.structs.asdict(_spec(row)),
        )

    def _now(self) -> float:
        return self._clock.now().timestamp()


def find_job(connection: Connection, caller: Caller, job_id: str, *, lock: bool = False) -> RowMapping:
    """A job of the caller's tenant. Raises Problem for any other."""
    query = Tenancy(caller.tenant_id).select(jobs).where(jobs.c.id == job_id)
    row = connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise not_found("job")
    return row


def _spec(row: RowMapping | dict[str, Any]) -> JobSpec:
    return msgspec.json.decode(row["spec"], type=JobSpec)


def _check_rank(caller: Caller, spec: JobSpec) -> None:
    if spec.deletes and not caller.may(Access.ADMIN):
        raise Problem(HTTPStatus.FORBIDDEN, "not-allowed", "jobs that remove snapshots or data are for administrators")


def _name_taken(name: str) -> Problem:
    return Problem(HTTPStatus.CONFLICT, "name-taken", f"there is a job {name!r} already")
