"""From the event loop to threads and back: whatever may wait for the storage happens in a thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

T = TypeVar("T")

_THREADS: Final = 8
"""Requests that wait for the storage at the same time; others wait for their turn. A thread needs up to 3 MiB to open
frames with."""


class Bridge:
    """Runs blocking calls for tasks; `waiting` is how many are under way. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self.waiting = 0
        self._limiter = trio.CapacityLimiter(_THREADS)

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises, when it is done in another thread.

        A task that is cancelled leaves the call to its fate: a storage that hangs must not keep a mount from ending.
        """
        self.waiting += 1
        try:
            return await trio.to_thread.run_sync(call, limiter=self._limiter, abandon_on_cancel=True)
        finally:
            self.waiting -= 1
