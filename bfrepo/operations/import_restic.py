"""Importing snapshots of a restic repository, which is read and not changed.

An imported snapshot has the time, host, user, paths, tags and files of the original, and its ID as `original`: by that
it is known that it need not be imported again. Oldest first, each is published when all it needs is durable; an import
that is interrupted keeps what was stored, and the next goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot, SnapshotSummary
from bfrepo.operations.import_map import ImportMap
from bfrepo.operations.import_trees import TreeImporter
from bfrepo.operations.publish import ContentLost
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.transfer import Transfer, run_transfer
from bfrepo.repository.packing import SaverStats
from bfrepo.repository.repository import Repository
from bfrepo.restic.records import SnapshotRecord, iso_time, nanoseconds
from bfrepo.restic.repository import ResticRepository

_MOST_PASSES: Final = 3


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
            known = {**before, **result.imported}
            make = partial(_Session, source, target, known, result, reporter, cancelled, on_imported)
            run_transfer(make, missing, target, result.stored)
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


class _Session(Transfer):
    """Importing by one view of the target's index."""

    verb = ("import", "imported")

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
        super().__init__(target, reporter)
        self._blobs = ImportMap(target.cache_folder, source.id, self.saver)
        self._trees = TreeImporter(source, self.saver, self._blobs, reporter, cancelled)
        self._known = known
        self._result = result
        self._on_imported = on_imported

    def store(self, identifier: bytes, snapshot: Snapshot) -> Snapshot | None:
        """See `Transfer.store`."""
        tree = self._trees.run(snapshot.tree)
        return msgspec.structs.replace(snapshot, tree=tree) if tree is not None else None

    def flush(self) -> None:
        """Make durable what was stored; then what it was called in restic may be remembered."""
        super().flush()
        self._blobs.keep()

    def failed(self, identifier: bytes) -> None:
        """See `Transfer.failed`."""
        self._result.failed.append(identifier)

    def parent(self, snapshot: Snapshot) -> bytes:
        """See `Transfer.parent`."""
        return self._known.get(snapshot.parent, b"")

    def published(self, identifier: bytes, new_id: bytes, snapshot: Snapshot) -> None:
        """See `Transfer.published`."""
        self._known[identifier] = self._result.imported[identifier] = new_id
        self._on_imported(identifier, new_id)


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
