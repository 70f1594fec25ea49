"""Storage that fails on purpose: scripted faults for damage tests, and power cuts for exhaustive crash tests.

faulty = FaultyBackend(MemoryBackend())
faulty.fail("save", kind=ObjectKind.INDEX, on_call=2)          # the second save of an index raises StorageError
faulty.flip_byte(ObjectKind.PACK, name, 1000)                  # whoever reads it gets one wrong byte
faulty.hide(ObjectKind.SNAPSHOT, name)                         # listings keep silent about it

for point in crash_points(lambda backend: backup(backend), disk=prepared):
    assert everything_restores(point.disk), point              # what a power cut there leaves (INV-1, INV-2)
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bfrepo.core.errors import DamagedObject, StorageError, StorageObjectMissing
from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.layout import describe, object_path
from bfrepo.storage.memory import MemoryBackend

Method: TypeAlias = Literal[
    "create", "list", "size", "load", "read", "read_into", "save", "upload", "write", "commit", "delete"
]
"""What a fault can be scripted for: the calls of Backend, and `write` and `commit` of its uploads."""

When: TypeAlias = Literal["before", "after"]


@dataclass(frozen=True, slots=True)
class Call:
    """One call that a backend was asked for. `name` is None where the call has none."""

    method: Method
    kind: ObjectKind | None = None
    name: str | None = None

    def __str__(self) -> str:
        if self.kind is None:
            return self.method
        return f"{self.method} {describe(self.kind, self.name) if self.name else self.kind.value}"


@dataclass(slots=True)
class _Failure:
    """Raise `error` on the `left`-th matching call, and on those that follow if `forever`."""

    pattern: Call
    left: int
    forever: bool
    error: BaseException

    def due(self, call: Call) -> bool:
        matches = (
            self.pattern.method == call.method
            and self.pattern.kind in (None, call.kind)
            and self.pattern.name in (None, call.name)
        )
        if matches:
            self.left -= 1
        return matches and (self.left == 0 or (self.forever and self.left < 0))


class FaultyBackend:
    """Passes everything on to `inner`, but for the faults it is told. Any thread may call anything."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._failures: list[_Failure] = []
        self._damage: defaultdict[tuple[ObjectKind, str], list[Callable[[bytes], bytes]]] = defaultdict(list)
        self._dropped: set[tuple[ObjectKind, str]] = set()
        self._hidden: set[tuple[ObjectKind, str]] = set()
        self._invented: defaultdict[ObjectKind, list[ObjectInfo]] = defaultdict(list)
        self.calls: list[Call] = []
        """Every call so far, also those that failed."""

    @property
    def location(self) -> str:
        return self._inner.location

    @property
    def connections(self) -> int:
        return self._inner.connections

    def fail(
        self,
        method: Method,
        *,
        kind: ObjectKind | None = None,
        name: str | None = None,
        on_call: int = 1,
        forever: bool = False,
        error: BaseException | None = None,
    ) -> None:
        """Raise `error` (a StorageError) in place of the `on_call`-th matching call, or from it on with `forever`."""
        chosen = error or StorageError(f"{method} failed, as the test wants it")
        self._failures.append(_Failure(Call(method, kind, name), on_call, forever, chosen))

    def flip_byte(self, kind: ObjectKind, name: str, offset: int, mask: int = 0x01) -> None:
        """Readers get the object with the byte at `offset` (negative: from the end) changed by `mask`."""

        def flip(data: bytes) -> bytes:
            changed = bytearray(data)
            changed[offset] ^= mask
            return bytes(changed)

        self._damage[kind, name].append(flip)

    def truncate(self, kind: ObjectKind, name: str, size: int) -> None:
        """Readers and listings find the object cut to `size` bytes."""
        self._damage[kind, name].append(lambda data: data[:size])

    def drop(self, kind: ObjectKind, name: str) -> None:
        """The object is lost: neither listed nor readable."""
        self._dropped.add((kind, name))

    def hide(self, kind: ObjectKind, name: str) -> None:
        """Listings leave the object out, yet it can be read: a store that is slow to agree with itself."""
        self._hidden.add((kind, name))

    def invent(self, kind: ObjectKind, info: ObjectInfo) -> None:
        """Listings name an object that is not there."""
        self._invented[kind].append(info)

    def heal(self) -> None:
        """Forget all faults; the calls stay recorded."""
        self._failures.clear()
        for faults in (self._damage, self._dropped, self._hidden, self._invented):
            faults.clear()

    def create(self) -> None:
        self.enter(Call("create"))
        self._inner.create()

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        self.enter(Call("list", kind))
        unlisted = self._dropped | self._hidden
        for info in self._inner.list(kind):
            if (kind, info.name) in self._damage:
                yield ObjectInfo(info.name, len(self._damaged(kind, info.name)))
            elif (kind, info.name) not in unlisted:
                yield info
        yield from self._invented[kind]

    def size(self, kind: ObjectKind, name: str) -> int:
        self._enter_reading(Call("size", kind, name))
        return len(self._damaged(kind, name)) if (kind, name) in self._damage else self._inner.size(kind, name)

    def load(self, kind: ObjectKind, name: str) -> bytes:
        self._enter_reading(Call("load", kind, name))
        return self._damaged(kind, name)

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        self._enter_reading(Call("read", kind, name))
        if (kind, name) not in self._damage:
            return self._inner.read(kind, name, offset, length)
        return self._damaged_range(kind, name, offset, length)

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        self._enter_reading(Call("read_into", kind, name))
        if (kind, name) not in self._damage:
            self._inner.read_into(kind, name, offset, buffer)
        else:
            buffer.cast("B")[:] = self._damaged_range(kind, name, offset, buffer.nbytes)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        self.enter(Call("save", kind, name))
        self._inner.save(kind, name, data)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        self.enter(Call("upload", kind))
        return _FaultyUpload(self, kind, self._inner.upload(kind, cold=cold))

    def delete(self, kind: ObjectKind, name: str) -> None:
        self.enter(Call("delete", kind, name))
        self._inner.delete(kind, name)

    def close(self) -> None:
        self._inner.close()

    def enter(self, call: Call) -> None:
        """Record the call, and raise if a failure is due."""
        with self._lock:
            self.calls.append(call)
            due = [failure for failure in self._failures if failure.due(call)]
        if due:
            raise due[0].error

    def _enter_reading(self, call: Call) -> None:
        self.enter(call)
        if call.kind and call.name and (call.kind, call.name) in self._dropped:
            raise StorageObjectMissing(f"{describe(call.kind, call.name)} is missing in {self.location}")

    def _damaged(self, kind: ObjectKind, name: str) -> bytes:
        data = self._inner.load(kind, name)
        for change in self._damage.get((kind, name), ()):
            data = change(data)
        return data

    def _damaged_range(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        found = self._damaged(kind, name)[offset : offset + length]
        if len(found) < length:
            raise DamagedObject(f"{describe(kind, name)} in {self.location} is too short")
        return found


class _FaultyUpload:
    def __init__(self, backend: FaultyBackend, kind: ObjectKind, inner: Upload) -> None:
        self._backend = backend
        self._kind = kind
        self._inner = inner

    def write(self, data: Buffer) -> None:
        self._backend.enter(Call("write", self._kind))
        self._inner.write(data)

    def commit(self, name: str) -> None:
        try:
            self._backend.enter(Call("commit", self._kind, name))
            self._inner.commit(name)
        finally:
            self._inner.abort()

    def abort(self) -> None:
        self._inner.abort()


class PowerLost(BaseException):
    """The machine is off. No handler of errors can catch it by accident, as none runs on a machine without power."""


class PowerLossBackend:
    """Storage of a machine whose power fails before or after the `at`-th call that changes the storage.

    Changing calls are `create`, `save`, `commit` and `delete`, counted from 1; with `at` 0 the power stays. The call at
    the cut raises PowerLost, and from then on every call, from any thread. `disk` then holds what is durable by the
    contract: what those calls had finished. Uploads that were not committed are lost. Any thread may call anything;
    changes are made one at a time, so that which ones were made is certain.
    """

    def __init__(self, disk: MemoryBackend, *, at: int = 0, when: When = "before") -> None:
        self.disk = disk
        self.changes: list[Call] = []
        """The changing calls so far, the one at the cut included."""
        self.lost = False
        self._at = at
        self._when = when
        self._lock = threading.RLock()

    @property
    def location(self) -> str:
        return self.disk.location

    @property
    def connections(self) -> int:
        return self.disk.connections

    def create(self) -> None:
        with self.change(Call("create")):
            self.disk.create()

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        self.check_power()
        for info in self.disk.list(kind):
            yield info
            self.check_power()

    def size(self, kind: ObjectKind, name: str) -> int:
        self.check_power()
        return self.disk.size(kind, name)

    def load(self, kind: ObjectKind, name: str) -> bytes:
        self.check_power()
        return self.disk.load(kind, name)

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        self.check_power()
        return self.disk.read(kind, name, offset, length)

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        self.check_power()
        self.disk.read_into(kind, name, offset, buffer)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        with self.change(Call("save", kind, name)):
            self.disk.save(kind, name, data)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        self.check_power()
        return _PowerLossUpload(self, kind, self.disk.upload(kind, cold=cold))

    def delete(self, kind: ObjectKind, name: str) -> None:
        with self.change(Call("delete", kind, name)):
            self.disk.delete(kind, name)

    def close(self) -> None:
        self.disk.close()

    def check_power(self) -> None:
        """Raise PowerLost if the power is gone."""
        with self._lock:
            if self.lost:
                raise PowerLost

    @contextmanager
    def change(self, call: Call) -> Iterator[None]:
        """The change that the block makes, with the power cut before or after it if this is the call for it."""
        with self._lock:
            self.check_power()
            self.changes.append(call)
            self.lost = len(self.changes) == self._at and self._when == "before"
            self.check_power()
            yield
            self.lost = len(self.changes) == self._at
            self.check_power()


class _PowerLossUpload:
    def __init__(self, backend: PowerLossBackend, kind: ObjectKind, inner: Upload) -> None:
        self._backend = backend
        self._kind = kind
        self._inner = inner

    def write(self, data: Buffer) -> None:
        self._backend.check_power()
        self._inner.write(data)

    def commit(self, name: str) -> None:
        try:
            object_path(self._kind, name)  # a wrong name is a mistake of the caller, not a change
            with self._backend.change(Call("commit", self._kind, name)):
                self._inner.commit(name)
        finally:
            self.abort()

    def abort(self) -> None:
        self._inner.abort()


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """A moment at which the power went, and what it left on the disk."""

    number: int
    when: When
    call: Call
    disk: MemoryBackend

    def __str__(self) -> str:
        return f"power lost {self.when} change {self.number} ({self.call})"


def copy_of(backend: Backend) -> MemoryBackend:
    """All objects of `backend` in a store of their own; the bytes are shared, as nothing alters them."""
    copy = MemoryBackend()
    for kind in ObjectKind:
        for info in backend.list(kind):
            copy.save(kind, info.name, backend.load(kind, info.name))
    return copy


def crash_points(run: Callable[[Backend], object], *, disk: Backend | None = None) -> Iterator[CrashPoint]:
    """Run an operation again and again, and cut the power before and after each of its changes to the storage.

    `run` gets a backend that begins with the objects of `disk`, or empty, and must do the same whenever it is called.
    It is over when a run ends before its power cut. Whatever a run raises after the cut is ignored, as nobody is there
    to see it; an error before it goes to the caller; a run that claims success without power is an AssertionError.
    """
    start = copy_of(disk) if disk is not None else MemoryBackend()
    number = 0
    while True:
        number += 1
        for when in ("before", "after"):
            point = _run_to_crash(run, PowerLossBackend(copy_of(start), at=number, when=when), number, when)
            if point is None:
                return
            yield point


def _run_to_crash(
    run: Callable[[Backend], object], backend: PowerLossBackend, number: int, when: When
) -> CrashPoint | None:
    """The point where the run lost power, or None if it ended before."""
    try:
        run(backend)
    except KeyboardInterrupt:
        raise
    except BaseException:
        if not backend.lost:
            raise
    else:
        if backend.lost:
            raise AssertionError(f"the operation reports success, though power was lost {when} change {number}")
        return None
    return CrashPoint(number, when, backend.changes[-1], copy_of(backend.disk))
