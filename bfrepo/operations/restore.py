"""Restoring: find the snapshot and the place in it, and write it to the target."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bfrepo.core.errors import BackupForgeError, Interrupted, UsageError
from bfrepo.core.progress import Change, Reporter
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter, find_node, find_snapshot, split_path
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.repository.salvage import refresh_for_reading
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


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What was restored: the snapshot, the raw path in it (empty for all of it), and what became of the items."""

    snapshot_id: bytes
    path: bytes
    summary: RestoreSummary
    duration_s: float


def restore(
    repository: Repository,
    what: str,
    chosen: SnapshotFilter,
    options: RestoreOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> RestoreResult:
    """Restore "SNAPSHOT[:PATH]": the contents of a directory, or a single other entry, directly into the target.

    `chosen` narrows down what "latest" means. Items that cannot be restored are reported. Raises ObjectNotFound,
    AmbiguousPrefix or InvalidValue when it is not clear what is meant, TargetError, Interrupted, and what reading
    raises.
    """
    begun = repository.clock.monotonic()
    name, path = split_path(what)
    if options.delete and options.selection is select_all and os.path.realpath(options.target) == b"/":
        raise UsageError(
            "--delete into / would remove whatever the snapshot does not have, /proc, /sys and other mounts included",
            hint="say what it may touch with --include or --exclude",
        )
    snapshots = load_snapshots(repository, on_error=lambda damaged, error: reporter.warn(b"", str(error)))
    snapshot_id = find_snapshot(name, snapshots, chosen)
    refresh_for_reading(repository, lambda message: reporter.warn(b"", message))
    node = find_node(repository.loader, snapshots[snapshot_id].tree, path)
    observer = _Observer(reporter)
    try:
        summary = _restore_node(repository, node, options, observer, cancelled)
    except Interrupted as error:
        raise Interrupted(
            str(error), hint="what is complete is in place: restore again, and only the rest is written"
        ) from error
    return RestoreResult(snapshot_id, path, summary, repository.clock.monotonic() - begun)


def _restore_node(
    repository: Repository,
    node: Node,
    options: RestoreOptions,
    observer: RestoreObserver,
    cancelled: Callable[[], bool],
) -> RestoreSummary:
    if node.type == "dir":
        return restore_tree(repository.loader, node.subtree, options, observer, cancelled=cancelled)
    return restore_node(repository.loader, node, options, observer, cancelled=cancelled)


class _Observer:
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
