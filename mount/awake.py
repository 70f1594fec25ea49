"""Staying awake between requests that follow each other closely.

A request takes some ten microseconds; to wake a processor that has gone idle takes as long or longer, above all on a
virtual machine, and a program that reads many files waits for that two or three times for each. So the event loop does
not sleep in the first moment after a request. This costs processor time only while somebody reads; when a request waits
for the storage, other threads need the processor more.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import trio

from mount.bridge import Bridge

_AWAKE_S: Final = 0.0005
"""Seconds: what the usual programs do between two requests takes less (tar, find, grep: 20 to 200 microseconds)."""


class Awake:
    """Keeps the event loop from sleeping for a moment after each `note`. Belongs to the event loop's thread."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._until = 0.0
        self._asleep = trio.lowlevel.ParkingLot()

    def note(self) -> None:
        """There was a request: another one may follow."""
        self._until = perf_counter() + _AWAKE_S
        if self._asleep:
            self._asleep.unpark()

    async def watch(self) -> None:
        """Runs as a task of its own, until it is cancelled."""
        while True:
            if perf_counter() < self._until and not self._bridge.waiting:
                await trio.lowlevel.checkpoint()
            else:
                await self._asleep.park()
