"""What a runner is, and the part that all of them share: what is due becomes a run, and what was lost is found."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final, Protocol

from api.runners.carrier import Pace
from api.runners.telling import Teller
from api.services.runqueue import RunQueue, Waiting

log: Final = logging.getLogger("backupforge.runs")


class Runner(Protocol):
    """Sees to it that runs are carried out, here or elsewhere. Belongs to one loop."""

    async def run(self) -> None:
        """Until it is cancelled, which ends what is under way and says so."""

    def wake(self) -> None:
        """There may be something to do at once. From the loop's thread."""


class Dispatch:
    """Looks every few seconds for what is due, lost, or waiting. Any number of machines may do so at the same time."""

    def __init__(self, queue: RunQueue, teller: Teller, pace: Pace) -> None:
        self._queue = queue
        self._teller = teller
        self._pace = pace
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look at once."""
        self._woken.set()

    async def pause(self) -> None:
        """Until it is time to look again, or somebody says so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.look_s):
                await self._woken.wait()
        self._woken.clear()

    async def look(self) -> list[Waiting]:
        """The runs that could begin. Errors are logged: the next look may succeed."""
        try:
            await asyncio.to_thread(self._queue.make_due)
            for ending in await asyncio.to_thread(self._queue.recover):
                log.warning("run %s was lost with its worker%s", ending.run_id, "; again" if ending.retried else "")
                await asyncio.to_thread(self._teller.tell, ending)
            return await asyncio.to_thread(self._queue.waiting)
        except Exception:
            log.exception("jobs cannot be looked at; the next look is in %s s", self._pace.look_s)
            return []
