"""Trying out a storage: does it keep what bfrepo/storage/base.py promises, and how fast is it?

Everything happens in an empty place and goes away again. Nothing is tried twice: what fails now and then shall show.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from bfrepo.core.clock import Clock
from bfrepo.core.concurrency import map_at_once
from bfrepo.core.errors import BackupForgeError, Interrupted, StorageError
from bfrepo.core.progress import Progress
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import object_name
from bfrepo.operations.storage_checks import BrokenPromise, Promises, write_all_of
from bfrepo.storage.abilities import delete_limit, delete_many, remove_place
from bfrepo.storage.base import Backend, ObjectKind

Verdict: TypeAlias = Literal["passed", "warning", "failed"]
Direction: TypeAlias = Literal["up", "down"]

_TIMES: Final = 20

PROBE_SIZE: Final = 8 * MIB
"""Bytes of each transfer whose speed is measured, by default."""


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """One property: its stable `name`, what it says in words, and how it came out."""

    name: str
    title: str
    verdict: Verdict
    detail: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class ProbeLatency:
    """How long small calls of one kind took."""

    call: str
    median_s: float
    slowest_s: float


@dataclass(frozen=True, slots=True)
class ProbeThroughput:
    """How fast bytes went over so many connections at once."""

    direction: Direction
    connections: int
    size: int
    duration_s: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / self.duration_s if self.duration_s else 0.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What was found out. `left` names what could not be removed again."""

    location: str
    connections: int
    checks: tuple[ProbeCheck, ...]
    latencies: tuple[ProbeLatency, ...]
    throughputs: tuple[ProbeThroughput, ...]
    left: tuple[str, ...]
    duration_s: float

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(check.verdict == "failed" for check in self.checks)


def probe_storage(
    open_backend: Callable[[], Backend],
    clock: Clock,
    progress: Progress,
    cancelled: Callable[[], bool],
    *,
    size: int = PROBE_SIZE,
) -> ProbeResult:
    """Try out the place that `open_backend` opens, which has to be empty; it is opened twice.

    Each transfer that is measured has `size` bytes. What the storage does wrong is in the result. Raises
    RepositoryExists if something is there already, what `Backend.create` raises besides, and Interrupted; what was
    stored until then is removed.
    """
    begun = clock.monotonic()
    with closing(open_backend()) as first, closing(open_backend()) as second:
        first.create()
        work = _Probe(first, second, clock, progress, cancelled)
        try:
            checks = tuple(work.check())
            latencies = tuple(work.latencies())
            throughputs = tuple(work.throughputs(size))
        finally:
            left = tuple(work.clean_up())
        return ProbeResult(
            first.location, first.connections, checks, latencies, throughputs, left, clock.monotonic() - begun
        )


class _Probe:
    """One probe at work: `first` and `second` are two clients."""

    def __init__(
        self, first: Backend, second: Backend, clock: Clock, progress: Progress, cancelled: Callable[[], bool]
    ) -> None:
        self._first = first
        self._promises = Promises(first, second, cancelled)
        self._clock = clock
        self._progress = progress

    def check(self) -> Iterator[ProbeCheck]:
        """Every property in turn."""
        for name, title, check in self._promises.each():
            self._note(title)
            begun = self._clock.monotonic()
            verdict: Verdict = "passed"
            detail = ""
            try:
                check()
            except Interrupted:
                raise
            except BrokenPromise as failure:
                verdict, detail = "warning" if failure.warning else "failed", str(failure)
            except (BackupForgeError, ValueError) as error:
                verdict, detail = "failed", str(error)
            yield ProbeCheck(name, title, verdict, detail, self._clock.monotonic() - begun)

    def latencies(self) -> Iterator[ProbeLatency]:
        """How long small calls take, one after the other. None where they fail, which the checks have told."""
        self._note("latency")
        contents = [os.urandom(100) for _ in range(_TIMES)]
        names = [object_name(content) for content in contents]
        calls: dict[str, list[Callable[[], object]]] = {
            "save": [partial(self._promises.save, ObjectKind.CLAIM, content) for content in contents],
            "load": [partial(self._first.load, ObjectKind.CLAIM, name) for name in names],
            "list": [lambda: [*self._first.list(ObjectKind.CLAIM)]] * _TIMES,
            "delete": [partial(self._first.delete, ObjectKind.CLAIM, name) for name in names],
        }
        with suppress(StorageError):
            for call, tries in calls.items():
                took = [self._time(each) for each in tries]
                yield ProbeLatency(call, statistics.median(took), max(took))

    def throughputs(self, size: int) -> Iterator[ProbeThroughput]:
        """How fast bytes go, over one connection and over as many as the storage likes."""
        with suppress(StorageError):
            for connections in sorted({1, self._first.connections}):
                self._note(f"speed with {connections} connections" if connections > 1 else "speed with one connection")
                contents = [os.urandom(size) for _ in range(connections)]
                names = [object_name(content) for content in contents]
                up = self._time(lambda each=contents: self._promises.at_once(self._upload, each))  # type: ignore[misc]
                yield ProbeThroughput("up", connections, size * connections, up)
                down = self._time(lambda each=names: self._promises.at_once(partial(self._download, size), each))  # type: ignore[misc]
                yield ProbeThroughput("down", connections, size * connections, down)

    def clean_up(self) -> Iterator[str]:
        """Remove everything; what could not be removed."""
        self._note("cleaning up")
        for kind in ObjectKind:
            names = [name for each, name in self._promises.stored if each is kind]
            limit = delete_limit(self._first)
            for start in range(0, len(names), limit * self._first.connections):
                part = names[start : start + limit * self._first.connections]
                batches = [part[at : at + limit] for at in range(0, len(part), limit)]
                with suppress(BackupForgeError):
                    for _ in map_at_once(
                        partial(delete_many, self._first, kind), batches, threads=self._first.connections, name="probe"
                    ):
                        pass
        left = False
        for kind in ObjectKind:
            try:
                for info in self._first.list(kind):
                    left = True
                    yield f"{kind.value.removesuffix('s')} {info.name[:8]}"
            except BackupForgeError as error:
                left = True
                yield f"{kind.value}: {error}"
        if not left:
            with suppress(BackupForgeError):
                remove_place(self._first)

    def _upload(self, content: bytes) -> None:
        name = object_name(content)
        self._promises.stored.add((ObjectKind.PACK, name))
        upload = self._first.upload(ObjectKind.PACK, cold=True)
        try:
            write_all_of(upload.write, content)
            upload.commit(name)
        finally:
            upload.abort()

    def _download(self, size: int, name: str) -> None:
        self._first.read_into(ObjectKind.PACK, name, 0, memoryview(bytearray(size)))

    def _time(self, call: Callable[[], object]) -> float:
        self._promises.go_on()
        begun = self._clock.monotonic()
        call()
        return self._clock.monotonic() - begun

    def _note(self, what: str) -> None:
        self._progress.current = what.encode()
        self._progress.files_done += 1
