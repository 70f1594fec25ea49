"""Staying awake between requests that follow each other closely.

A request takes some ten microseconds; to wake a processor that has gone idle takes as long or longer, above all on a
virtual machine, and a program that reads many files waits for that for each of them. So before the event loop goes to
sleep it looks for the next request again and again, in the first moment after the last one. This costs processor time
only while somebody reads. When a request waits for the storage, other threads need the processor more.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Final

import trio

from mount.bridge import Bridge

_AWAKE_S: Final = 0.0003
"""Seconds: what the usual programs do between two requests takes less (tar, find, grep: 20 to 200 microseconds)."""

_PREEMPTED_S: Final = 0.002
_REST_S: Final = 1.0
"""Seconds: who was kept from looking for so long shares the processor, and by looking would only lose what the system
grants to those who sleep. So it sleeps when there is nothing to do, for a while."""

_DEVICE: Final = "/dev/fuse"


class Awake(trio.abc.Instrument):
    """Keeps the event loop from sleeping for a moment after each `note`. Belongs to the event loop's thread."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._until = 0.0
        self._rest = 0.0
        self._requests = select.poll()

    def note(self) -> None:
        """There was a request: another one may follow."""
        self._until = perf_counter() + _AWAKE_S

    async def watch(self) -> None:
        """Runs as a task of its own while there is a mount, until it is cancelled."""
        device = _open_device()
        if device is not None:
            self._requests.register(device, select.POLLIN)
            trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            if device is not None:
                trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """See trio.abc.Instrument: called each time before the event loop may sleep, for so many seconds."""
        now, until, poll = perf_counter(), self._until, self._requests.poll
        if timeout <= 0 or self._bridge.waiting or now < self._rest:
            return
        while now < until and not poll(0):
            before, now = now, perf_counter()
            if now - before > _PREEMPTED_S:
                self._rest = now + _REST_S


def _open_device() -> int | None:
    """The file descriptor that requests come from; pyfuse3 keeps it to itself."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one of this very listing is gone
            if os.readlink(entry) == _DEVICE:
                return int(entry.name)
    return None
