"""How work tells what it is doing: counters that a display reads when it likes, and calls for what must not be missed.

Counters are plain numbers written by the working thread and read by another; a reading may be a moment old, never wrong
by more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Change = Literal["new", "changed", "unmodified", "restored", "updated", "unchanged", "removed"]


@dataclass(slots=True)
class Progress:
    """How far the work is. Totals are None until they are known; sizes in bytes; `current` is a raw path or a name."""

    files_done: int = 0
    bytes_done: int = 0
    files_total: int | None = None
    bytes_total: int | None = None
    errors: int = 0
    current: bytes = b""


class Reporter(Protocol):
    """Where an operation reports to. Methods may be called from any of its threads."""

    @property
    def progress(self) -> Progress:
        """The counters of this piece of work."""

    @property
    def wants_items(self) -> bool:
        """Whether `item` is of any use; nothing is put together for it otherwise."""

    def item(self, path: bytes, change: Change, size: int) -> None:
        """One file or directory is done."""

    def warn(self, path: bytes, message: str) -> None:
        """Something to know about an item that was done all the same."""

    def problem(self, path: bytes, message: str) -> None:
        """An item could not be done and was left out; the work goes on and ends with exit status 3."""


class Quiet:
    """A reporter that only counts."""

    wants_items = False

    def __init__(self) -> None:
        self.progress = Progress()

    def item(self, path: bytes, change: Change, size: int) -> None:
        """Says nothing."""

    def warn(self, path: bytes, message: str) -> None:
        """Says nothing."""

    def problem(self, path: bytes, message: str) -> None:
        """Counts."""
        self.progress.errors += 1
