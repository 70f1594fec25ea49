"""What the application holds, under typed keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Final, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from aiohttp import web

from api.config import ServerConfig, ServerKeys
from api.db.engine import Database
from api.downloads import Downloads, Turns
from api.identity import Caller
from api.problems import Problem
from api.runners.base import Runner
from api.services.accounts import Accounts
from api.services.auditing import AuditLog
from api.services.catalogue import Catalogue
from api.services.contents import Contents
from api.services.jobs import Jobs
from api.services.measuring import Measurer
from api.services.members import Members
from api.services.opened import OpenRepositories
from api.services.repositories import Repositories
from api.services.runs import Runs
from api.services.snapshots import Snapshots
from api.services.storage import Storage
from api.services.stores import Stores
from api.services.tenants import Tenants
from api.services.tokens import Tokens
from bfrepo.core.clock import Clock

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """Threads for blocking work, as many as the server allows; what is more waits its turn. Belongs to one loop."""

    def __init__(self, count: int, name: str = "server", *, at_most: int | None = None) -> None:
        """`at_most` limits what is done and waits together; None for no limit."""
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._at_most = at_most
        self._taken = 0

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `work`, done in a thread. Raises Problem (503) when too much waits already."""
        if self._at_most is not None and self._taken >= self._at_most:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "too many ask at once", headers={"Retry-After": "5"})
        self._taken += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, partial(work, *args, **kwargs))
        future.add_done_callback(self._give_back)
        return await future

    def _give_back(self, _done: object) -> None:
        self._taken -= 1

    def close(self) -> None:
        """Wait for what is going on, and take nothing more."""
        self._pool.shutdown(cancel_futures=True)


class FairThreads(Threads):
    """Threads of which a tenant gets some and no more, so that a storage that hangs holds up its owner alone."""

    def __init__(self, count: int, name: str, of_a_tenant: int) -> None:
        super().__init__(count, name)
        self._of_a_tenant = of_a_tenant
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run_for(self, tenant_id: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `run`, when the tenant's turn has come."""
        turn = self._turns.get(tenant_id)
        if turn is None:
            turn = self._turns[tenant_id] = asyncio.Semaphore(self._of_a_tenant)
        async with turn:
            return await self.run(work, *args, **kwargs)


@dataclass(slots=True)
class Services:
    """What handlers work with. Made by `make_app`, one for each application."""

    config: ServerConfig
    keys: ServerKeys = field(repr=False)
    clock: Clock
    database: Database
    threads: Threads
    accounts: Accounts
    tokens: Tokens
    tenants: Tenants
    members: Members
    audit_log: AuditLog
    stores: Stores
    repositories: Repositories
    opened: OpenRepositories
    catalogue: Catalogue
    snapshots: Snapshots
    contents: Contents
    storage: Storage
    measurer: Measurer
    reading: FairThreads
    """Threads for what looks into repositories, whose storage may be far away or not answer."""
    downloads: Downloads
    watchers: Turns
    """Turns for those who watch runs: each asks the database again and again."""
    data_threads: Threads
    """Threads for what clients store and read, so that it does not hold up other work."""
    jobs: Jobs
    runs: Runs
    runner: Runner
    logins: Threads
    """Threads for what hashes passwords, so that it does not hold up other work."""
    authenticate: Callable[[str, str | None], Awaitable[Caller]]
    """The caller whom a token names, if it allows the scope. Raises Problem (401, 403)."""
    likely_hashes: dict[str, str] = field(default_factory=dict)
    """By a store's ID the hash that its last object was named by, which the next one probably is, too."""


SERVICES: Final = web.AppKey("services", Services)
OPENAPI: Final = web.AppKey("openapi", bytes)
"""The OpenAPI document of the application."""
CALLER: Final = web.RequestKey("caller", Caller)
"""The key in a request of who sent it."""
REQUEST_ID: Final = web.RequestKey("request_id", str)
"""The key in a request of its ID, which is in the answer's X-Request-ID and in every line of the log."""
