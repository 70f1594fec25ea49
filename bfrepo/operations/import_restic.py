"""Importing snapshots of a restic repository, which is read and not changed.

An imported snapshot has the time, host, user, paths, tags and files of the original, and its ID as `original`: by that
it is known that it need not be imported again. Oldest first, each is published when all it needs is durable; an import
that is interrupted keeps what was stored, and the next goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from typing import Final

import msgspec

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import DamagedObject, Interrupted
from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.core.units import format_size
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot, SnapshotSummary
from bfrepo.operations.import_map import ImportMap
from bfrepo.operations.import_trees import TreeImporter
from bfrepo.operations.missing_packs import distrust_missing_packs
from bfrepo.operations.publish import ContentLost, publish
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.packing import SaverStats
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import SaverOptions
from bfrepo.restic.records import SnapshotRecord, iso_time, nanoseconds
from bfrepo.restic.repository import ResticRepository

_MOST_PASSES: Final = 3
_PUBLISH_S: Final = 60.0
"""Snapshots of which little is new are made durable together: at a pack's worth of data, or after a minute."""


@dataclass(slots=True)
class ImportResult:
    """What was imported, and what the target had: our ID by that of restic. `read` is bytes of chunks."""

    present: dict[bytes, bytes] = field(default_factory=dict)
    imported: dict[bytes, bytes] = field(default_factory=dict)
    failed: list[bytes] = field(default_factory=list)
    stored: SaverStats = field(default_factory=SaverStats)
    read: int = 0
    duration_s: float = 0.0


def restic_snapshots(source: ResticRepository, reporter: Reporter) -> dict[bytes, Snapshot]:
    """The snapshots by their IDs, oldest first, as they will be here; `tree` and `parent` are still those of restic.

    What cannot be read is reported.
    """
    found: dict[bytes, Snapshot] = {}
    for identifier, record in source.snapshots():
        try:
            if isinstance(record, DamagedObject):
                raise record
            found[identifier] = _described(identifier, record)
        except (ValueError, DamagedObject) as error:
            reporter.problem(b"", f"snapshot {short_id(identifier)} of restic cannot be imported: {error}")
    return dict(sorted(found.items(), key=lambda item: (item[1].when, item[0])))


def imported_before(target: Repository, reporter: Reporter) -> dict[bytes, bytes]:
    """Our snapshots by the IDs of those that they were made from."""
    snapshots = load_snapshots(target, on_error=lambda name, error: reporter.warn(b"", str(error)))
    return {snapshot.original: identifier for identifier, snapshot in snapshots.items() if snapshot.original}


def import_restic(
    source: ResticRepository,
    target: Repository,
    wanted: Mapping[bytes, Snapshot],
    reporter: Reporter,
    cancelled: Callable[[], bool],
    on_imported: Callable[[bytes, bytes], None] = lambda old, new: None,
) -> ImportResult:
    """Import some of `restic_snapshots`, oldest first. `on_imported` is told both IDs of each when it is there.

    A snapshot of which something cannot be read is reported and not imported, the others are. Raises Interrupted when
    `cancelled` says so, what was stored until then is kept; and what reading the index and storing raise.
    """
    begun = target.clock.monotonic()
    result = ImportResult()
    before = imported_before(target, reporter)
    result.present = {identifier: before[identifier] for identifier in wanted if identifier in before}
    read_before = reporter.progress.bytes_done
    missing = {identifier: snapshot for identifier, snapshot in wanted.items() if identifier not in before}
    reporter.progress.files_total = len(missing)
    if missing:
        source.load_index()
    for number in range(_MOST_PASSES):
        if not missing:
            break
        try:
            _one_pass(source, target, missing, {**before, **result.imported}, result, reporter, cancelled, on_imported)
        except ContentLost:
            if number == _MOST_PASSES - 1:
                raise
        missing = _left(missing, result)
    result.read = reporter.progress.bytes_done - read_before
    result.duration_s = target.clock.monotonic() - begun
    return result


def _left(missing: Mapping[bytes, Snapshot], result: ImportResult) -> dict[bytes, Snapshot]:
    done: Collection[bytes] = {*result.imported, *result.failed}
    return {identifier: snapshot for identifier, snapshot in missing.items() if identifier not in done}


def _one_pass(
    source: ResticRepository,
    target: Repository,
    missing: Mapping[bytes, Snapshot],
    known: dict[bytes, bytes],
    result: ImportResult,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    on_imported: Callable[[bytes, bytes], None],
) -> None:
    """Import by one view of the target's index. Raises ContentLost when a prune has deleted what it relied on."""
    try:
        session = _Session(source, target, known, result, reporter, cancelled, on_imported)
        try:
            session.run(missing)
        finally:
            session.saver.close()
            _add(result.stored, session.saver.stats)
    except BaseException:
        target.forget_index()
        raise


