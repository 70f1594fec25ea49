"""Staying awake between requests that follow each other closely.

A request takes some ten microseconds. To wake a processor that has gone idle takes as long or longer, above all on a
virtual machine, and so does a turn of the event loop with all that it looks after; a program that looks at many files
waits for both for each of them. So whoever waits for requests looks for the next one himself, again and again, in the
first moment after the last one, and only then gives way to the event loop. This costs processor time only while
somebody reads. When a request waits for the storage, other threads need the processor more.
"""

from __future__ import annotations

import select
from time import perf_counter
from typing import Any, Final

import trio

from mount.bridge import Bridge

_AWAKE_S: Final = 0.0003
"""Seconds: what the usual programs do between two requests takes less (tar, find, grep: 20 to 200 microseconds)."""

_PREEMPTED_S: Final = 0.002
_REST_S: Final = 1.0
"""Seconds: who was kept from looking for so long shares the processor, and by looking would only lose what the system
grants to those who sleep. So it sleeps when there is nothing to do, for a while."""

_TURN: Final = 32
"""Requests after which the event loop has a turn in any case: for timers, signals, and what threads have done."""


class Awake:
    """Waits for requests in place of the event loop. Belongs to the event loop's thread."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._until = 0.0
        self._rest = 0.0
        self._turns = 0
        self._device = -1
        self._requests = select.poll()

    def note(self) -> None:
        """There was a request: another one may follow."""
        self._until = perf_counter() + _AWAKE_S

    async def wait_readable(self, device: int) -> None:
        """As `trio.lowlevel.wait_readable`, but no checkpoint where a request is there, or comes soon."""
        self._turns += 1
        if self._turns % _TURN == 0 or not self._comes(device):
            await trio.lowlevel.wait_readable(device)

    def _comes(self, device: int) -> bool:
        """Whether there is a request now or in a moment."""
        if device != self._device:
            self._requests, self._device = select.poll(), device
            self._requests.register(device, select.POLLIN)
        now, until, poll = perf_counter(), self._until, self._requests.poll
        while not poll(0):
            if now >= until or now < self._rest or self._bridge.waiting:
                return False
            before, now = now, perf_counter()
            if now - before > _PREEMPTED_S:
                self._rest = now + _REST_S
        return True


class ReadLock:
    """Lets one task at a time wait for requests.

    Unlike trio's it costs no checkpoint, and goes to whoever comes first: a task that has answered without waiting for
    anything takes the next request itself, and those that wait for the lock have it when that one has to wait.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(self, *exc: object) -> None:
        self._held = False
        self._waiting.unpark()


class Loop:
    """What pyfuse3 uses of trio, with `Awake` and `ReadLock` in their places."""

    Lock = ReadLock

    def __init__(self, awake: Awake) -> None:
        self.lowlevel = _LowLevel(awake)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


class _LowLevel:
    def __init__(self, awake: Awake) -> None:
        self.wait_readable = awake.wait_readable

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)
