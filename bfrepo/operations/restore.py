"""Restoring: find the snapshot and the place in it, and write it to the target."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Final

from bfrepo.core.errors import BackupForgeError, Interrupted, UsageError
from bfrepo.core.progress import Change, Reporter
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter, find_node, split_path
from bfrepo.operations.directories_ahead import directories_ahead
from bfrepo.operations.snapshots import open_snapshot
from bfrepo.operations.warming import ArchivedPacks, NeededPacks, Warmer, WarmUp, reading_directories
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions, select_all
from bfrepo.restorer.report import Outcome, RestoreObserver, RestoreSummary
from bfrepo.restorer.restorer import restore as restore_tree
from bfrepo.restorer.restorer import restore_node

_CHANGES: Final[dict[Outcome, Change]] = {
    "created": "restored",
    "updated": "updated",
    "unchanged": "unchanged",
    "skipped": "unchanged",
}
_USUAL: Final = WarmUp()


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What was restored: the snapshot, the raw path in it (empty for all of it), and what became of the items."""

    snapshot_id: bytes
    path: bytes
    summary: RestoreSummary
    duration_s: float
    archived: ArchivedPacks | None = None
    """What a dry run would have to wait for; None where nothing is archived, and after a restore."""


def restore(
    repository: Repository,
    what: str,
    chosen: SnapshotFilter,
    options: RestoreOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    warm_up: WarmUp = _USUAL,
) -> RestoreResult:
    """Restore "SNAPSHOT[:PATH]": the contents of a directory, or a single other entry, directly into the target.

    `chosen` narrows down what "latest" means. Items that cannot be restored are reported. Packs that are archived are
    waited for first, as `warm_up` says. Raises ObjectNotFound, AmbiguousPrefix or InvalidValue when it is not clear
    what is meant, TargetError, StillArchived, Interrupted, and what reading raises.
    """
    begun = repository.clock.monotonic()
    name, path = split_path(what)
    if options.delete and options.selection is select_all and os.path.realpath(options.target) == b"/":
        raise UsageError(
            "--delete into / would remove whatever the snapshot does not have, /proc, /sys and other mounts included",
            hint="say what it may touch with --include or --exclude",
        )
    snapshot_id, snapshot = open_snapshot(repository, name, chosen, reporter)
    node = reading_directories(lambda: find_node(repository.loader, snapshot.tree, path))
    work = _Restoring(repository, node, options, reporter, cancelled)
    try:
        with directories_ahead(repository, node.subtree, cancelled) if node.type == "dir" else nullcontext():
            summary, archived = work.preview() if options.dry_run else (work.run(warm_up), None)
    except Interrupted as error:
        raise Interrupted(
            str(error), hint=error.hint or "what is complete is in place: restore again, and only the rest is written"
        ) from error
    return RestoreResult(snapshot_id, path, summary, repository.clock.monotonic() - begun, archived)


class _Restoring:
    """One restore of one entry, or of all that is in a directory."""

    def __init__(
        self,
        repository: Repository,
        node: Node,
        options: RestoreOptions,
        reporter: Reporter,
        cancelled: Callable[[], bool],
    ) -> None:
        self._loader = repository.loader
        self._node = node
        self._options = options
        self._reporter = reporter
        self._cancelled = cancelled
        self._warmer = Warmer(repository.backend, repository.clock, reporter, cancelled)

    def run(self, warm_up: WarmUp) -> RestoreSummary:
        """Restore, when what is archived is at hand."""
        return self._warmer.run(
            self._needed, lambda: self._restore(self._options, ReportingObserver(self._reporter)), warm_up
        )

    def preview(self) -> tuple[RestoreSummary, ArchivedPacks | None]:
        """What would be done, and what would have to be waited for."""
        needed = NeededPacks(self._loader.table)
        summary = reading_directories(
            lambda: self._restore(self._options, ReportingObserver(self._reporter), on_frames=needed.add)
        )
        return summary, self._warmer.survey(needed.sizes) if self._warmer.expects_archived() else None

    def _needed(self) -> dict[bytes, int]:
        """The packs that this restore would read if it began now."""
        needed = NeededPacks(self._loader.table)
        self._restore(replace(self._options, dry_run=True), _Nobody(), on_frames=needed.add)
        return needed.sizes

    def _restore(
        self,
        options: RestoreOptions,
        observer: RestoreObserver,
        on_frames: Callable[[Iterable[int]], None] = lambda frames: None,
    ) -> RestoreSummary:
        loader, node, cancelled = self._loader, self._node, self._cancelled
        if node.type == "dir":
            return restore_tree(loader, node.subtree, options, observer, cancelled=cancelled, on_frames=on_frames)
        return restore_node(loader, node, options, observer, cancelled=cancelled, on_frames=on_frames)


class ReportingObserver:
    """Passes on what the restorer tells, which is one call at a time."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def on_total(self, files: int, size: int) -> None:
        """See RestoreObserver."""
        self._reporter.progress.bytes_total = size

    def on_bytes(self, count: int) -> None:
        """See RestoreObserver."""
        self._reporter.progress.bytes_done += count

    def on_item(self, path: bytes, outcome: Outcome, size: int) -> None:
        """See RestoreObserver."""
        progress = self._reporter.progress
        progress.files_done += 1
        progress.current = path
        if self._reporter.wants_items:
            self._reporter.item(path, _CHANGES[outcome], size)

    def on_removed(self, path: bytes) -> None:
        """See RestoreObserver."""
        if self._reporter.wants_items:
            self._reporter.item(path, "removed", 0)

    def on_error(self, path: bytes, error: BackupForgeError) -> None:
        """See RestoreObserver."""
        self._reporter.problem(path, str(error))


class _Nobody:
    """Hears of what a restore is about to do, and tells nobody. See RestoreObserver."""

    def on_total(self, files: int, size: int) -> None:
        """Says nothing."""

    def on_bytes(self, count: int) -> None:
        """Says nothing."""

    def on_item(self, path: bytes, outcome: Outcome, size: int) -> None:
        """Says nothing."""

    def on_removed(self, path: bytes) -> None:
        """Says nothing."""

    def on_error(self, path: bytes, error: BackupForgeError) -> None:
        """Says nothing; the restore itself meets it again."""
