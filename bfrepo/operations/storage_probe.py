"""Trying out a storage: does it keep what bfrepo/storage/base.py promises, and how fast is it?

Everything happens in an empty place and goes away again. Nothing is tried twice: what fails now and then shall show.
The checks are few and ask what users can do something about; a new backend is held to far more of them by
`tests/storage/conformance.py`.
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal, TypeAlias

from bfrepo.core.clock import Clock
from bfrepo.core.concurrency import map_at_once
from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    Interrupted,
    StorageError,
    StorageObjectExists,
    StorageObjectMissing,
)
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import object_name
from bfrepo.storage.abilities import delete_limit, delete_many, remove_place
from bfrepo.storage.base import CONFIG_NAME, Backend, ObjectInfo, ObjectKind
from bfrepo.storage.layout import DIRECTORY_KINDS

Verdict: TypeAlias = Literal["passed", "warning", "failed"]
Direction: TypeAlias = Literal["up", "down"]

_MANY: Final = 1100
"""Objects for the listing: S3 and its relatives give a thousand names at a time."""
_TIMES: Final = 20
_RIVALS: Final = 8
_LARGE: Final = 6 * MIB
"""More than the least size of a part in S3, and than a window of TCP or SSH."""
_PIECE: Final = MIB

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


class _Failed(Exception):
    """A check has found something; `warning` says that one can live with it."""

    def __init__(self, message: str, *, warning: bool = False) -> None:
        super().__init__(message)
        self.warning = warning


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
        self._second = second
        self._clock = clock
        self._progress = progress
        self._cancelled = cancelled
        self._stored: set[tuple[ObjectKind, str]] = set()

    def check(self) -> Iterator[ProbeCheck]:
        """Every property in turn."""
        for name, title, check in (
            ("objects", "what is stored is read back", self._check_objects),
            ("ranges", "parts of objects are read exactly", self._check_ranges),
            ("missing", "what is not there is said to be missing", self._check_missing),
            ("visible", "what one client stores, others see at once", self._check_visible),
            ("listing", f"a listing of {_MANY:,} objects names each once", self._check_listing),
            ("uploads", "uploads are seen whole or not at all", self._check_uploads),
            ("atomic", "who reads while others write gets whole objects", self._check_atomic),
            ("exclusive", "of several that make a repository one succeeds", self._check_exclusive),
            ("deletion", "what is deleted is gone at once", self._check_deletion),
        ):
            self._note(title)
            begun = self._clock.monotonic()
            verdict: Verdict = "passed"
            detail = ""
            try:
                check()
            except Interrupted:
                raise
            except _Failed as failure:
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
            "save": [partial(self._save, ObjectKind.CLAIM, content) for content in contents],
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
                up = self._time(lambda each=contents: self._at_once(self._upload, each))  # type: ignore[misc]
                yield ProbeThroughput("up", connections, size * connections, up)
                down = self._time(lambda each=names: self._at_once(partial(self._download, size), each))  # type: ignore[misc]
                yield ProbeThroughput("down", connections, size * connections, down)

    def clean_up(self) -> Iterator[str]:
        """Remove everything; what could not be removed."""
        self._note("cleaning up")
        for kind in ObjectKind:
            names = [name for each, name in self._stored if each is kind]
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

    # --- the properties

    def _check_objects(self) -> None:
        for kind in DIRECTORY_KINDS:
            for content in (os.urandom(1000), b""):
                name = self._save(kind, content)
                _expect(self._first.load(kind, name) == content, f"{kind.value}: other bytes came back")
                _expect(self._first.size(kind, name) == len(content), f"{kind.value}: the size is wrong")

    def _check_ranges(self) -> None:
        content = os.urandom(100_000)
        name = self._save(ObjectKind.PACK, content)
        for offset, length in ((0, 1), (0, 100_000), (99_999, 1), (12_345, 54_321)):
            buffer = bytearray(length)
            self._first.read_into(ObjectKind.PACK, name, offset, memoryview(buffer))
            _expect(buffer == content[offset : offset + length], f"{length} bytes at {offset} are not right")
        for offset in (99_999, 200_000):
            try:
                self._first.read(ObjectKind.PACK, name, offset, 2)
            except DamagedObject:
                continue
            raise _Failed("a range beyond the end of an object is not refused")

    def _check_missing(self) -> None:
        name = object_name(os.urandom(100))
        calls: tuple[Callable[[], object], ...] = (
            lambda: self._first.load(ObjectKind.INDEX, name),
            lambda: self._first.size(ObjectKind.INDEX, name),
            lambda: self._first.read(ObjectKind.PACK, name, 0, 1),
        )
        for call in calls:
            with _missing_expected("an object that was never stored was read"):
                call()
        self._first.delete(ObjectKind.INDEX, name)

    def _check_visible(self) -> None:
        for _ in range(_TIMES):
            self._go_on()
            content = os.urandom(100)
            name = self._save(ObjectKind.SNAPSHOT, content)
            try:
                _expect(self._second.load(ObjectKind.SNAPSHOT, name) == content, "another client reads other bytes")
            except StorageObjectMissing:
                raise _Failed("another client does not find what was just stored") from None
            listed = {info.name for info in self._second.list(ObjectKind.SNAPSHOT)}
            _expect(name in listed, "another client's listing leaves out what was just stored")

    def _check_listing(self) -> None:
        contents = [b"%d" % number for number in range(_MANY)]
        self._at_once(partial(self._save, ObjectKind.INDEX), contents)
        expected = {object_name(content): len(content) for content in contents}
        found = [info for info in self._second.list(ObjectKind.INDEX) if info.name in expected]
        names = [info.name for info in found]
        _expect(len(names) == len(set(names)), "some objects are listed twice")
        _expect(len(names) == _MANY, f"only {len(names)} of {_MANY} objects are listed")
        _expect(all(info.size == expected[info.name] for info in found), "some objects are listed with a wrong size")

    def _check_uploads(self) -> None:
        content = os.urandom(_LARGE)
        name = object_name(content)
        self._stored.add((ObjectKind.PACK, name))
        upload = self._first.upload(ObjectKind.PACK)
        try:
            _write(upload.write, content)
            with _missing_expected("an upload can be read before it is complete"):
                self._second.size(ObjectKind.PACK, name)
            upload.commit(name)
        finally:
            upload.abort()
        _expect(self._second.load(ObjectKind.PACK, name) == content, "an upload came back with other bytes")
        listed = [*self._second.list(ObjectKind.PACK)]
        upload = self._first.upload(ObjectKind.PACK)
        _write(upload.write, content)
        upload.abort()
        _expect(_same(listed, [*self._second.list(ObjectKind.PACK)]), "an upload that was given up has left something")

    def _check_atomic(self) -> None:
        troubles: list[StorageError] = []
        for _ in range(3):
            self._go_on()
            content = os.urandom(_LARGE)
            name = object_name(content)
            stored = threading.Event()
            with ThreadPoolExecutor(1, thread_name_prefix="probe") as pool:
                reading = pool.submit(self._watch, name, stored)
                try:
                    self._save(ObjectKind.PACK, content)
                finally:
                    stored.set()
                troubles += reading.result()
        if troubles:
            raise _Failed(f"reading fails for a moment: {troubles[0]}", warning=True)

    def _watch(self, name: str, stored: threading.Event) -> list[StorageError]:
        """Read an object again and again while it is being stored; the errors that were none when it was there."""
        troubles: list[StorageError] = []
        while not stored.is_set():
            try:
                data = self._second.load(ObjectKind.PACK, name)
            except StorageObjectMissing:
                continue
            except StorageError as error:
                troubles.append(error)
            else:
                _expect(object_name(data) == name, "a part of an object was read while it was being stored")
        _expect(object_name(self._second.load(ObjectKind.PACK, name)) == name, "an object is not what was stored")
        return troubles

    def _check_exclusive(self) -> None:
        together = threading.Barrier(_RIVALS)
        self._stored.add((ObjectKind.CONFIG, CONFIG_NAME))
        troubles: list[StorageError] = []

        def save(number: int) -> bytes | None:
            content = b"rival %d" % number
            together.wait()
            try:
                (self._first, self._second)[number % 2].save(ObjectKind.CONFIG, CONFIG_NAME, content)
            except StorageObjectExists:
                return None
            except StorageError as error:
                troubles.append(error)
                return None
            return content

        with ThreadPoolExecutor(_RIVALS, thread_name_prefix="probe") as pool:
            winners = [each for each in pool.map(save, range(_RIVALS)) if each is not None]
        _expect(bool(winners), f"nobody could store a config{f': {troubles[0]}' if troubles else ''}")
        if len(winners) > 1:
            raise _Failed(f"{len(winners)} of {_RIVALS} succeeded: do not run 'init' twice at a time", warning=True)
        kept = self._second.load(ObjectKind.CONFIG, CONFIG_NAME)
        _expect(kept == winners[0], "the config is not that of the client that succeeded")
        if troubles:
            raise _Failed(f"one succeeded, but others failed for a moment: {troubles[0]}", warning=True)

    def _check_deletion(self) -> None:
        for _ in range(_TIMES):
            self._go_on()
            content = os.urandom(100)
            name = self._save(ObjectKind.CLAIM, content)
            for _ in range(2):
                self._first.delete(ObjectKind.CLAIM, name)
            with _missing_expected("another client still reads what was deleted"):
                self._second.load(ObjectKind.CLAIM, name)
            listed = {info.name for info in self._second.list(ObjectKind.CLAIM)}
            _expect(name not in listed, "another client's listing still names what was deleted")
        self._save(ObjectKind.CLAIM, content)
        _expect(self._second.load(ObjectKind.CLAIM, name) == content, "what was deleted cannot be stored again")

    # --- steps

    def _save(self, kind: ObjectKind, content: bytes) -> str:
        name = object_name(content)
        self._stored.add((kind, name))
        self._first.save(kind, name, content)
        return name

    def _upload(self, content: bytes) -> None:
        name = object_name(content)
        self._stored.add((ObjectKind.PACK, name))
        upload = self._first.upload(ObjectKind.PACK, cold=True)
        try:
            _write(upload.write, content)
            upload.commit(name)
        finally:
            upload.abort()

    def _download(self, size: int, name: str) -> None:
        self._first.read_into(ObjectKind.PACK, name, 0, memoryview(bytearray(size)))

    def _at_once(self, do: Callable[[bytes], object] | Callable[[str], object], items: Sequence[bytes | str]) -> None:
        def one(item: bytes | str) -> None:
            self._go_on()
            do(item)  # type: ignore[arg-type]

        for _ in map_at_once(one, items, threads=self._first.connections, name="probe"):
            pass

    def _time(self, call: Callable[[], object]) -> float:
        self._go_on()
        begun = self._clock.monotonic()
        call()
        return self._clock.monotonic() - begun

    def _note(self, what: str) -> None:
        self._progress.current = what.encode()
        self._progress.files_done += 1

    def _go_on(self) -> None:
        if self._cancelled():
            raise Interrupted("the probe was interrupted", hint="what it had stored was removed again")


def _write(write: Callable[[Buffer], None], content: bytes) -> None:
    view = memoryview(content)
    for start in range(0, len(view), _PIECE):
        write(view[start : start + _PIECE])


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _Failed(otherwise)


@contextmanager
def _missing_expected(otherwise: str) -> Iterator[None]:
    try:
        yield
    except StorageObjectMissing:
        return
    raise _Failed(otherwise)


def _same(before: Sequence[ObjectInfo], after: Sequence[ObjectInfo]) -> bool:
    return {info.name for info in before} == {info.name for info in after}
