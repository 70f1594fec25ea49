"""Several programs on one storage, one call at a time, in an order that the test decides: every order, or random ones.

Each actor is a function of a backend, and runs in a thread of its own that stops before each of its storage calls until
it is its turn. What happens between two calls of an actor is invisible to the others, so an order of calls is all there
is to an interleaving. The same order gives the same run: actors must not depend on anything random but `salt`.

`explore` tries every order, but goes on only once from situations that nobody can tell apart: the same objects in the
storage, and every actor having got the same answers to the same questions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeAlias, TypeVar
from weakref import WeakKeyDictionary

import pytest

from bfrepo.core.protocols import Buffer
from bfrepo.storage.base import Backend, ObjectInfo, ObjectKind, Upload
from bfrepo.storage.memory import MemoryBackend
from tests.support.faulty import PowerLost, copy_of

T = TypeVar("T")

Program: TypeAlias = Callable[[Backend], object]
Choose: TypeAlias = Callable[[int, Sequence[int]], int]
"""From the number of the step and the actors that wait, in order, the one whose turn it is."""


class Abandoned(BaseException):
    """The test has seen enough of this run."""


def _taken() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass
class Actor:
    """One program. `error` is what it raised; it `crashes` before its call with that number."""

    name: str
    program: Program
    crashes_at: int = -1
    turn: threading.Lock = field(default_factory=_taken)
    history: list[str] = field(default_factory=list)
    calls: int = 0
    salts: int = 0
    done: bool = False
    error: BaseException | None = None


class Run:
    """One interleaving on a copy of `disk`. Unless `reads_wait`, an actor reads objects without waiting for its turn:

    as none is ever altered, all that can come between is that one is deleted.
    """

    def __init__(
        self,
        disk: MemoryBackend,
        programs: Mapping[str, Program],
        *,
        crashes: Mapping[str, int] | None = None,
        reads_wait: bool = True,
    ) -> None:
        self.disk = copy_of(disk)
        self.actors = [Actor(name, program, (crashes or {}).get(name, -1)) for name, program in programs.items()]
        self.reads_wait = reads_wait
        self.steps: list[str] = []
        self.abandoned = False
        self._stopped = _taken()

    def go(self, choose: Callable[[Run, Sequence[int]], int | None]) -> None:
        """Run until all are done, or `choose` gives None."""
        for actor in self.actors:
            thread = threading.Thread(target=self._live, args=(actor,), name=actor.name, daemon=True)
            belongs_to(thread, actor)
            thread.start()
            self._stopped.acquire()
        while waiting := [number for number, actor in enumerate(self.actors) if not actor.done]:
            chosen = None if self.abandoned else choose(self, waiting)
            self.abandoned = chosen is None
            actor = self.actors[waiting[0] if chosen is None else chosen]
            actor.turn.release()
            self._stopped.acquire()

    def situation(self) -> bytes:
        """What anybody could ever tell of this moment."""
        objects = sorted(f"{kind.value}/{info.name}" for kind in ObjectKind for info in self.disk.list(kind))
        told = [f"{actor.done} {actor.calls} {' '.join(actor.history)}" for actor in self.actors]
        return blake2b("\n".join([*objects, *told]).encode(), digest_size=16).digest()

    def step(self, actor: Actor, call: str) -> None:
        """Wait for this actor's turn to make a call."""
        self._stopped.release()
        actor.turn.acquire()
        if self.abandoned:
            raise Abandoned
        if actor.calls >= actor.crashes_at >= 0:
            raise PowerLost
        actor.calls += 1
        self.steps.append(f"{actor.name}: {call}")

    def _live(self, actor: Actor) -> None:
        backend = _ScheduledBackend(self, actor)
        try:
            self.step(actor, "begins")
            actor.program(backend)
        except (Abandoned, PowerLost):
            pass
        except BaseException as error:
            actor.error = error
        finally:
            actor.done = True
            belongs_to(threading.current_thread(), None)
            self._stopped.release()


_owners: WeakKeyDictionary[threading.Thread, Actor] = WeakKeyDictionary()


def belongs_to(thread: threading.Thread, actor: Actor | None) -> None:
    """What the thread does is done by this actor, and what its threads do; by nobody when it is at its end."""
    if actor is None:
        _owners.pop(thread, None)
    else:
        _owners[thread] = actor


