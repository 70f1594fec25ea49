"""Bringing back from an archive the packs that a piece of work has to read.

    list     which packs the work needs, and which of them are archived
    ask      the service for copies of those nobody has asked for yet
    wait     until all are at hand; then the work begins

Nothing of it is remembered here: the service knows what it was asked for. So whoever stops while it waits, or is
stopped, runs the same command again, and it goes on with what is at hand by then.

Whether a repository has an archive at all is found out by a look at up to a thousand of its packs. If that shows none
and there is one all the same, the work runs into an archived pack, and begins again with what it needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeVar

from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError, Interrupted, StorageObjectArchived, StorageObjectMissing
from bfrepo.core.progress import Progress, Reporter
from bfrepo.core.units import format_size
from bfrepo.index.table import BlobTable
from bfrepo.storage.base import Backend
from bfrepo.storage.pausing import Pausing
from bfrepo.storage.warming import Archive, Warmth, archive_of

T = TypeVar("T")

_AGAIN: Final = "what was asked for stays so: run the same command again later, and it goes on from there"
_TREES: Final = (
    "directories are archived as well: 'backupforge repair hot --repository-hot URL' brings them back, to a place "
    "where they can always be read"
)
_BATCH: Final = 100
"""Packs that are looked at together. All were asked for at the same time: if none of a batch is at hand yet, those
behind it are not looked at in vain."""


class StillArchived(BackupForgeError):
    """Packs were asked for, and are not at hand yet."""

    code = "still-archived"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedPacks:
    """What of the packs that some work needs is in the archive, with sizes in bytes: `cold` is to be asked for,
    `warming` was.
    """

    needed: int = 0
    needed_size: int = 0
    cold: dict[bytes, int] = field(default_factory=dict)
    warming: dict[bytes, int] = field(default_factory=dict)

    def holds(self, pack: bytes) -> bool:
        """Whether a pack cannot be read yet."""
        return pack in self.cold or pack in self.warming

    @property
    def count(self) -> int:
        """Packs that cannot be read yet."""
        return len(self.cold) + len(self.warming)

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(self.cold.values()) + sum(self.warming.values())


def _tell_nobody(packs: ArchivedPacks) -> None:
    """For who has nobody to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmUp:
    """How to wait for an archive: for how long at most (None: as long as it takes), and how often to look.

    `tell` hears what is archived of all that is needed, before anything is asked for.
    """

    wait: timedelta | None = None
    interval: timedelta = timedelta(minutes=1)
    tell: Callable[[ArchivedPacks], None] = _tell_nobody
    sleep: Callable[[float], None] = time.sleep


