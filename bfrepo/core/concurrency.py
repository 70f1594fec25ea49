"""How many threads are worth having, and work that is spread over some."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def native_threads() -> int:
    """Threads for work that is done without the interpreter's lock: one for each core of this process, from 2 to 8.

    With more than 8 the one thread that hands out the work no longer keeps up.
    """
    return min(max(len(os.sched_getaffinity(0)), 2), 8)


def map_at_once(do: Callable[[T], R], items: Sequence[T], *, threads: int, name: str) -> Iterator[R]:
    """What `do` returns for each of `items`, in order, done by up to `threads` threads called `name`.

    Raises what `do` raises, when it is that item's turn; what is under way then is waited for.
    """
    if min(threads, len(items)) < 2:
        yield from map(do, items)
        return
    with ThreadPoolExecutor(min(threads, len(items)), thread_name_prefix=name) as pool:
        yield from pool.map(do, items)
