"""A storage that archives packs, with hours that go by as fast as a test likes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from bfrepo.core.errors import StorageObjectArchived
from bfrepo.operations.warming import ArchivedPacks, WarmUp
from bfrepo.storage.base import Backend, ObjectKind, Upload
from bfrepo.storage.forwarding import ForwardingBackend
from bfrepo.storage.layout import describe
from bfrepo.storage.warming import Archive, Warmth
from tests.support.repositories import FakeClock

HOUR = 5.0
"""An hour of the archive, by the clock of a test: waiting goes in slices of a tenth of a second."""


@dataclass
class Glacier:
    """Archived packs, when each that was asked for is at hand, and what was asked for in which order."""

    clock: FakeClock
    takes_s: float = 4 * HOUR
    archived: set[str] = field(default_factory=set)
    ready_at: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    shows: bool = True
    """Whether a sample shows any of them."""

    def holds_any(self) -> bool:
        return self.shows and bool(self.archived)

    def warmth(self, name: str) -> Warmth:
        if name not in self.archived:
            return Warmth.READY
        if name not in self.ready_at:
            return Warmth.COLD
        return Warmth.READY if self.clock.seconds >= self.ready_at[name] else Warmth.WARMING

    def request(self, name: str) -> None:
        self.asked.append(name)
        if name in self.archived:
            self.ready_at.setdefault(name, self.clock.seconds + self.takes_s)


class ArchivingBackend(ForwardingBackend):
    """Archives packs of file data as soon as they are stored, and with `trees` those of trees as well."""

    def __init__(self, inner: Backend, clock: FakeClock, *, trees: bool = False) -> None:
        super().__init__(inner)
        self.glacier = Glacier(clock)
        self._trees = trees

    @property
    def archive(self) -> Archive:
        return self.glacier

    def load(self, kind: ObjectKind, name: str) -> bytes:
        self._refuse(kind, name)
        return super().load(kind, name)

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        self._refuse(kind, name)
        return super().read(kind, name, offset, length)

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        self._refuse(kind, name)
        super().read_into(kind, name, offset, buffer)

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        upload = super().upload(kind, cold=cold)
        archived = kind is ObjectKind.PACK and (cold or self._trees)
        return _Archived(upload, self.glacier.archived.add) if archived else upload

    def _refuse(self, kind: ObjectKind, name: str) -> None:
        if kind is ObjectKind.PACK and self.glacier.warmth(name) is not Warmth.READY:
            raise StorageObjectArchived(f"{describe(kind, name)} in {self.location} is archived")


class _Archived:
    def __init__(self, inner: Upload, note: Callable[[str], None]) -> None:
        self.write = inner.write
        self.abort = inner.abort
        self._commit = inner.commit
        self._note = note

    def commit(self, name: str) -> None:
        self._commit(name)
        self._note(name)


@dataclass
class Waiting:
    """Waits as a test wants it: time goes by at once. `told` is what was said to be archived."""

    clock: FakeClock
    wait: timedelta | None = None
    slept: float = 0.0
    told: list[ArchivedPacks] = field(default_factory=list)

    @property
    def how(self) -> WarmUp:
        return WarmUp(wait=self.wait, interval=timedelta(seconds=HOUR), tell=self.told.append, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.clock.advance(seconds)
