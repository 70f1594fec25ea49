"""How much a job may store: asked of the runner before it is written, as clients' uploads are counted before they come.

The job's process says {"kind": "room", "data": {"least": bytes, "wanted": bytes}}; the runner counts as much for the
tenant, and answers with a line that has the bytes it has counted: `wanted`, or `least`, or 0 when the quota allows
neither. What was not used in the end is given back when the run has ended and the store is counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

import msgspec

from bfrepo.core.errors import StorageFull

ROOM: Final = "room"

_PIECE: Final = 64 << 20
"""What is asked for at a time: a question for each pack would be many, and more would keep others from storing."""


class Granted(msgspec.Struct):
    """The runner's answer."""

    bytes: int


class Room:
    """The room that a job has. Thread-safe."""

    def __init__(self, ask: Callable[[int, int], None]) -> None:
        """`ask` sends a question: the bytes that are needed at least, and those that are wanted."""
        self._ask = ask
        self._left = 0
        self._lock = threading.Lock()
        self._answers: SimpleQueue[int] = SimpleQueue()

    def take(self, size: int) -> None:
        """Before `size` bytes are stored. Blocks until there is an answer. Raises StorageFull."""
        with self._lock:
            if size > self._left:
                least = size - self._left
                self._ask(least, max(least, _PIECE))
                self._left += self._answers.get()
            if size > self._left:
                raise StorageFull("the tenant's quota is used up", hint="forget snapshots, and prune")
            self._left -= size

    def answer(self, line: bytes) -> None:
        """The next answer, as it came. Raises msgspec.DecodeError for what is none."""
        self._answers.put(msgspec.json.decode(line, type=Granted).bytes)
