"""Time is passed in, never taken: everything that needs a clock receives one, and tests hand in their own."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """What the program knows about time. All methods may be called from any thread."""

    def now(self) -> datetime:
        """The wall clock, with the local zone attached."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back, so durations come from here."""


class SystemClock:
    """The machine's own clock. The only place that reads it."""

    def now(self) -> datetime:
        """The wall clock, with the local zone attached."""
        return datetime.now().astimezone()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()