class Warmer:
    """Warms packs of one repository for one piece of work. Used by one thread."""

    def __init__(self, backend: Backend, clock: Clock, reporter: Reporter, cancelled: Callable[[], bool]) -> None:
        self._backend = backend
        self._clock = clock
        self._archive = archive_of(backend)
        self._progress = reporter.progress
        self._cancelled = cancelled

    def expects_archived(self) -> bool:
        """Whether the repository has archived packs, as far as one request shows."""
        return self._archive is not None and self._archive.holds_any()

    def run(self, needed: Callable[[], Mapping[bytes, int]], work: Callable[[], T], how: WarmUp) -> T:
        """Do some work when all packs that it needs are at hand. `work` may be begun twice."""
        if self.expects_archived():
            self.warm(reading_directories(needed), how)
        try:
            return work()
        except StorageObjectArchived:
            if self._archive is None:
                raise
        self.warm(reading_directories(needed), how)
        return work()

    def survey(self, packs: Mapping[bytes, int]) -> ArchivedPacks:
        """What is archived of packs, which are given with their sizes. Raises StorageError and Interrupted."""
        found = ArchivedPacks(needed=len(packs), needed_size=sum(packs.values()))
        if self._archive is not None:
            for pack, warmth in self._look(self._archive, sorted(packs)):
                if warmth is Warmth.COLD:
                    found.cold[pack] = packs[pack]
                elif warmth is Warmth.WARMING:
                    found.warming[pack] = packs[pack]
        return found

    def warm(self, packs: Mapping[bytes, int], how: WarmUp) -> None:
        """Ask for what is archived of the packs and wait until all are at hand.

        Raises StillArchived when that takes longer than one wants to wait, StorageError and Interrupted.
        """
        found = self.survey(packs)
        how.tell(found)
        if self._archive is None or not found.count:
            return
        with _own_counters(self._progress) as progress:
            progress.files_total, progress.bytes_total = found.count, found.size
            try:
                progress.current = b"asking the archive for packs"
                self._ask(self._archive, list(found.cold))
                progress.current = b"waiting for the archive"
                self._wait(self._archive, dict(sorted((found.cold | found.warming).items())), how)
            except Interrupted as error:
                raise Interrupted(str(error), hint=_AGAIN) from error

    def _wait(self, archive: Archive, left: dict[bytes, int], how: WarmUp) -> None:
        pausing = Pausing(clock=self._clock, sleep=how.sleep, cancelled=self._cancelled)
        begun = pausing.now()
        while True:
            self._take_out_ready(archive, left)
            if not left:
                return
            pause, waited = how.interval.total_seconds(), pausing.now() - begun
            if how.wait is not None:
                pause = min(pause, how.wait.total_seconds() - waited)
            if pause <= 0:
                still = "1 pack is" if len(left) == 1 else f"{len(left)} packs are"
                raise StillArchived(
                    f"{still} still in the archive of {self._backend.location} ({format_size(sum(left.values()))})",
                    hint=_AGAIN,
                )
            pausing.wait(pause, "the archive has not brought back all packs yet")

    def _take_out_ready(self, archive: Archive, left: dict[bytes, int]) -> None:
        """Take out of `left` what is at hand. What has gone back to the archive meanwhile is asked for again."""
        gone_back = []
        for pack, warmth in self._look(archive, list(left), stops_early=True):
            if warmth is Warmth.READY:
                self._progress.files_done += 1
                self._progress.bytes_done += left.pop(pack)
            elif warmth is Warmth.COLD:
                gone_back.append(pack)
        self._ask(archive, gone_back)

    def _look(
        self, archive: Archive, packs: Sequence[bytes], *, stops_early: bool = False
    ) -> Iterator[tuple[bytes, Warmth]]:
        """How warm packs are. With `stops_early` the rest is left out when none of a batch is at hand."""

        def look(pack: bytes) -> Warmth:
            try:
                return archive.warmth(pack.hex())
            except StorageObjectMissing:
                return Warmth.READY  # deleted: whoever reads finds out where its content is now

        for batch, found in self._in_batches(look, packs):
            yield from zip(batch, found, strict=True)
            if stops_early and Warmth.READY not in found:
                return

    def _ask(self, archive: Archive, packs: Sequence[bytes]) -> None:
        def ask(pack: bytes) -> None:
            with suppress(StorageObjectMissing):  # as above
                archive.request(pack.hex())

        for _ in self._in_batches(ask, packs):
            pass

    def _in_batches(
        self, do: Callable[[bytes], T], packs: Sequence[bytes]
    ) -> Iterator[tuple[Sequence[bytes], list[T]]]:
        """As many requests at a time as the storage likes."""
        connections = max(1, min(self._backend.connections, len(packs)))
        with ThreadPoolExecutor(connections, thread_name_prefix="warm-up") as pool:
            for start in range(0, len(packs), _BATCH):
                if self._cancelled():
                    raise Interrupted("stopped while asking which packs are archived")
                batch = packs[start : start + _BATCH]
                yield batch, list(pool.map(do, batch))


class NeededPacks:
    """Collects the packs that hold frames of a table."""

    def __init__(self, table: BlobTable) -> None:
        self._table = table
        self.sizes: dict[bytes, int] = {}
        """The packs so far, with what the index says of their sizes."""

    def add(self, frames: Iterable[int]) -> None:
        """Take in the packs of some more frames."""
        table, sizes = self._table, self.sizes
        for frame in frames:
            pack = table.pack_of(frame)
            if pack not in sizes:
                info = table.pack(pack)
                sizes[pack] = info.size if info is not None else 0


def reading_directories(work: Callable[[], T]) -> T:
    """Do what reads only directories. Raises StorageObjectArchived with a hint what to do where they are archived."""
    try:
        return work()
    except StorageObjectArchived as error:
        raise StorageObjectArchived(str(error), hint=_TREES) from error


@contextmanager
def _own_counters(progress: Progress) -> Iterator[Progress]:
    """Counters for the waiting alone, those of the work afterwards."""
    kept = progress.files_done, progress.bytes_done, progress.files_total, progress.bytes_total, progress.current
    progress.files_done = progress.bytes_done = 0
    try:
        yield progress
    finally:
        progress.files_done, progress.bytes_done, progress.files_total, progress.bytes_total, progress.current = kept
