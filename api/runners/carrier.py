"""Carrying out a run that was claimed: its process, its heartbeat, what it says, its end, and who is told.

Whichever way the run gets here, the embedded runner or a worker, this is what happens to it. When the database cannot
be reached for so long that others may take the run for lost, its process is ended: nobody else shall find it working.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from api.problems import Problem
from api.runners.allotment import Allotment
from api.runners.orders import END, Order
from api.runners.process import Process, module_command
from api.runners.room import ROOM, Granted
from api.services.runqueue import Claim, Ending, EndState, RunQueue
from bfrepo.core.errors import BackupForgeError

log: Final = logging.getLogger("backupforge.runs")

CHILD: Final = module_command("api.runners.child")

_FLUSH_S: Final = 0.5
_MOST_EVENTS: Final = 2000
"""Events that are kept of one run. Its progress does not count, of which only the newest is kept."""
_ENDS: Final = frozenset({"done", "incomplete", "failed", "interrupted"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often things are done, in seconds.

    `stale_s` without a heartbeat make a run one that was lost; its process ends within `end_s` when its runner has gone
    or cannot beat, which has to be well before.
    """

    look_s: float = 2.0
    beat_s: float = 5.0
    stale_s: float = 60.0
    end_s: float = 20.0


@dataclass(slots=True)
class _Account:
    """What a process has told so far, as far as it is not in the database yet, and its last word."""

    waiting: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    progress: dict[str, Any] | None = None
    kept: int = 0
    end: dict[str, Any] | None = None

    def take(self, kind: str, data: dict[str, Any]) -> None:
        if kind == END:
            self.end = data
        elif kind == "progress":
            self.progress = data
        elif self.kept < _MOST_EVENTS:
            self.kept += 1
            self.waiting.append((kind, data))

    def drain(self) -> list[tuple[str, dict[str, Any]]]:
        events = [*self.waiting, *([("progress", self.progress)] if self.progress is not None else [])]
        self.waiting, self.progress = [], None
        return events


class Carrier:
    """Carries out runs. Belongs to one loop."""

    def __init__(
        self,
        queue: RunQueue,
        make_order: Callable[[Claim], Order],
        allotment: Allotment,
        tell_people: Callable[[Ending], object],
        pace: Pace,
        command: Sequence[str] = CHILD,
    ) -> None:
        """`make_order`, `allotment` and `tell_people` block and are called in threads.

        The first may raise what it likes.
        """
        self._queue = queue
        self._make_order = make_order
        self._allotment = allotment
        self._tell_people = tell_people
        self._pace = pace
        self._command = command

    async def carry_out(self, claim: Claim) -> None:
        """Everything from the claim to the notification. Cancelled, it ends the process and says so."""
        account = _Account()
        try:
            state, error = await self._work(claim, account)
        except asyncio.CancelledError:
            await self._finish(claim, "interrupted", "the server or worker was stopped", account)
            raise
        await self._finish(claim, state, error, account)

    async def _work(self, claim: Claim, account: _Account) -> tuple[EndState, str]:
        try:
            order = await asyncio.to_thread(self._make_order, claim)
            process = await Process.start(self._command, msgspec.json.encode(order))
        except (BackupForgeError, Problem, OSError) as error:
            return "failed", error.detail if isinstance(error, Problem) else str(error)
        async with self._attended(claim, process, account):
            async for line in process.events():
                if line.kind == ROOM:
                    await self._allot(order, process, line.data)
                else:
                    account.take(line.kind, line.data)
            status = await process.wait()
        await self._settle(order)
        return self._judge(account, status, process)

    async def _allot(self, order: Order, process: Process, data: dict[str, Any]) -> None:
        """Answer a question for room. A database that does not answer is waited for, as long as the run may go on."""
        while True:
            try:
                room = await asyncio.to_thread(self._allotment.grant, order.opening, data["least"], data["wanted"])
                break
            except SQLAlchemyError:
                log.warning("a run waits for room, and the database does not answer", exc_info=True)
                await asyncio.sleep(1.0)
        await process.tell(msgspec.json.encode(Granted(room)))

    async def _settle(self, order: Order) -> None:
        """What was not used is given back, and what was deleted. If that fails, the hourly count does it."""
        try:
            await asyncio.to_thread(self._allotment.settle, order.opening)
        except Exception:  # the run has ended as it has, all the same
            log.warning("a store could not be counted after a run", exc_info=True)

    def _judge(self, account: _Account, status: int, process: Process) -> tuple[EndState, str]:
        end = account.end
        if end is not None and end.get("state") in _ENDS:
            return cast(EndState, end["state"]), str(end.get("error", ""))
        log.warning("a run's process ended with status %s: %s", status, process.last_words)
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return "failed", f"the process of the run {how}"

    @contextlib.asynccontextmanager
    async def _attended(self, claim: Claim, process: Process, account: _Account) -> AsyncIterator[None]:
        """While inside, the run beats and its events are kept; whatever happens, no process is left."""
        attending = asyncio.create_task(self._attend(claim, process, account))
        try:
            yield
        except asyncio.CancelledError:
            await self._end(process)
            raise
        finally:
            attending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attending
            process.kill()

    async def _attend(self, claim: Claim, process: Process, account: _Account) -> None:
        loop = asyncio.get_running_loop()
        beaten, ending = loop.time(), None
        while True:
            await asyncio.sleep(min(_FLUSH_S, self._pace.beat_s))
            try:
                await self._flush(claim, account)
                if loop.time() - beaten >= self._pace.beat_s:
                    wanted = await asyncio.to_thread(self._queue.beat, claim)
                    beaten = loop.time()
                    if wanted == "lost":
                        process.kill()
                        return
                    if wanted == "cancel" and ending is None:
                        ending = asyncio.create_task(self._end(process))
            except Exception:
                log.warning("run %s: the database does not answer", claim.run_id, exc_info=True)
            if loop.time() - beaten > self._pace.stale_s - self._pace.end_s:
                log.error("run %s is ended, as the database has not answered for long", claim.run_id)
                process.kill()
                return

    async def _end(self, process: Process) -> None:
        """Ask the process to end, and make it if it does not."""
        process.stop()
        try:
            async with asyncio.timeout(self._pace.end_s):
                await process.wait()
        except TimeoutError:
            process.kill()

    async def _flush(self, claim: Claim, account: _Account) -> None:
        events = account.drain()
        if not events:
            return
        try:
            await asyncio.to_thread(self._queue.tell, claim, events)
        except Exception:
            account.waiting[:0] = [event for event in events if event[0] != "progress"]
            raise

    async def _finish(self, claim: Claim, state: EndState, error: str, account: _Account) -> None:
        """Keep how it ended, for as long as nobody else can have taken the run for lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._pace.stale_s
        result = (account.end or {}).get("result") or {}
        while True:
            try:
                await self._flush(claim, account)
                ending = await asyncio.to_thread(self._queue.finish, claim, state, error, result)
                break
            except Exception:
                log.warning("run %s has ended, and the database does not answer", claim.run_id, exc_info=True)
                if loop.time() > deadline:
                    return
                await asyncio.sleep(1.0)
        if ending is not None:
            await asyncio.to_thread(self._tell_people, ending)
