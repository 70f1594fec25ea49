"""A backend that lists a few things before anybody asks, while something else takes its time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final

from bfrepo.core.errors import BackupForgeError
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind
from bfrepo.storage.forwarding import ForwardingBackend

_FRESH_S: Final = 5.0
"""How long a listing may wait: so much may also pass between two steps of whoever lists by himself."""


class AheadBackend(ForwardingBackend):
    """Passes everything on to `inner`, but for the first listings of some kinds, which it has when they are asked for.

    They are made one after the other in the order of `kinds`, and given out in that order alone, each once: whoever
    asks for another listing first gets none that was made before. So they tell nothing that the same calls would not
    have told, made a moment earlier, to whoever changes nothing until he has them. One that failed is made anew.
    Key slots have nothing to do with anything else that is listed, so it does not matter when somebody asks for those.
    """

    def __init__(self, inner: Backend, kinds: Sequence[ObjectKind]) -> None:
        super().__init__(inner)
        self._waiting = deque(_Listing(kind) for kind in kinds)
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to list. Called once."""
        if not self._waiting:
            return
        threading.Thread(target=self._work, args=(list(self._waiting),), name="list-ahead", daemon=True).start()

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        listing = self._take(kind)
        found = listing.wait() if listing is not None else None
        yield from self._inner.list(kind) if found is None else found

    def close(self) -> None:
        """Closes the inner backend."""
        self._forget()
        super().close()

    def _take(self, kind: ObjectKind) -> _Listing | None:
        with self._lock:
            if self._waiting and self._waiting[0].kind is kind:
                return self._waiting.popleft()
        if kind is not ObjectKind.KEY:
            self._forget()
        return None

    def _forget(self) -> None:
        with self._lock:
            for listing in self._waiting:
                listing.unwanted = True
            self._waiting.clear()

    def _work(self, listings: Sequence[_Listing]) -> None:
        for listing in listings:
            listing.make(self._inner)


class _Listing:
    """One listing, from when it was begun until somebody has it."""

    def __init__(self, kind: ObjectKind) -> None:
        self.kind = kind
        self.unwanted = False
        self._done = threading.Event()
        self._found: list[ObjectInfo] | None = None
        self._ended = monotonic()

    def make(self, backend: Backend) -> None:
        """List, unless nobody wants that any more."""
        try:
            if not self.unwanted:
                self._found = [*backend.list(self.kind)]
        except BackupForgeError:
            return  # whoever wants it lists by himself, and is told
        finally:
            self._ended = monotonic()
            self._done.set()

    def wait(self) -> list[ObjectInfo] | None:
        """What was found; None if it failed, or is too old."""
        self._done.wait()
        return self._found if monotonic() - self._ended < _FRESH_S else None
