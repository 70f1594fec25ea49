"""Uploads to a REST server, which wants to know name and length before the first byte: so they wait in memory.

An upload needs as much memory as its object has bytes: a pack for each that is being made. The memory is used again
for the next one, because fresh memory is dear.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from bfrepo.core.protocols import Buffer


class Spools:
    """Memory for uploads: what is given back is lent again. May be used from any thread."""

    def __init__(self, keep: int) -> None:
        self._free: deque[bytearray] = deque(maxlen=keep)

    def take(self) -> bytearray:
        """Some memory, of any size, with whatever is in it."""
        try:
            return self._free.pop()
        except IndexError:
            return bytearray()

    def give_back(self, memory: bytearray) -> None:
        """It may be lent again, unless enough lies there already."""
        self._free.append(memory)

    def clear(self) -> None:
        """Let go of all that is not lent."""
        self._free.clear()


class RestUpload:
    """An object in memory, until `send` gets its name and its bytes."""

    __slots__ = ("_memory", "_send", "_spools", "_used")

    def __init__(self, spools: Spools, send: Callable[[str, memoryview], None]) -> None:
        self._spools = spools
        self._send = send
        self._memory: bytearray | None = spools.take()
        self._used = 0

    def write(self, data: Buffer) -> None:
        """See `Upload.write`."""
        memory, rest = self._open(), memoryview(data).cast("B")
        room = min(len(memory) - self._used, len(rest))
        with memoryview(memory) as view:
            view[self._used : self._used + room] = rest[:room]
        memory.extend(rest[room:])
        self._used += len(rest)

    def commit(self, name: str) -> None:
        """See `Upload.commit`."""
        try:
            with memoryview(self._open()) as view, view[: self._used] as stored:
                self._send(name, stored)
        finally:
            self.abort()

    def abort(self) -> None:
        """See `Upload.abort`."""
        if self._memory is not None:
            self._spools.give_back(self._memory)
            self._memory = None

    def _open(self) -> bytearray:
        if self._memory is None:
            raise ValueError("the upload has ended")
        return self._memory
