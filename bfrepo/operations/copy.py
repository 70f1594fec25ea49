"""Copying snapshots to another repository.

A copy is a snapshot of its own: the same description and files, in packs, frames and under IDs of the target. What the
target has is not stored again, and what was copied before is not even read again (copy_trees.py, copy_blobs.py).
Oldest first, each snapshot is published as soon as it is whole and what it needs is durable; an interrupted copy keeps
what was stored, and the next goes on from there.

A snapshot counts as copied when the target has one that goes back to the same snapshot and has the same tree
(`original` and `twin` of Snapshot). Tags and labels do not count: they may be changed on either side. What was
rewritten or repaired has another tree, so it is copied even if its original was, and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from bfrepo.core.errors import BackupForgeError, ObjectNotFound, StorageObjectArchived, UsageError
from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.copy_blobs import BlobCopier, CopySource
from bfrepo.operations.copy_packs import packs_to_copy
from bfrepo.operations.copy_trees import Pair, TreeCopier
from bfrepo.operations.publish import ContentLost
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.transfer import Transfer, run_transfer
from bfrepo.operations.warming import ArchivedPacks, Warmer, WarmUp, reading_directories
from bfrepo.repository.packing import SaverStats
from bfrepo.repository.repository import Repository
from bfrepo.repository.salvage import refresh_for_reading
from bfrepo.storage.base import ObjectKind

_MOST_PASSES: Final = 3
_USUAL: Final = WarmUp()


@dataclass(frozen=True, slots=True)
class Copied:
    """A snapshot of the source and its copy in the target."""

    old: Snapshot
    new_id: bytes
    new: Snapshot


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What is to be copied, oldest first, and what the target has of the source, by the ID in the source.

    `present` is the part of it that was asked for.
    """

    missing: dict[bytes, Snapshot]
    present: dict[bytes, Copied]
    copies: dict[bytes, Copied]


@dataclass(slots=True)
class CopyResult:
    """What was copied, and what the target had: the ID there by that in the source. `read` is bytes of plaintext.

    `failed` snapshots could not be read as a whole. Without `same_chunker` a file that is backed up to the target is
    cut at other places than its copy there, so the two share little.
    """

    present: dict[bytes, bytes]
    same_chunker: bool
    copied: dict[bytes, bytes] = field(default_factory=dict)
    failed: list[bytes] = field(default_factory=list)
    stored: SaverStats = field(default_factory=SaverStats)
    read: int = 0
    duration_s: float = 0.0


def plan_copy(source: Repository, target: Repository, ids: Collection[bytes], reporter: Reporter) -> CopyPlan:
    """Compare the snapshots of both. Raises UsageError when they are one repository, ObjectNotFound."""
    if source.id == target.id:
        raise UsageError(
            f"{source.location} and {target.location} are the same repository",
            hint="copy to another one, which 'backupforge init --copy-chunker-from' makes",
        )
    mine = load_snapshots(source, on_error=lambda name, error: reporter.problem(b"", str(error)))
    theirs = load_snapshots(target, on_error=lambda name, error: reporter.warn(b"", str(error)))
    unknown = set(ids) - mine.keys()
    if unknown:
        raise ObjectNotFound(f"there is no snapshot {short_id(min(unknown))} in {source.location}")
    return _compare(mine, theirs, ids)


def survey_copy(
    source: Repository, plan: CopyPlan, reporter: Reporter, cancelled: Callable[[], bool]
) -> ArchivedPacks | None:
    """What a copy would have to wait for; None where nothing is archived. Raises what reading directories raises."""
    warmer = Warmer(source.backend, source.clock, reporter, cancelled)
    if not (plan.missing and warmer.expects_archived()):
        return None
    refresh_for_reading(source, lambda message: reporter.warn(b"", message))
    return warmer.survey(_packs_to_copy(source, plan, cancelled))


def copy_snapshots(
    source: Repository,
    target: Repository,
    ids: Collection[bytes],
    reporter: Reporter,
    cancelled: Callable[[], bool],
    on_copied: Callable[[bytes, bytes], None] = lambda old, new: None,
    warm_up: WarmUp = _USUAL,
) -> CopyResult:
    """Copy snapshots that the target has not. `on_copied` is told both IDs of each when it is there.

    A snapshot of which something cannot be read is reported and not copied, the others are. What is archived is waited
    for first, as `warm_up` says. Raises UsageError when both are one repository, ObjectNotFound, StillArchived, and
    Interrupted when `cancelled` says so; what was stored until then is kept.
    """
    begun, read_before = source.clock.monotonic(), reporter.progress.bytes_done
    plan = plan_copy(source, target, ids, reporter)
    result = CopyResult(
        present={identifier: copy.new_id for identifier, copy in plan.present.items()},
        same_chunker=(source.config.chunker, source.config.seed) == (target.config.chunker, target.config.seed),
    )
    reporter.progress.files_total = len(plan.missing)
    if plan.missing:
        _Run(source, target, result, reporter, cancelled, on_copied, warm_up).copy(plan)
    result.read = reporter.progress.bytes_done - read_before
    result.duration_s = source.clock.monotonic() - begun
    return result


def _compare(mine: Mapping[bytes, Snapshot], theirs: Mapping[bytes, Snapshot], ids: Collection[bytes]) -> CopyPlan:
    known = {_identity(identifier, snapshot): identifier for identifier, snapshot in theirs.items()}
    plan = CopyPlan({}, {}, {})
    for identifier, snapshot in mine.items():
        new_id = known.get(_identity(identifier, snapshot))
        if new_id is not None:
            plan.copies[identifier] = Copied(snapshot, new_id, theirs[new_id])
            if identifier in ids:
                plan.present[identifier] = plan.copies[identifier]
        elif identifier in ids:
            plan.missing[identifier] = snapshot
    return plan


