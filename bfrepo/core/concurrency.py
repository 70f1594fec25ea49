"""How many threads are worth having."""

from __future__ import annotations

import os


def native_threads() -> int:
    """Threads for work that is done without the interpreter's lock: one for each core of this process, from 2 to 8.

    With more than 8 the one thread that hands out the work no longer keeps up.
    """
    return min(max(len(os.sched_getaffinity(0)), 2), 8)
