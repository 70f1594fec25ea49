"""Where what is exported goes to, in memory."""

from __future__ import annotations

from bfrepo.core.protocols import Buffer


class MemorySink:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Buffer) -> None:
        self.data += data

    def zeros(self, count: int) -> None:
        self.data += bytes(count)

    def flush(self) -> None:
        """All is here."""