def _identity(identifier: bytes, snapshot: Snapshot) -> tuple[bytes, bytes]:
    """What a snapshot and its copies have in common, and nothing else has: another tree makes another snapshot."""
    return snapshot.original or identifier, snapshot.original_tree


class _Run:
    """One run, in as many passes as it takes."""

    def __init__(
        self,
        source: Repository,
        target: Repository,
        result: CopyResult,
        reporter: Reporter,
        cancelled: Callable[[], bool],
        on_copied: Callable[[bytes, bytes], None],
        warm_up: WarmUp,
    ) -> None:
        self.source = CopySource(source, reporter)
        self._warmer = Warmer(source.backend, source.clock, reporter, cancelled)
        self._warm_up = warm_up
        self.target = target
        self.result = result
        self.reporter = reporter
        self.cancelled = cancelled
        self.on_copied = on_copied

    def copy(self, plan: CopyPlan) -> None:
        """Copy what is missing.

        Another pass is needed where a prune of the target was at work: it has deleted what this copy relied on, or was
        about to, and what is known of the target no longer holds.
        """
        lost = archived = 0
        if self._warmer.expects_archived():
            self._warm(plan)
        while plan.missing:
            try:
                make = partial(_Session, self, plan, trusts_copies=not lost)
                run_transfer(make, plan.missing, self.target, self.result.stored)
            except ContentLost:
                lost += 1
                if lost == _MOST_PASSES:
                    raise
            except StorageObjectArchived:
                archived += 1
                if archived == _MOST_PASSES:
                    raise
                self._warm(plan)
            left = plan.missing.keys() - self.result.copied.keys() - set(self.result.failed)
            mine, theirs = (load_snapshots(each, _pass_over) for each in (self.source.repository, self.target))
            plan = _compare(mine, theirs, left)

    def _warm(self, plan: CopyPlan) -> None:
        self._warmer.warm(_packs_to_copy(self.source.repository, plan, self.cancelled), self._warm_up)


class _Session(Transfer):
    """Copying by one view of the target's index."""

    verb = ("copy", "copied")

    def __init__(self, run: _Run, plan: CopyPlan, *, trusts_copies: bool) -> None:
        super().__init__(run.target, run.reporter)
        self._run = run
        self._plan = plan
        target, source = run.target, run.source
        self._copies = _that_are_still_there(plan.copies, target)
        self._blobs = BlobCopier(source, target, self.saver, run.reporter, run.cancelled)
        trusts_pairs = trusts_copies and self.index_is_whole
        self._trees = TreeCopier(
            source, target, self.saver, self._blobs, run.reporter, run.cancelled, trusts_pairs=trusts_pairs
        )

    def store(self, identifier: bytes, snapshot: Snapshot) -> Snapshot | None:
        """Copy what a snapshot needs."""
        tree = self._trees.copy(snapshot.tree, None if self._blobs.same_ids else self._nearest(snapshot))
        if tree is None:
            return None
        twin = tree + snapshot.original_tree if tree != snapshot.original_tree else b""
        copy = msgspec.structs.replace(snapshot, tree=tree, original=snapshot.original or identifier, twin=twin)
        self._copies[identifier] = Copied(snapshot, b"", copy)
        return copy

    def _nearest(self, snapshot: Snapshot) -> Pair | None:
        """The snapshot copied earlier that has most in common with this one, we hope, and its copy."""
        near = self._copies.get(snapshot.parent)
        if near is None:
            paths, when = set(snapshot.paths), snapshot.when
            same = [
                each
                for each in self._copies.values()
                if each.old.hostname == snapshot.hostname and set(each.old.paths) == paths
            ]
            near = min(same, key=lambda each: abs(each.old.when - when), default=None)
        return Pair(near.old.tree, near.new.tree) if near is not None else None

    def failed(self, identifier: bytes) -> None:
        """See `Transfer.failed`."""
        self._run.result.failed.append(identifier)

    def parent(self, snapshot: Snapshot) -> bytes:
        """See `Transfer.parent`."""
        copy = self._copies.get(snapshot.parent)
        return copy.new_id if copy is not None else b""

    @property
    def reused(self) -> bool:
        """See `Transfer.reused`."""
        return self._trees.reused

    def published(self, identifier: bytes, new_id: bytes, snapshot: Snapshot) -> None:
        """See `Transfer.published`."""
        self._copies[identifier] = Copied(self._plan.missing[identifier], new_id, snapshot)
        self._run.result.copied[identifier] = new_id
        self._run.on_copied(identifier, new_id)


def _packs_to_copy(source: Repository, plan: CopyPlan, cancelled: Callable[[], bool]) -> dict[bytes, int]:
    """The packs of file data that are needed for what is missing in the target."""
    missing = [snapshot.tree for snapshot in plan.missing.values()]
    copied = [copy.old.tree for copy in plan.copies.values()]
    return reading_directories(lambda: packs_to_copy(source, missing, copied, cancelled))


def _pass_over(name: str, error: BackupForgeError) -> None:
    """What cannot be read was reported when the copy began."""


def _that_are_still_there(copies: Mapping[bytes, Copied], target: Repository) -> dict[bytes, Copied]:
    """Copies that were there before the index was read and are there now: all they need was in the index meanwhile."""
    present = {bytes.fromhex(info.name) for info in target.backend.list(ObjectKind.SNAPSHOT)}
    return {identifier: copy for identifier, copy in copies.items() if copy.new_id in present}