def own_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that an actor starts belong to it, and the salts of its packs are its own and always the same."""
    start = threading.Thread.start

    def start_owned(thread: threading.Thread) -> None:
        owner = _owners.get(threading.current_thread())
        if owner is not None:
            _owners[thread] = owner
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_owned)
    monkeypatch.setattr("bfrepo.pack.writer.os.urandom", salt)


def salt(size: int) -> bytes:
    """Bytes that only this actor gets, in an order that does not change."""
    owner = _owners.get(threading.current_thread())
    if owner is None:
        return blake2b(b"nobody", digest_size=size).digest()
    owner.salts += 1
    return blake2b(f"{owner.name} {owner.salts}".encode(), digest_size=size).digest()


class _ScheduledBackend:
    """An actor's way to the storage. Any of its threads may call."""

    connections = 1
    location = "memory:"

    def __init__(self, run: Run, actor: Actor) -> None:
        self._run = run
        self._actor = actor
        self._disk = run.disk

    def create(self) -> None:
        self._call("create", self._disk.create)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        found = self._call(f"list {kind.value}", lambda: sorted(self._disk.list(kind), key=lambda info: info.name))
        return iter(found)

    def size(self, kind: ObjectKind, name: str) -> int:
        return self._call(f"size {kind.value}/{name}", lambda: self._disk.size(kind, name))

    def load(self, kind: ObjectKind, name: str) -> bytes:
        return self._read(f"load {kind.value}/{name}", lambda: self._disk.load(kind, name))

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        return self._read(f"read {kind.value}/{name}", lambda: self._disk.read(kind, name, offset, length))

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        self._read(f"read {kind.value}/{name}", lambda: self._disk.read_into(kind, name, offset, buffer))

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        self._call(f"save {kind.value}/{name}", lambda: self._disk.save(kind, name, data))

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        return _ScheduledUpload(self, kind, self._disk.upload(kind, cold=cold))

    def delete(self, kind: ObjectKind, name: str) -> None:
        self._call(f"delete {kind.value}/{name}", lambda: self._disk.delete(kind, name))

    def close(self) -> None:
        """The disk stays."""

    def _read(self, what: str, do: Callable[[], T]) -> T:
        return self._call(what, do, waits=self._run.reads_wait)

    def _call(self, what: str, do: Callable[[], T], *, waits: bool = True) -> T:
        if waits:
            self._run.step(self._actor, what)
        try:
            result = do()
        except Exception as error:
            self._actor.history.append(f"{what}={type(error).__name__}")
            raise
        answer = result if isinstance(result, bytes) else repr(result).encode()
        self._actor.history.append(f"{what}={blake2b(answer, digest_size=8).hexdigest()}")
        return result


class _ScheduledUpload:
    def __init__(self, backend: _ScheduledBackend, kind: ObjectKind, inner: Upload) -> None:
        self._backend, self._kind, self._inner = backend, kind, inner

    def write(self, data: Buffer) -> None:
        self._inner.write(data)

    def commit(self, name: str) -> None:
        self._backend._call(f"save {self._kind.value}/{name}", lambda: self._inner.commit(name))

    def abort(self) -> None:
        self._inner.abort()


def explore(
    disk: MemoryBackend, programs: Mapping[str, Program], check: Callable[[Run], None], *, most_runs: int
) -> tuple[int, int]:
    """Every interleaving of lists and changes; `check` sees each run that came to its end. How many of both.

    Raises AssertionError when `most_runs` were not enough.
    """
    seen: set[bytes] = set()
    todo: list[list[int]] = [[]]
    runs = 0
    while todo:
        prefix = todo.pop()
        made: list[int] = []

        def choose(
            run: Run, waiting: Sequence[int], prefix: Sequence[int] = prefix, made: list[int] = made
        ) -> int | None:
            at = len(made)
            if at < len(prefix):
                made.append(prefix[at])
                return prefix[at]
            situation = run.situation()
            if situation in seen:
                return None
            seen.add(situation)
            todo.extend([*made, other] for other in waiting[1:])
            made.append(waiting[0])
            return waiting[0]

        run = Run(disk, programs, reads_wait=False)
        run.go(choose)
        runs += 1
        assert runs <= most_runs
        if not run.abandoned:
            check(run)
    return len(seen), runs


def run_in_order(
    disk: MemoryBackend, programs: Mapping[str, Program], choose: Choose, *, crashes: Mapping[str, int] | None = None
) -> Run:
    """One interleaving, to its end."""
    run = Run(disk, programs, crashes=crashes)
    run.go(lambda run, waiting: choose(len(run.steps), waiting))
    return run
