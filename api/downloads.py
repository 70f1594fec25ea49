"""How many long answers there are at once, in all and of each tenant, so that nobody keeps others out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from api.problems import Problem

_AT_ONCE: Final = 32
_OF_A_TENANT: Final = 8


class Turns:
    """Turns for long answers, of which a tenant gets its share. Belongs to one loop."""

    def __init__(self, at_once: int, of_a_tenant: int) -> None:
        self._at_once = at_once
        self._of_a_tenant = of_a_tenant
        self._taken: Counter[str] = Counter()

    @contextmanager
    def turn(self, tenant_id: str) -> Iterator[None]:
        """Room for one more long answer. Raises Problem: 429 for a tenant who has enough of them, else 503."""
        again = {"Retry-After": "10"}
        if self._taken[tenant_id] >= self._of_a_tenant:
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS, "too-many-downloads", "wait until some have ended", headers=again
            )
        if self._taken.total() >= self._at_once:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "busy", "too many long answers at once", headers=again)
        self._taken[tenant_id] += 1
        try:
            yield
        finally:
            self._taken[tenant_id] -= 1
            self._taken += Counter()  # whoever has none is not counted


class Downloads(Turns):
    """Turns, and threads for who has one. Belongs to one loop; `close` it."""

    def __init__(self, at_once: int = _AT_ONCE, of_a_tenant: int = _OF_A_TENANT) -> None:
        super().__init__(at_once, of_a_tenant)
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="downloads")

    def start(self, work: Callable[[], None]) -> asyncio.Future[None]:
        """Begin something in a thread of its own. For who has a turn."""
        return asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Begin nothing more. What goes on ends by itself, as its clients are gone."""
        self._pool.shutdown(wait=False, cancel_futures=True)
