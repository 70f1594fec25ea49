"""Backing up: choose the parent, archive the source, store the snapshot last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from bfrepo.archiver.archiver import Archiver, ArchiveStats
from bfrepo.archiver.filesaver import FileSaver
from bfrepo.archiver.members import MemberArchiver
from bfrepo.archiver.parent import ParentPolicy, ParentTree
from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import Interrupted, ObjectNotFound
from bfrepo.core.progress import Reporter
from bfrepo.core.units import format_size
from bfrepo.data.selection import SnapshotFilter, find_node, find_snapshot
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot, SnapshotSummary
from bfrepo.operations.missing_packs import distrust_missing_packs
from bfrepo.operations.publish import ContentLost, publish
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.packing import SaverStats
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import Saver, SaverOptions
from bfrepo.sources.base import MemberSource, Source, StreamedSource
from bfrepo.storage.discard import DiscardingBackend

_MOST_PASSES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupOptions:
    """What to write into the snapshot and how to go about it. `paths` are raw and absolute; `time` has a zone.

    `read_once` says that the source cannot be read twice, or had better not.
    """

    paths: tuple[bytes, ...]
    hostname: str
    username: str
    program: str
    excludes: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    label: str = ""
    time: datetime | None = None
    parent: str | None = None
    force: bool = False
    ignore_ctime: bool = False
    ignore_inode: bool = False
    with_atime: bool = False
    dry_run: bool = False
    skip_if_unchanged: bool = False
    readers: int = 1
    workers: int = field(default_factory=native_threads)
    verify: bool = True
    read_once: bool = False


@dataclass(frozen=True, slots=True)
class BackupResult:
    """What a backup did. `snapshot_id` is None for a dry run and when nothing had changed and none was wanted."""

    snapshot_id: bytes | None
    snapshot: Snapshot
    parent_id: bytes | None
    archived: ArchiveStats
    stored: SaverStats
    duration_s: float


@dataclass(frozen=True, slots=True)
class SeveralBackups:
    """What several backups did, one after the other, and how many others failed, which was reported."""

    made: tuple[BackupResult, ...]
    failed: int


def backup(
    repository: Repository,
    open_source: Callable[[], Source | StreamedSource | MemberSource],
    options: BackupOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> BackupResult:
    """Make a snapshot of the source. Items that cannot be read are reported and left out.

    `open_source` is called again in the rare case that a prune removed content this backup relied on. Raises
    Interrupted when `cancelled` says so; what was stored until then is named in the index and is not stored again next
    time.
    """
    begun, now = repository.clock.monotonic(), repository.clock.now()
    one_pass = partial(_one_pass, repository, open_source, options, reporter, cancelled, begun, now)
    # That packs are missing is found out at the latest when the snapshot is published. It hardly ever happens, and to
    # list the packs first is what takes longest where nothing has changed: so only the second pass does.
    with suppress(ContentLost):
        return one_pass(trusting=not (options.dry_run or options.read_once))
    for _ in range(_MOST_PASSES - 2):
        with suppress(ContentLost):
            return one_pass(trusting=False)
    return one_pass(trusting=False)


def _one_pass(
    repository: Repository,
    open_source: Callable[[], Source | StreamedSource | MemberSource],
    options: BackupOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    begun: float,
    now: datetime,
    *,
    trusting: bool,
) -> BackupResult:
    """Read the source once; `trusting` that the packs which the index names are there.

    Raises ContentLost when some that this pass relied on are not, mostly because a prune has deleted them.
    """
    repository.refresh_index()
    if not trusting:
        distrust_missing_packs(repository, reporter)
    parent_id, parent = (None, None) if options.force else _choose_parent(repository, options, reporter)
    source = open_source()
    with (
        _index_of_what_is_stored(repository, dry_run=options.dry_run),
        closing(_Session(repository, options, parent, reporter, cancelled)) as session,
    ):
        tree, stats = session.archive(source)
        snapshot = _describe(options, now, parent_id, tree)
        summary = _summary(stats, session.saver.stats)
        summary.errors = reporter.progress.errors  # with what the source could not look at
        summary.started_ns = int(now.timestamp() * 1e9)
        summary.duration = repository.clock.monotonic() - begun
        snapshot.summary = summary
        wanted = not options.dry_run and not (
            options.skip_if_unchanged and parent is not None and _is_same(repository, options.paths, parent.tree, tree)
        )
        snapshot_id = session.finish(snapshot if wanted else None)
    duration = repository.clock.monotonic() - begun
    return BackupResult(snapshot_id, snapshot, parent_id, stats, session.saver.stats, duration)


def _is_same(repository: Repository, paths: tuple[bytes, ...], before: bytes, after: bytes) -> bool:
    """Whether nothing that was asked for has changed.

    The directories above it do not count: /tmp gets a new time whenever anybody makes a file there.
    """
    if before == after:
        return True
    loader = repository.loader
    try:
        return all(find_node(loader, before, path) == find_node(loader, after, path) for path in paths)
    except ObjectNotFound:
        return False


@contextmanager
def _index_of_what_is_stored(repository: Repository, *, dry_run: bool) -> Iterator[None]:
    """Forget the index in memory when it names what was never stored: no later backup may rely on that (INV-1)."""
    try:
        yield
    except BaseException:
        repository.forget_index()
        raise
    if dry_run:
        repository.forget_index()


class _Session:
    """One pass over the source."""

    def __init__(
        self,
        repository: Repository,
        options: BackupOptions,
        parent: Snapshot | None,
        reporter: Reporter,
        cancelled: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._options = options
        self._parent = parent
        self._reporter = reporter
        self._cancelled = cancelled
        self._index = repository.index
        config = repository.config
        self._storing = SaverOptions(config.compression, config.pack_size, options.workers, options.verify)
        target = DiscardingBackend(repository.backend) if options.dry_run else None
        self.saver: Saver = repository.make_saver(self._storing, backend=target)

    def close(self) -> None:
        """End what works in the background. Idempotent."""
        self.saver.close()

    def archive(self, source: Source | StreamedSource | MemberSource) -> tuple[bytes, ArchiveStats]:
        """Store everything the source holds; the root tree. On an interruption what was stored is kept.

        The last packs may be in no index object yet: `finish` names them.
        """
        try:
            tree, stats = self._archive(source)
            self.saver.flush_packs()
            if self._cancelled():  # a stream may have ended early by the very signal that asks us to stop
                raise Interrupted("stopped before the snapshot was made")
        except Interrupted as error:
            self.saver.flush()
            raise Interrupted(f"{error}: no snapshot was made", hint=self._what_is_kept()) from error
        return tree, stats

    def finish(self, snapshot: Snapshot | None) -> bytes | None:
        """Write the rest of the index, and the snapshot, if there is to be one."""
        repository = self._repository
        if snapshot is None:
            snapshot_id, written = None, self.saver.name_packs()
        else:
            known = set(repository.index.objects)
            snapshot_id = publish(repository, snapshot, known, self._storing, name_packs=self.saver.name_packs)
            written = self.saver.index_objects
        if not self._options.dry_run and repository.index is self._index:  # else it was read anew, and has what counts
            self._index.note_written(written)  # for the next backup on this machine
        return snapshot_id

    def _what_is_kept(self) -> str | None:
        if self._options.dry_run:
            return None
        return f"{format_size(self.saver.stats.bytes_stored)} stored are kept and will be reused by the next backup"

    def _archive(self, source: Source | StreamedSource | MemberSource) -> tuple[bytes, ArchiveStats]:
        options, repository = self._options, self._repository
        parent = None
        if self._parent is not None:
            policy = ParentPolicy(
                started_ns=self._parent.summary.started_ns,
                ignore_ctime=options.ignore_ctime,
                ignore_inode=options.ignore_inode,
                fresh_atime=options.with_atime,
            )
            parent = ParentTree(repository.loader, self.saver, policy)
        files = FileSaver(self.saver, repository.config.make_chunker(), self._cancelled)
        if isinstance(source, MemberSource):
            members = MemberArchiver(
                self.saver, files, self._reporter, self._cancelled, image_chunk=repository.config.image_chunk
            )
            return members.save(source), members.stats
        archiver = Archiver(self.saver, files, parent, self._reporter, self._cancelled, readers=options.readers)
        tree = archiver.save(source, self._parent.tree if self._parent is not None else b"")
        return tree, archiver.stats


def _choose_parent(
    repository: Repository, options: BackupOptions, reporter: Reporter
) -> tuple[bytes | None, Snapshot | None]:
    """The snapshot to compare with: the one that was named, else the latest of the same host and paths."""
    snapshots = load_snapshots(repository, on_error=lambda name, error: reporter.warn(b"", str(error)))
    if options.parent is not None:
        identifier = find_snapshot(options.parent, snapshots)
        return identifier, snapshots[identifier]
    same = SnapshotFilter(hosts=(options.hostname,), paths=options.paths).apply(snapshots)
    exact = [identifier for identifier, each in same.items() if set(each.paths) == set(options.paths)]
    return (exact[-1], snapshots[exact[-1]]) if exact else (None, None)


def _describe(options: BackupOptions, now: datetime, parent_id: bytes | None, tree: bytes) -> Snapshot:
    return Snapshot(
        version=SNAPSHOT_VERSION,
        time=(options.time or now).isoformat(),
        tree=tree,
        paths=list(options.paths),
        hostname=options.hostname,
        username=options.username,
        excludes=list(options.excludes),
        tags=sorted(set(options.tags)),
        label=options.label,
        parent=parent_id or b"",
        program=options.program,
    )


def _summary(seen: ArchiveStats, stored: SaverStats) -> SnapshotSummary:
    return SnapshotSummary(
        files_new=seen.files_new,
        files_changed=seen.files_changed,
        files_unmodified=seen.files_unmodified,
        files=seen.files_new + seen.files_changed + seen.files_unmodified,
        dirs=seen.dirs,
        others=seen.others,
        size=seen.size,
        data_added=stored.bytes_new,
        data_stored=stored.bytes_stored,
        blobs_added=stored.blobs_new,
    )
