"""Runs jobs on any number of machines: procrastinate's queue, in the PostgreSQL database that the server uses.

The queue only says who might begin with which run; the truth about it stays in the table of runs, which a worker asks
before it begins. So a task that is lost with its worker, or comes twice, does no harm: servers and workers put every
run that waits into the queue again, where its queueing lock keeps it from being there more than once at a time.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, Final

from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status
from sqlalchemy.engine import make_url

from api.runners.base import Dispatch
from api.runners.crew import Crew

log: Final = logging.getLogger("backupforge.runs")

QUEUE: Final = "backupforge"
TASK: Final = "backupforge.run"

_RETRY_S: Final = 2.0
_STALLED_S: Final = 60
_SCHEMA_LOCK: Final = 0x6266_7175_6575  # "bfqueu": any number that nobody else takes for a lock in this database


def make_queue(database: str, *, connections: int = 4) -> App:
    """The queue in a database, by its URL. Nothing is connected to yet."""
    url = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
    return App(connector=PsycopgConnector(conninfo=url, min_size=1, max_size=connections))


class DeferringRunner:
    """Puts what waits into the queue, for workers. A Runner."""

    def __init__(self, dispatch: Dispatch, queue: App) -> None:
        self._dispatch = dispatch
        self._queue = queue

    def wake(self) -> None:
        """See Runner."""
        self._dispatch.wake()

    async def run(self) -> None:
        """See Runner. Where the database does not answer, it is asked again."""
        while True:
            try:
                async with self._queue.open_async():
                    await prepare_queue(self._queue)
                    await self._defer_all()
            except ConnectorException:
                log.warning("the queue does not answer; it is asked again in %s s", _RETRY_S, exc_info=True)
            await asyncio.sleep(_RETRY_S)

    async def _defer_all(self) -> None:
        while True:
            await defer_waiting(self._dispatch, self._queue)
            await self._dispatch.pause()


class Worker:
    """Takes runs out of the queue, and puts what waits into it. For one process."""

    def __init__(self, dispatch: Dispatch, queue: App, crew: Crew, *, slots: int) -> None:
        self._dispatch = dispatch
        self._queue = queue
        self._crew = crew
        self._slots = asyncio.Semaphore(slots)
        self._count = slots
        queue.task(name=TASK, queue=QUEUE)(self._carry_out)

    async def run(self) -> None:
        """Until it is cancelled, which ends what is under way and says so."""
        try:
            while True:
                try:
                    async with self._queue.open_async():
                        await prepare_queue(self._queue)
                        await self._work()
                except (ConnectorException, OSError):
                    log.warning("the queue does not answer; it is asked again in %s s", _RETRY_S, exc_info=True)
                await asyncio.sleep(_RETRY_S)
        finally:
            await self._crew.leave()

    async def _work(self) -> None:
        """Until the connection to the database breaks. What is under way goes on then."""
        defer = asyncio.create_task(self._defer_all())
        try:
            await self._queue.run_worker_async(
                queues=[QUEUE],
                concurrency=self._count,
                fetch_job_polling_interval=1.0,
                shutdown_graceful_timeout=0.1,
                delete_jobs="always",
                install_signal_handlers=False,
            )
        finally:
            defer.cancel()
            with suppress(asyncio.CancelledError, ConnectorException):
                await defer

    async def _defer_all(self) -> None:
        while True:
            with suppress(ConnectorException):
                await defer_waiting(self._dispatch, self._queue)
                await _forget_stalled(self._queue)
            await self._dispatch.pause()

    async def _carry_out(self, run_id: str) -> None:
        """The task. Procrastinate ends it when the queue breaks; the run itself goes on."""
        async with self._slots:
            await asyncio.shield(self._crew.begin(run_id))


async def prepare_queue(queue: App) -> None:
    """Make procrastinate's tables if there are none. Of several who try one does it."""
    connector: Any = queue.connector
    async with connector.pool.connection() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_SCHEMA_LOCK])
        found = await connection.execute("SELECT to_regclass('procrastinate_jobs')")
        if (await found.fetchone())[0] is None:
            await connection.execute(queue.schema_manager.get_schema())


async def defer_waiting(dispatch: Dispatch, queue: App) -> None:
    """Put what waits into the queue, as far as it is not there."""
    waiting = await dispatch.look()
    if not waiting:
        return
    known = {job.queueing_lock for job in await queue.job_manager.list_jobs_async(queue=QUEUE, status="todo")}
    for run in waiting:
        lock = f"run {run.run_id}"
        if lock not in known:
            with suppress(AlreadyEnqueued):
                task = queue.configure_task(name=TASK, allow_unknown=True, queue=QUEUE, queueing_lock=lock)
                await task.defer_async(run_id=run.run_id)


async def _forget_stalled(queue: App) -> None:
    """Tasks of workers that have died. What became of their runs is found out without them."""
    for job in await queue.job_manager.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=_STALLED_S):
        await queue.job_manager.finish_job(job, status=Status.FAILED, delete_job=True)
