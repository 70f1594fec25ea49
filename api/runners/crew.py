"""The runs that go on in this process, so many at once. Belongs to one loop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Final

from api.runners.carrier import Carrier
from api.services.runqueue import RunQueue

log: Final = logging.getLogger("backupforge.runs")


class Crew:
    """Claims runs and carries them out."""

    def __init__(self, queue: RunQueue, carrier: Carrier, *, slots: int, on_end: Callable[[], None]) -> None:
        """`slots` is how many runs go on at once; `on_end` is called when one has ended."""
        self._queue = queue
        self._carrier = carrier
        self._slots = slots
        self._on_end = on_end
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_full(self) -> bool:
        """Whether there is no slot left."""
        return len(self._tasks) >= self._slots

    def begin(self, run_id: str) -> asyncio.Task[None]:
        """Carry out a run if nobody else has it. It goes on when whoever waits for it goes away."""
        task = asyncio.create_task(self._carry_out(run_id))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def leave(self) -> None:
        """End all of them, and say so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry_out(self, run_id: str) -> None:
        claim = await asyncio.to_thread(self._queue.claim, run_id, self._name)
        if claim is not None:
            await self._carrier.carry_out(claim)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a run could not be carried out", exc_info=task.exception())
        self._on_end()
