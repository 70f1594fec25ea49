"""Waiting for a while, such that whoever wants the work to end need not wait as well."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bfrepo.core.clock import Clock, SystemClock
from bfrepo.core.errors import Interrupted

_SLICE_S: Final = 0.1


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pausing:
    """What time it is and how to let it go by. May be used from any thread; tests pass a clock that `sleep` moves."""

    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep
    cancelled: Callable[[], bool] = _never

    def now(self) -> float:
        """Seconds from an arbitrary start."""
        return self.clock.monotonic()

    def wait(self, seconds: float, reason: str) -> None:
        """Return after so many seconds. Raises Interrupted, with the reason, soon after `cancelled` says so."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:
            if self.cancelled():
                raise Interrupted(f"stopped while waiting: {reason}")
            self.sleep(min(left, _SLICE_S))
