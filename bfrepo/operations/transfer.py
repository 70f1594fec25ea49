"""Storing snapshots of another repository in this one, one after another.

Each is published when it is whole and all it needs is durable, those of which little is new together. A transfer that
is interrupted keeps what was stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import ClassVar, Final

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import Interrupted
from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.core.units import format_size
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.missing_packs import distrust_missing_packs
from bfrepo.operations.publish import ContentLost, publish
from bfrepo.repository.packing import SaverStats
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import SaverOptions

_PUBLISH_S: Final = 60.0
"""Snapshots of which little is new are made durable together: at a pack's worth of data, or after a minute."""


class Transfer(ABC):
    """What is stored by one view of the target's index, as long as that holds."""

    verb: ClassVar[tuple[str, str]]
    """What is done and what has been done: "copy", "copied"."""

    def __init__(self, target: Repository, reporter: Reporter) -> None:
        self.target = target
        self.reporter = reporter
        self._index = target.refresh_index()
        self.index_is_whole = not distrust_missing_packs(target, reporter)
        self._storing = SaverOptions(target.config.compression, target.config.pack_size, native_threads())
        self.saver = target.make_saver(self._storing)
        self._whole: list[tuple[bytes, Snapshot]] = []
        self._last_stored = 0
        self._last_published = target.clock.monotonic()

    @abstractmethod
    def store(self, identifier: bytes, snapshot: Snapshot) -> Snapshot | None:
        """Store what a snapshot of the source needs; what it will be here, or None when not all of it can be read.

        Whatever cannot be read was reported. Raises ContentLost and Interrupted.
        """

    @abstractmethod
    def parent(self, snapshot: Snapshot) -> bytes:
        """The ID in the target of the parent of a snapshot that is about to be published; empty if it is not there."""

    @abstractmethod
    def failed(self, identifier: bytes) -> None:
        """Take note of a snapshot that could not be stored."""

    @abstractmethod
    def published(self, identifier: bytes, new_id: bytes, snapshot: Snapshot) -> None:
        """Take note of a snapshot that is there now."""

    @property
    def reused(self) -> bool:
        """Whether trees of other snapshots in the target may have been used: see `publish`."""
        return False

    def flush(self) -> None:
        """Make durable what was stored."""
        self.saver.flush()

    def run(self, missing: Mapping[bytes, Snapshot]) -> None:
        """Store and publish snapshots in their order, until what is known of the target's index no longer holds.

        Raises ContentLost and Interrupted.
        """
        try:
            for identifier, snapshot in missing.items():
                self._store(identifier, snapshot)
                if self._is_time() and not self._publish():
                    return
            self._publish()
        except Interrupted as error:
            with suppress(ContentLost):
                self._publish()
            kept = format_size(self.saver.stats.bytes_stored)
            hint = f"{kept} stored are kept: {self.verb[0]} again, and it goes on from there"
            raise Interrupted(str(error), hint=hint) from error

    def _store(self, identifier: bytes, snapshot: Snapshot) -> None:
        name = short_id(identifier)
        self.reporter.progress.current = b"snapshot " + name.encode()
        stored = self.store(identifier, snapshot)
        if stored is not None:
            self._whole.append((identifier, stored))
            return
        self.failed(identifier)
        self.reporter.problem(
            b"", f"snapshot {name} of {snapshot.time} was not {self.verb[1]}: not all of it can be read"
        )

    def _is_time(self) -> bool:
        """Whether there is enough for packs of the usual size, or a while has passed."""
        stored, now = self.saver.stats.bytes_stored, self.target.clock.monotonic()
        return stored - self._last_stored >= self._storing.pack_size or now - self._last_published >= _PUBLISH_S

    def _publish(self) -> bool:
        """Make everything durable, then the snapshots that are whole. Whether the index is still as it was known."""
        self.flush()
        known = self._index.objects | self.saver.index_objects
        while self._whole and self.target.index is self._index:
            identifier, snapshot = self._whole.pop(0)
            snapshot.parent = self.parent(snapshot)
            new_id = publish(self.target, snapshot, known, self._storing, reused=self.reused)
            self.reporter.progress.files_done += 1
            self.published(identifier, new_id, snapshot)
        self._last_stored, self._last_published = self.saver.stats.bytes_stored, self.target.clock.monotonic()
        return self.target.index is self._index


def run_transfer(
    make: Callable[[], Transfer], missing: Mapping[bytes, Snapshot], target: Repository, total: SaverStats
) -> None:
    """Make a transfer and run it; what it stored is added to `total`.

    If it fails, the index in memory is forgotten, so that it names nothing that was never stored (INV-1).
    """
    try:
        transfer = make()
        try:
            transfer.run(missing)
        finally:
            transfer.saver.close()
            total.add(transfer.saver.stats)
    except BaseException:
        target.forget_index()
        raise
