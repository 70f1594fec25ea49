"""One worker process: carries out runs of the servers on a PostgreSQL database, on whichever machine it is started."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from api.config import ServerConfig, load_server_keys
from api.db.engine import Database
from api.db.migrate import migrate
from api.runners.assembly import USUAL_PACE, Parts
from api.runners.carrier import CHILD, Pace
from api.runners.tasks import Worker, make_queue
from api.services.repositories import Repositories
from bfrepo.core.clock import Clock
from bfrepo.core.errors import UsageError

_CONNECTIONS: Final = 4


def work(
    config: ServerConfig,
    clock: Clock,
    on_ready: Callable[[], None],
    *,
    pace: Pace = USUAL_PACE,
    command: Sequence[str] = CHILD,
) -> None:
    """Carry out runs, `config.slots` at once, until SIGTERM or SIGINT. For the main thread.

    Raises UsageError for a database that is not PostgreSQL, BackupForgeError for one that does not answer.
    """
    database = Database(config.database, connections=config.slots + _CONNECTIONS)
    if database.is_sqlite:
        raise UsageError(
            "workers need a PostgreSQL database", hint="with SQLite the server runs jobs itself; nothing else is needed"
        )
    keys = load_server_keys(config.data, make=False)
    os.umask(0o077)
    migrate(database)
    known = Repositories(database, keys, clock, config)
    parts = Parts(config, keys, clock, database, known.opening, pace=pace, command=command)
    try:
        asyncio.run(_work(config, parts, on_ready))
    finally:
        database.close()


async def _work(config: ServerConfig, parts: Parts, on_ready: Callable[[], None]) -> None:
    worker = Worker(parts.dispatch, make_queue(config.database), parts.crew(config.slots), slots=config.slots)
    task = asyncio.create_task(worker.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    on_ready()
    with suppress(asyncio.CancelledError):
        await task