class _Session:
    """Importing until what is known of the target's index no longer holds."""

    def __init__(
        self,
        source: ResticRepository,
        target: Repository,
        known: dict[bytes, bytes],
        result: ImportResult,
        reporter: Reporter,
        cancelled: Callable[[], bool],
        on_imported: Callable[[bytes, bytes], None],
    ) -> None:
        self._index = target.refresh_index()
        distrust_missing_packs(target, reporter)
        config = target.config
        self._storing = SaverOptions(config.compression, config.pack_size, native_threads())
        self.saver = target.make_saver(self._storing)
        self._blobs = ImportMap(target.cache_folder, source.id, self.saver)
        self._trees = TreeImporter(source, self.saver, self._blobs, reporter, cancelled)
        self._target = target
        self._known = known
        self._result = result
        self._reporter = reporter
        self._on_imported = on_imported
        self._whole: list[tuple[bytes, Snapshot]] = []
        self._last_stored = 0
        self._last_published = target.clock.monotonic()

    def run(self, missing: Mapping[bytes, Snapshot]) -> None:
        """Import them, oldest first. Raises ContentLost and Interrupted."""
        try:
            for identifier, snapshot in missing.items():
                self._import(identifier, snapshot)
                if self._is_time() and not self._publish():
                    return
            self._publish()
        except Interrupted as error:
            with suppress(ContentLost):
                self._publish()
            kept = format_size(self.saver.stats.bytes_stored)
            raise Interrupted(
                str(error), hint=f"{kept} stored are kept: import again, and it goes on from there"
            ) from error

    def _import(self, identifier: bytes, snapshot: Snapshot) -> None:
        self._reporter.progress.current = b"snapshot " + short_id(identifier).encode()
        tree = self._trees.run(snapshot.tree)
        if tree is None:
            self._result.failed.append(identifier)
            self._reporter.problem(
                b"", f"snapshot {short_id(identifier)} of {snapshot.time} was not imported: not all of it can be read"
            )
            return
        self._whole.append((identifier, msgspec.structs.replace(snapshot, tree=tree)))

    def _is_time(self) -> bool:
        """Whether there is enough for packs of the usual size, or a while has passed."""
        stored, now = self.saver.stats.bytes_stored, self._target.clock.monotonic()
        return stored - self._last_stored >= self._storing.pack_size or now - self._last_published >= _PUBLISH_S

    def _publish(self) -> bool:
        """Make everything durable, then the snapshots that are whole. Whether the index is still as it was known."""
        target = self._target
        self.saver.flush()
        self._blobs.keep()
        known = self._index.objects | self.saver.index_objects
        while self._whole and target.index is self._index:
            identifier, snapshot = self._whole.pop(0)
            snapshot.parent = self._known.get(snapshot.parent, b"")
            new_id = publish(target, snapshot, known, self._storing)
            self._known[identifier] = self._result.imported[identifier] = new_id
            self._reporter.progress.files_done += 1
            self._on_imported(identifier, new_id)
        self._last_stored, self._last_published = self.saver.stats.bytes_stored, target.clock.monotonic()
        return target.index is self._index


def _described(identifier: bytes, record: SnapshotRecord) -> Snapshot:
    """What restic says of a snapshot. Raises ValueError."""
    seen = record.summary
    summary = SnapshotSummary(started_ns=nanoseconds(record.time))
    if seen is not None:
        summary = SnapshotSummary(
            files_new=seen.files_new,
            files_changed=seen.files_changed,
            files_unmodified=seen.files_unmodified,
            files=seen.files_new + seen.files_changed + seen.files_unmodified,
            dirs=seen.dirs_new + seen.dirs_changed + seen.dirs_unmodified,
            size=seen.total_bytes_processed,
            started_ns=nanoseconds(seen.backup_start or record.time),
        )
    return Snapshot(
        version=SNAPSHOT_VERSION,
        time=iso_time(record.time),
        tree=bytes.fromhex(record.tree),
        paths=[path.encode() for path in record.paths or ()],
        hostname=record.hostname,
        username=record.username,
        excludes=list(record.excludes or ()),
        tags=sorted(set(record.tags or ())),
        parent=bytes.fromhex(record.parent) if record.parent else b"",
        original=identifier,
        program=record.program_version or "restic",
        summary=summary,
    )


def _add(total: SaverStats, part: SaverStats) -> None:
    for each in dataclass_fields(SaverStats):
        setattr(total, each.name, getattr(total, each.name) + getattr(part, each.name))
