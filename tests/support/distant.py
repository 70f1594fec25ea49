"""Storage that is far away: every call takes its time, several calls at once take no longer, and all are counted."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload

T = TypeVar("T")


class DistantBackend:
    """Passes everything on to `inner`, after `latency_s` each. An upload takes that once, at its commit."""

    def __init__(self, inner: Backend, *, latency_s: float = 0.0, connections: int = 8) -> None:
        self._inner = inner
        self._latency_s = latency_s
        self._lock = threading.Lock()
        self.connections = connections
        self.requests: Counter[str] = Counter()
        """How many calls there were, by "method" and "method kind"."""
        self.at_once = 0
        self.most_at_once = 0
        """How many calls were under way together, at most."""

    @property
    def location(self) -> str:
        return self._inner.location

    @property
    def total(self) -> int:
        """How many calls there were."""
        return sum(count for name, count in self.requests.items() if " " not in name)

    def forget(self) -> None:
        """Count from nothing again."""
        with self._lock:
            self.requests.clear()
            self.most_at_once = 0

    def create(self) -> None:
        self.travel("create", None, self._inner.create)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        yield from self.travel("list", kind, lambda: [*self._inner.list(kind)])

    def size(self, kind: ObjectKind, name: str) -> int:
        return self.travel("size", kind, lambda: self._inner.size(kind, name))

    def load(self, kind: ObjectKind, name: str) -> bytes:
        return self.travel("load", kind, lambda: self._inner.load(kind, name))

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        return self.travel("read", kind, lambda: self._inner.read(kind, name, offset, length))

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        self.travel("read", kind, lambda: self._inner.read_into(kind, name, offset, buffer))

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        self.travel("save", kind, lambda: self._inner.save(kind, name, data))

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        return _DistantUpload(self, kind, self._inner.upload(kind, cold=cold))

    def delete(self, kind: ObjectKind, name: str) -> None:
        self.travel("delete", kind, lambda: self._inner.delete(kind, name))

    def close(self) -> None:
        self._inner.close()

    def travel(self, method: str, kind: ObjectKind | None, call: Callable[[], T]) -> T:
        """What `call` returns, some time later."""
        with self._lock:
            self.requests.update([method] if kind is None else [method, f"{method} {kind.value}"])
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self._latency_s)
            return call()
        finally:
            with self._lock:
                self.at_once -= 1


class _DistantUpload:
    def __init__(self, backend: DistantBackend, kind: ObjectKind, inner: Upload) -> None:
        self._backend = backend
        self._kind = kind
        self._inner = inner

    def write(self, data: Buffer) -> None:
        self._inner.write(data)

    def commit(self, name: str) -> None:
        self._backend.travel("upload", self._kind, lambda: self._inner.commit(name))

    def abort(self) -> None:
        self._inner.abort()
