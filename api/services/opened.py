"""Repositories that are open in this process, a few at a time, for whoever looks into them.

Opening one costs half a second (its key slot) and reads its index, so it stays open until nobody has asked for ten
minutes or another needs its place. Its caches are bounded. Every method blocks.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from api.problems import Problem
from api.services.repositories import Known, naming
from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError, DamagedObject
from bfrepo.core.units import MIB
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.repository import Repository
from bfrepo.repository.salvage import refresh_for_reading
from bfrepo.vfs.trees import Trees

log: Final = logging.getLogger("backupforge.server")

_MOST: Final = 16
_IDLE_S: Final = 600.0
_CACHE: Final = 32 * MIB
"""Bytes of opened frames that one repository keeps."""
_THREADS: Final = 3
"""Threads that read ahead in one repository."""

_Key = tuple[str, str]


class Opened:
    """One open repository. Thread-safe but for `lock`, which is for who changes it or refreshes its index."""

    def __init__(self, repository: Repository, clock: Clock) -> None:
        self.repository = repository
        self.views = FrameCache(repository.loader, _CACHE, threads=_THREADS)
        self.trees = Trees(self.views)
        self.lock = threading.Lock()
        self._clock = clock
        self._fresh_at = float("-inf")

    def know(self, listed_at: float) -> None:
        """Have an index that names all that snapshots need which were listed at that time (of the monotonic clock)."""
        if self._fresh_at >= listed_at:
            return
        with self.lock:
            if self._fresh_at < listed_at:
                now = self._clock.monotonic()
                _refresh(self.repository)
                self.views.follow(self.repository.loader)
                self._fresh_at = now

    def close(self) -> None:
        """Let go of it. Idempotent."""
        self.views.close()
        self.repository.close()


@dataclass(slots=True)
class _Place:
    """Room for one repository; `users` use it or wait for it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: Opened | None = None
    users: int = 0
    idle_since: float = 0.0


class OpenRepositories:
    """Opens repositories and keeps them open for a while. Thread-safe; `close` it."""

    def __init__(self, open_repository: Callable[[str, str], Repository], clock: Clock, most: int = _MOST) -> None:
        """`open_repository` opens one by the IDs of its tenant and its own."""
        self._open = open_repository
        self._clock = clock
        self._most = most
        self._places: OrderedDict[_Key, _Place] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, tenant_id: str, known: Known) -> Iterator[Opened]:
        """A repository that stays open as long as the block lasts.

        Raises Problem: 503 when too many are in use, and errors that name the repository, also those of the block.
        """
        opened = self.take(tenant_id, known)
        try:
            with naming(known.name):
                yield opened
        finally:
            self.give_back(tenant_id, known)

    def take(self, tenant_id: str, known: Known) -> Opened:
        """As `use`, until `give_back`."""
        place = self._place((tenant_id, known.id))
        try:
            with place.lock:
                if place.opened is None:
                    place.opened = Opened(self._open(tenant_id, known.id), self._clock)
                return place.opened
        except BaseException:
            self.give_back(tenant_id, known)
            raise

    def give_back(self, tenant_id: str, known: Known) -> None:
        """Nobody needs it here any more: what `take` gave."""
        with self._lock:
            place = self._places[tenant_id, known.id]
            place.users -= 1
            place.idle_since = self._clock.monotonic()
            if not place.users and place.opened is None:
                del self._places[tenant_id, known.id]

    def close_idle(self, idle_s: float = _IDLE_S) -> None:
        """Close what nobody has used for so long."""
        until = self._clock.monotonic() - idle_s
        with self._lock:
            idle = [key for key, place in self._places.items() if not place.users and place.idle_since <= until]
            removed = [self._places.pop(key) for key in idle]
        _close(removed)

    def drop(self, repository_id: str) -> None:
        """Close a repository that is nobody's any more, unless it is in use: then it is closed when it is idle."""
        with self._lock:
            keys = [key for key, place in self._places.items() if key[1] == repository_id and not place.users]
            removed = [self._places.pop(key) for key in keys]
        _close(removed)

    def close(self) -> None:
        """Close everything."""
        with self._lock:
            removed = [*self._places.values()]
            self._places.clear()
        _close(removed)

    def _place(self, key: _Key) -> _Place:
        removed: list[_Place] = []
        with self._lock:
            place = self._places.get(key)
            if place is None:
                if len(self._places) >= self._most:
                    removed.append(self._make_room())
                place = self._places[key] = _Place()
            self._places.move_to_end(key)
            place.users += 1
        _close(removed)
        return place

    def _make_room(self) -> _Place:
        for key, place in self._places.items():  # the one that was used longest ago comes first
            if not place.users:
                return self._places.pop(key)
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE, "busy", "too many repositories are in use", headers={"Retry-After": "5"}
        )


def _close(places: list[_Place]) -> None:
    for place in places:
        if place.opened is not None:
            try:
                place.opened.close()
            except BackupForgeError:
                log.exception("a repository could not be closed")


def _refresh(repository: Repository) -> None:
    """Read what is new of the index; where it is damaged, what the packs say themselves."""
    try:
        repository.refresh_index()
    except DamagedObject:
        refresh_for_reading(repository, lambda message: log.warning("%s: %s", repository.location, message))
