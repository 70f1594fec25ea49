"""The tools that change something: back up, restore, forget and prune. Everything blocks.

What destroys something is asked for by IDs that were resolved before somebody confirmed them. Raises what the
operations raise, and NotAllowed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from api.tools.config import ToolsConfig, below_one_of
from api.tools.describing import backup_view
from api.tools.reporting import Notes
from api.tools.repository import ServedRepository
from api.tools.results import BackupView, ForgetView, PrunePlanView, PruneView, RestoreView
from bfrepo.core.ids import short_id
from bfrepo.data.selection import SnapshotFilter
from bfrepo.data.snapshot import Snapshot
from bfrepo.localfs.metadata import Owners
from bfrepo.operations.backup import BackupOptions, backup
from bfrepo.operations.forget import find_named_snapshots, remove_snapshots
from bfrepo.operations.prune import PruneOptions, plan_prune, prune
from bfrepo.operations.restore import restore
from bfrepo.restorer.plan import Overwrite, RestoreOptions
from bfrepo.restorer.report import Counts
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.filesystem import FileSystemSource

Cancelled = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class RestorePlace:
    """What is to be restored where: a snapshot, a raw path in it, and a directory without symlinks on the way to it."""

    snapshot_id: bytes
    snapshot: Snapshot
    path: bytes
    target: bytes


class Changing:
    """Changes one repository, and what lies in the directories that were allowed. For one thread at a time."""

    def __init__(self, served: ServedRepository, config: ToolsConfig) -> None:
        self._served = served
        self._config = config

    @property
    def location(self) -> str:
        """Where the repository is."""
        return self._served.repository.location

    def backup(
        self,
        paths: Sequence[bytes],
        excludes: Sequence[str],
        tags: Sequence[str],
        label: str,
        dry_run: bool,
        notes: Notes,
        cancelled: Cancelled,
    ) -> BackupView:
        """Make a snapshot of allowed paths."""
        config = self._config
        wanted = [below_one_of(path, config.backup_roots) for path in paths]
        rules = ExcludeRules.from_options(environment={}, exclude=excludes)
        owners = Owners()

        def open_source() -> FileSystemSource:
            return FileSystemSource(
                wanted,
                rules=rules,
                one_file_system=False,
                with_atime=False,
                owners=owners,
                on_error=lambda path, error: notes.problem(path, error.strerror or str(error)),
            )

        options = BackupOptions(
            paths=open_source().paths,
            hostname=config.hostname,
            username=config.username,
            program=config.program,
            excludes=tuple(excludes),
            tags=tuple(tags),
            label=label,
            dry_run=dry_run,
        )
        result = backup(self._served.repository, open_source, options, notes, cancelled)
        return backup_view(result, notes.problems)

    def restore_place(self, snapshot: str, path: bytes, target: bytes) -> RestorePlace:
        """What a restore is about, if it is allowed."""
        real = below_one_of(target, self._config.restore_roots)
        identifier, found = self._served.find(snapshot)
        self._served.node_at(found.tree, path)
        return RestorePlace(identifier, found, path.strip(b"/"), real)

    def restore(
        self, place: RestorePlace, overwrite: Overwrite, dry_run: bool, notes: Notes, cancelled: Cancelled
    ) -> RestoreView:
        """Write a part of a snapshot into an allowed directory. Nothing that is only there is removed."""
        what = f"{place.snapshot_id.hex()}:{os.fsdecode(place.path)}"
        target = below_one_of(place.target, self._config.restore_roots)
        options = RestoreOptions(target=target, overwrite=overwrite, dry_run=dry_run)
        result = restore(self._served.repository, what, SnapshotFilter(), options, notes, cancelled)
        summary = result.summary
        counts = (summary.files, summary.directories, summary.others)
        return RestoreView(
            snapshot_id=place.snapshot_id.hex(),
            target=target.decode(errors="replace"),
            dry_run=dry_run,
            created=_sum(counts, lambda each: each.created),
            updated=_sum(counts, lambda each: each.updated),
            unchanged=_sum(counts, lambda each: each.unchanged),
            skipped=_sum(counts, lambda each: each.skipped),
            bytes_written=summary.bytes_written,
            errors=summary.errors,
            problems=notes.problems,
        )

    def find_to_forget(self, names: Sequence[str]) -> tuple[dict[bytes, Snapshot], int]:
        """The snapshots with these names, and how many others there are."""
        found = find_named_snapshots(self._served.repository, names, SnapshotFilter())
        return found, len(self._served.snapshots().keys() - found.keys())

    def forget(self, identifiers: Sequence[bytes], notes: Notes, cancelled: Cancelled) -> ForgetView:
        """Remove snapshots. What only they needed is freed by a prune."""
        remove_snapshots(self._served.repository, identifiers, notes, cancelled)
        return ForgetView(removed=[each.hex() for each in identifiers])

    def plan_prune(self, notes: Notes, cancelled: Cancelled) -> PrunePlanView:
        """What a prune would do."""
        plan = plan_prune(self._served.repository, PruneOptions(), notes, cancelled)
        return PrunePlanView(
            total_size=plan.total_size,
            used=plan.used,
            unused=plan.unused,
            packs=plan.packs,
            delete_now=plan.delete_size,
            delete_later=plan.condemn_size,
            waiting=plan.waiting_size,
            repack=plan.repack_size,
            copied=plan.moved,
        )

    def prune(self, notes: Notes, cancelled: Cancelled) -> PruneView:
        """Free what no snapshot needs, with the usual time of grace."""
        result = prune(self._served.repository, PruneOptions(), notes, cancelled)
        return PruneView(
            deleted=result.deleted,
            deleted_size=result.deleted_size,
            condemned=result.condemned,
            condemned_size=result.condemned_size,
            repacked=result.repacked,
            written=result.written,
            duration_s=round(result.duration_s, 3),
            problems=notes.problems,
        )


def named(identifier: bytes, snapshot: Snapshot) -> str:
    """A snapshot in a question to a person: its ID and time, nothing that somebody else could have written."""
    return f"{short_id(identifier)} of {snapshot.when.isoformat(sep=' ', timespec='seconds')}"


def _sum(counts: Sequence[Counts], of: Callable[[Counts], int]) -> int:
    return sum(map(of, counts))
