"""From a claimed run to the order for its process: what opens the repository, and what the operator allows. Blocks."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from msgspec.structs import replace
from sqlalchemy import func, select

from api.config import ServerConfig
from api.db.engine import Database
from api.db.schema import stores, tenants
from api.db.tenancy import Tenancy
from api.problems import Problem
from api.runners.orders import Hooks, Order, Place
from api.services.allowances import (
    Allowance,
    AllowedHost,
    cluster_of,
    hook_command,
    load_allowance,
    readable_paths,
    remote_paths,
    restore_target,
)
from api.services.jobspecs import HookNames, JobSpec, Kind
from api.services.locations import STORE, Opening
from api.services.runqueue import Claim
from bfrepo.core.units import format_size

OpenTo = Callable[[str, str], Opening]
"""(tenant's ID, repository's ID) -> what opens it. Raises Problem where there is none."""


class Orders:
    """Makes orders. Thread-safe."""

    def __init__(self, config: ServerConfig, database: Database, opening: OpenTo) -> None:
        self._config = config
        self._database = database
        self._opening = opening

    def make(self, claim: Claim) -> Order:
        """The order for a run. Raises Problem for what is not allowed or gone, and the library's errors."""
        allowance = load_allowance(self._config.data, claim.tenant)
        spec = claim.spec
        order = Order(
            name=spec.name,
            place=Place(data=str(self._config.data), allowed_locations=self._config.allowed_locations),
            opening=self._opening(claim.tenant_id, spec.repository),
        )
        if spec.job is not None:
            if spec.job.kind is Kind.BACKUP and order.opening.location.startswith(STORE):
                self._check_quota(claim.tenant_id)
                order.metered = True
            (order.job, order.host), order.hooks = _allowed(allowance, spec.job), _commands(allowance, spec.job.hooks)
            if spec.job.proxmox is not None:
                order.cluster = cluster_of(allowance, spec.job.proxmox.cluster)
        if spec.restore is not None:
            order.restore = replace(spec.restore, target=restore_target(allowance, spec.restore.target))
        return order

    def _check_quota(self, tenant_id: str) -> None:
        """A backup into a store does not begin when the quota is used up, as clients' uploads are not taken then."""
        quota = select(tenants.c.quota_bytes).where(tenants.c.id == tenant_id)
        used = Tenancy(tenant_id).select(stores, func.coalesce(func.sum(stores.c.bytes), 0))
        with self._database.read() as connection:
            limit = connection.execute(quota).scalar()
            if limit is not None and connection.execute(used).scalar_one() >= limit:
                raise Problem(
                    HTTPStatus.INSUFFICIENT_STORAGE,
                    "over-quota",
                    f"the tenant's quota of {format_size(limit)} is used up: forget snapshots, and prune",
                )


def _allowed(allowance: Allowance, job: JobSpec) -> tuple[JobSpec, AllowedHost | None]:
    """The job with paths as they really are, all of them allowed, and the host that they are on."""
    source, host = job.source, None
    if source is None:
        return job, None
    if source.remote is None:
        paths = readable_paths(allowance, source.paths)
    else:
        host, paths = remote_paths(allowance, source.remote, source.paths)
    return replace(job, source=replace(source, paths=paths)), host


def _commands(allowance: Allowance, names: HookNames) -> Hooks:
    return Hooks(
        before=tuple(hook_command(allowance, name) for name in names.before),
        after=tuple(hook_command(allowance, name) for name in names.after),
        failure=tuple(hook_command(allowance, name) for name in names.failure),
    )
