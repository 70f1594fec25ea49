"""Storage that fails at random, before it has done what it was asked or when only its answer is lost."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from bfrepo.core.errors import StorageError
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload

T = TypeVar("T")

_SELDOM = 0.02
"""How much less often than whole calls their steps fail: there may be hundreds of them in one."""


class FlakyBackend:
    """Passes everything on to `inner`, and fails with a StorageError at about `rate` of all calls.

    Some listings break off between two items and some uploads between two parts; a read that fails leaves half of its
    bytes in the caller's buffer. With a `seed` the same steps fail every time, as long as one thread calls at a time.
    """

    def __init__(self, inner: Backend, rate: float, seed: int = 0) -> None:
        self._inner = inner
        self._rate = rate
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.failures = 0

    @property
    def location(self) -> str:
        return self._inner.location

    @property
    def connections(self) -> int:
        return self._inner.connections

    def create(self) -> None:
        self.step(self._inner.create)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        self.step(lambda: None)
        for info in self._inner.list(kind):
            self.step(lambda: None, _SELDOM)
            yield info

    def size(self, kind: ObjectKind, name: str) -> int:
        return self.step(lambda: self._inner.size(kind, name))

    def load(self, kind: ObjectKind, name: str) -> bytes:
        return self.step(lambda: self._inner.load(kind, name))

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        return self.step(lambda: self._inner.read(kind, name, offset, length))

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        half = buffer[: len(buffer) // 2]
        self._inner.read_into(kind, name, offset, half)
        self.step(lambda: self._inner.read_into(kind, name, offset, buffer))

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        self.step(lambda: self._inner.save(kind, name, data))

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        return _FlakyUpload(self, self.step(lambda: self._inner.upload(kind, cold=cold)))

    def delete(self, kind: ObjectKind, name: str) -> None:
        self.step(lambda: self._inner.delete(kind, name))

    def close(self) -> None:
        self._inner.close()

    def step(self, call: Callable[[], T], weight: float = 1.0) -> T:
        """What `call` returns, unless chance wants a failure: half of them come before the call and half behind it."""
        with self._lock:
            fails = self._chance.random() < self._rate * weight
            before = self._chance.random() < 0.5
            self.failures += fails
        if not (fails and before):
            result = call()
        if fails:
            raise StorageError(f"the connection to {self.location} was lost")
        return result


class _FlakyUpload:
    def __init__(self, backend: FlakyBackend, inner: Upload) -> None:
        self._backend = backend
        self._inner = inner

    def write(self, data: Buffer) -> None:
        self._backend.step(lambda: self._inner.write(data), _SELDOM)

    def commit(self, name: str) -> None:
        self._backend.step(lambda: self._inner.commit(name))

    def abort(self) -> None:
        self._inner.abort()
