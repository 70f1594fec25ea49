"""A backend that lists and reads a few things before anybody asks, while something else takes its time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Final, Generic, TypeVar

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.units import MIB
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.forwarding import ForwardingBackend

T = TypeVar("T")

_FRESH_S: Final = 5.0
"""How long something may wait: so much may also pass between two steps of whoever does them by himself."""

_MOST_OBJECTS: Final = 8
_MOST_BYTES: Final = 8 * MIB
"""Objects of a kind that are read in advance, and their bytes: where there are more it takes longer than the password
does, and they are better read by many at once."""


class AheadBackend(ForwardingBackend):
    """Passes everything on to `inner`, but for the first listings of some kinds, which it has when they are asked for.

    They are made one after the other in the order of `kinds`, and given out in that order alone, each once: whoever
    asks for another listing first gets none that was made before. So they tell nothing that the same calls would not
    have told, made a moment earlier, to whoever changes nothing until he has them. One that failed is made anew.
    Key slots have nothing to do with anything else that is listed, so it does not matter when somebody asks for those.

    With `objects` what was listed is read, too, if it is little; each object is given out once.
    """

    def __init__(self, inner: Backend, kinds: Sequence[ObjectKind], *, objects: bool = False) -> None:
        super().__init__(inner)
        self._waiting = deque((kind, _Early(partial(_listed, inner, kind))) for kind in kinds)
        self._reads = objects
        self._objects: dict[tuple[ObjectKind, str], _Early[bytes]] = {}
        self._orders: SimpleQueue[_Early[bytes] | None] = SimpleQueue()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin. Called once."""
        if not self._waiting:
            return
        threading.Thread(target=self._list_all, args=(list(self._waiting),), name="list-ahead", daemon=True).start()
        if self._reads:
            threading.Thread(target=self._read_all, name="read-ahead", daemon=True).start()

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        listing = self._take(kind)
        found = listing.wait() if listing is not None else None
        yield from self._inner.list(kind) if found is None else found

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`."""
        with self._lock:
            early = self._objects.pop((kind, name), None)
        if early is not None and not early.claim() and (data := early.wait()) is not None:
            return data
        return self._inner.load(kind, name)

    def close(self) -> None:
        """Closes the inner backend."""
        self._forget()
        super().close()

    def _take(self, kind: ObjectKind) -> _Early[Sequence[ObjectInfo]] | None:
        with self._lock:
            if self._waiting and self._waiting[0][0] is kind:
                return self._waiting.popleft()[1]
        if kind is not ObjectKind.KEY:
            self._forget()
        return None

    def _forget(self) -> None:
        with self._lock:
            for _, listing in self._waiting:
                listing.claim()
            self._waiting.clear()
            for early in self._objects.values():
                early.claim()
            self._objects.clear()

    def _list_all(self, listings: Sequence[tuple[ObjectKind, _Early[Sequence[ObjectInfo]]]]) -> None:
        for kind, listing in listings:
            found = listing.make() if listing.claim() else None
            if self._reads and kind is not ObjectKind.PACK and found is not None:
                self._order(kind, found)
        self._orders.put(None)

    def _order(self, kind: ObjectKind, found: Sequence[ObjectInfo]) -> None:
        if len(found) > _MOST_OBJECTS or sum(info.size for info in found) > _MOST_BYTES:
            return
        for info in found:
            early = _Early(partial(self._inner.load, kind, info.name))
            with self._lock:
                self._objects[kind, info.name] = early
            self._orders.put(early)

    def _read_all(self) -> None:
        while (early := self._orders.get()) is not None:
            if early.claim():
                early.make()


def _listed(backend: Backend, kind: ObjectKind) -> Sequence[ObjectInfo]:
    return [*backend.list(kind)]


class _Early(Generic[T]):
    """What one call gives, made by whoever claims it first, for somebody who may ask for it."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._free = threading.Lock()
        self._done = threading.Event()
        self._made: T | None = None
        self._ended = 0.0

    def claim(self) -> bool:
        """Whether nobody has claimed it yet."""
        return self._free.acquire(blocking=False)

    def make(self) -> T | None:
        """Make it, for whoever has claimed it; None if it failed."""
        try:
            self._made = self._call()
        except BackupForgeError:
            pass  # whoever wants it does it by himself, and is told
        finally:
            self._ended = monotonic()
            self._done.set()
        return self._made

    def wait(self) -> T | None:
        """What somebody else has made; None if it failed, or is too old."""
        self._done.wait()
        return self._made if monotonic() - self._ended < _FRESH_S else None
