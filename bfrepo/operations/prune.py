"""Freeing the space that no snapshot needs, while others back up and prune (INV-8).

    look      claims, then snapshots, then the index, then the packs there are; mark what they need; plan
    prove     of what several live packs have, read the copy that is to stay
    delete    what was condemned long enough ago, and what others doomed and left: doom, look again, delete
    revive    take back the condemnation of what is needed; copy out what is needed of doomed packs
    condemn   what is not needed: a prune after the grace time deletes it
    repack    copy what is needed out of wasteful packs, in steps, and condemn them (with no grace time: delete them)
    merge     join index objects, and leave out packs that are gone
    lock      where the storage locks objects for a time: begin that time again for what stays (operations/locking.py)

Each look lists claims before snapshots, because a backup writes its snapshot before it drops its claim, and the packs
after the index, so that nothing is relied on that somebody has deleted. The second look comes after the dooms are
written: a backup writes its claim and then looks for dooms, so one of the two sees the other (docs/format.md,
"Living together"). A pack is deleted only if by the second look nobody needs it, or if a live pack has what is needed;
otherwise its doom is taken back. A prune may die anywhere (INV-2): the next one looks at the flags it left.

What frees space comes before what takes some, so that a full disk gets room again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from bfrepo.core.concurrency import map_at_once, native_threads
from bfrepo.core.errors import (
    BackupForgeError,
    Interrupted,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageObjectArchived,
)
from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.core.units import GIB
from bfrepo.operations.locking import extend_locks
from bfrepo.operations.looking import Observer
from bfrepo.operations.warming import Warmer
from bfrepo.repository.flags import condemnations, revoke_flags, set_flags
from bfrepo.repository.merge import Merged, drop_condemnations, merge_index
from bfrepo.repository.prune import PruneLimits, PrunePlan, UnusedLimit, copies_to_prove, make_plan
from bfrepo.repository.repack import Repacked, Repacker, find_damaged
from bfrepo.repository.repository import Repository
from bfrepo.repository.weighing import PackUse, Weights, wanted_after_all, weigh
from bfrepo.storage.abilities import delete_limit, delete_many
from bfrepo.storage.base import ObjectKind

__all__ = [
    "CannotPrune", "PruneLimits", "PruneOptions", "PrunePlan", "PruneResult", "UnusedLimit", "plan_prune", "prune",
]  # fmt: skip

_STEP: Final = GIB
"""Most bytes that are copied before what they replace is condemned or deleted."""

_FLAGS_AT_ONCE: Final = 10_000
"""Packs that are doomed together, in an index object of about a megabyte, with one look for all."""


class CannotPrune(BackupForgeError):
    """Something is not as it has to be before anything may be deleted."""

    code = "cannot-prune"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions:
    """How to prune. `grace` is the time between condemning a pack and deleting it, `max_repack_size` is in bytes.

    `allow_remove_all` is needed where no snapshot is left, as then everything goes.
    """

    grace: timedelta = timedelta(hours=24)
    max_unused: UnusedLimit = field(default_factory=lambda: UnusedLimit(percent=5))
    max_repack_size: int | None = None
    allow_remove_all: bool = False
    workers: int = field(default_factory=native_threads)


@dataclass(slots=True, kw_only=True)
class PruneResult:
    """What a prune did. Sizes in bytes, `problems` are packs that stay because something of them could not be copied.

    `spared` packs were doomed, and needed after all when they were looked at again. `locked` objects are locked for the
    whole time again.
    """

    plan: PrunePlan
    deleted: int = 0
    deleted_size: int = 0
    condemned: int = 0
    condemned_size: int = 0
    revived: int = 0
    spared: int = 0
    locked: int = 0
    repacked: int = 0
    written: int = 0
    problems: list[str] = field(default_factory=list)
    merged: Merged = field(default_factory=Merged)
    duration_s: float = 0.0


def plan_prune(
    repository: Repository,
    options: PruneOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    *,
    forgotten: Collection[bytes] = (),
) -> PrunePlan:
    """What a prune would do now, or once the snapshots `forgotten` are removed. Nothing is changed.

    Raises CannotPrune, DamagedObject, UnsupportedFormat, StorageError and Interrupted.
    """
    return _Prune(repository, options, reporter, cancelled, acts=False, forgotten=forgotten).plan()


def prune(
    repository: Repository,
    options: PruneOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    *,
    on_plan: Callable[[PrunePlan], None] = lambda plan: None,
) -> PruneResult:
    """Free space; `on_plan` is told what is going to be done before anything is.

    Raises what `plan_prune` raises, and has changed nothing then, or has left a state that the next prune goes on from.
    """
    begun = repository.clock.monotonic()
    work = _Prune(repository, options, reporter, cancelled, acts=True)
    try:
        result = work.run(on_plan)
    finally:
        repository.forget_index()
    result.duration_s = repository.clock.monotonic() - begun
    return result


class _Prune:
    """One prune at work."""

    def __init__(
        self,
        repository: Repository,
        options: PruneOptions,
        reporter: Reporter,
        cancelled: Callable[[], bool],
        *,
        acts: bool,
        forgotten: Collection[bytes] = (),
    ) -> None:
        self._repository = repository
        self._options = options
        self._reporter = reporter
        self._cancelled = cancelled
        self._acts = acts
        self._damaged: dict[bytes, str] = {}
        self._warmer = Warmer(repository.backend, repository.clock, reporter, cancelled)
        self._has_archive: bool | None = None
        self._surveyed: set[bytes] = set()
        self._archived: set[bytes] = set()
        self._spared: set[bytes] = set()
        self._view = Observer(repository, reporter.progress, cancelled, removes_claims=acts, forgotten=forgotten)

    def plan(self) -> PrunePlan:
        """Look, and decide."""
        weights = self._look()
        if self._view.lost_packs(weights):  # by another prune, perhaps, between our looks at the index and at the packs
            weights = self._look()
        self._refuse(weights)
        plan = self._make_plan()
        while self._finds_archived(plan) or (self._acts and self._finds_damage(plan)):
            plan = self._make_plan()
        return plan

    def _make_plan(self) -> PrunePlan:
        limits = PruneLimits(
            grace=self._options.grace,
            max_unused=self._options.max_unused,
            max_repacked=self._options.max_repack_size,
            pack_size=self._repository.config.pack_size,
            now=self._repository.clock.now(),
            archived=self._archived,
            spared=self._spared,
        )
        return make_plan(self._weights, self._view.index.active_flags(), limits)

    def run(self, on_plan: Callable[[PrunePlan], None]) -> PruneResult:
        """All of it."""
        self._find_out_whether_deleting_is_allowed()
        plan = self.plan()
        on_plan(plan)
        self._result = PruneResult(plan=plan)
        self._reporter.progress.bytes_total = plan.moved
        self._delete(plan.delete)
        self._revive(plan.revive)
        self._rescue(plan.rescue)
        self._condemn(plan.condemn)
        set_flags(self._repository, "doomed", plan.bury)
        self._repack(list(plan.repack))
        self._merge()
        self._lock(plan)
        return self._result

    def _look(self) -> Weights:
        """Look, and find out how much of each pack is needed."""
        self._view.look()
        return self._weigh()

    def _weigh(self) -> Weights:
        self._weights = weigh(self._view.index.table, self._view.marks, self._view.stored, self._damaged)
        return self._weights

    def _finds_archived(self, plan: PrunePlan) -> bool:
        """Find out which of the packs that the plan wants to read are archived; whether that changes the plan.

        They are not waited for: what is to be copied out of them stays, and so do copies of what is in them, because
        those in the archive cannot be proved.
        """
        if self._has_archive is None:
            self._has_archive = self._warmer.expects_archived()
        if not self._has_archive:
            return False
        table, known = self._view.index.table, (len(self._archived), len(self._spared))
        wanted = copies_to_prove(plan, self._weights, table, self._view.marks)
        read = {pack.id for pack in (*plan.repack, *plan.rescue)} | {table.pack_of(frame) for frame in wanted}
        sizes = {pack.id: pack.size for pack in self._weights.packs if pack.id in read - self._surveyed}
        found = self._warmer.survey(sizes)
        self._surveyed.update(sizes)
        self._archived.update(found.cold, found.warming)
        for frame, blob_ids in wanted.items():
            if table.pack_of(frame) in self._archived:
                copies = (copy.frame for blob_id in blob_ids for copy in table.copies(blob_id))
                self._spared.update(table.pack_of(copy) for copy in copies if copy != frame)
        return known != (len(self._archived), len(self._spared))

    def _finds_damage(self, plan: PrunePlan) -> bool:
        """Before one of two live copies is given up, read the one that is to stay; whether that changes the plan."""
        view = self._view
        wanted = copies_to_prove(plan, self._weights, view.index.table, view.marks)
        try:
            found = find_damaged(
                view.loader, self._repository.blob_hash, wanted, self._cancelled, workers=self._options.workers
            )
        except StorageObjectArchived:
            if self._has_archive:
                raise
            self._has_archive = True  # so few packs are archived that a look at a thousand has not shown them
            return True
        for pack, why in found.items():
            self._reporter.problem(b"", f"pack {short_id(pack)} is damaged, and another copy is used: {why}")
        self._damaged.update(found)
        if found:
            self._weigh()
        return bool(found)

    def _refuse(self, weights: Weights) -> None:
        """Raise CannotPrune when it looks as if something was hidden from us."""
        view, location = self._view, self._repository.location
        if not (view.snapshots or self._options.allow_remove_all) and (weights.packs or weights.unnamed):
            raise CannotPrune(
                f"{location} shows no snapshot, but {len(weights.packs) + len(weights.unnamed)} packs: "
                "a prune would delete them all",
                hint="if all snapshots were removed on purpose, run it again with --unsafe-allow-remove-all",
            )
        hidden = view.hidden_snapshot()
        if hidden is not None and hidden not in {
            info.name for info in self._repository.backend.list(ObjectKind.SNAPSHOT)
        }:
            raise CannotPrune(
                f"{location} does not list snapshot {hidden[:8]}, which is there: what it lists cannot be relied on",
                hint="try again in a while, or find out what is wrong with the storage",
            )
        lost = view.lost_packs(weights)
        if lost:
            raise CannotPrune(
                f"{len(lost)} packs that snapshots need are missing in {location}, pack {short_id(lost[0])} for one",
                hint=_LOST_HINT,
            )

    def _find_out_whether_deleting_is_allowed(self) -> None:
        """Ask for the deletion of a pack that is not there: stores that forbid deleting say so then."""
        try:
            self._repository.backend.delete(ObjectKind.PACK, os.urandom(32).hex())
        except StorageDenied as error:
            raise StorageDenied(f"{error}: nothing was changed", hint=_DENIED_HINT) from error

    # --- deleting

    def _delete(self, packs: Mapping[bytes, int]) -> None:
        """Doom, look again, delete: the largest first, and one alone where there is no room for more flags."""
        todo = sorted(packs, key=lambda pack: (-packs[pack], pack))
        at_once = _FLAGS_AT_ONCE
        while todo:
            self._check()
            batch = todo[:at_once]
            try:
                dooms = set_flags(self._repository, "doomed", batch)
            except StorageFull as error:
                if len(batch) == 1 and not drop_condemnations(self._repository, self._view.index):
                    raise StorageFull(f"{error}: there is no room for a single flag", hint=_FULL_HINT) from error
                at_once = 1
                continue
            self._delete_doomed(dooms, packs)
            todo = todo[len(batch) :]
            at_once = _FLAGS_AT_ONCE

    def _delete_doomed(self, dooms: Mapping[bytes, bytes], sizes: Mapping[bytes, int]) -> None:
        """Look again, spare what is needed after all, and delete the rest. `dooms` are our flags, by pack."""
        try:
            weights = self._look()
            wanted = wanted_after_all(weights, self._view.index.table, self._view.marks) & dooms.keys()
            self._check()
        except BaseException:
            with suppress(StorageError):
                revoke_flags(self._repository, list(dooms.values()))
            raise
        if wanted:
            self._spare(wanted, dooms)
        self._delete_packs([pack for pack in dooms if pack not in wanted], dooms, sizes)

    def _spare(self, wanted: Collection[bytes], dooms: Mapping[bytes, bytes]) -> None:
        """Take our dooms back, and the condemnations that were seen."""
        revoke_flags(
            self._repository,
            [*(dooms[pack] for pack in sorted(wanted)), *condemnations(self._view.index, sorted(wanted))],
        )
        self._result.spared += len(wanted)

    def _delete_packs(self, packs: Sequence[bytes], dooms: Mapping[bytes, bytes], sizes: Mapping[bytes, int]) -> None:
        """Delete. The doom of a pack whose deletion failed stays: it may go yet, so nobody may rely on it."""
        backend, tried = self._repository.backend, set[bytes]()

        def delete(batch: Sequence[bytes]) -> Sequence[bytes]:
            if self._cancelled():
                return ()
            tried.update(batch)
            delete_many(backend, ObjectKind.PACK, [pack.hex() for pack in batch])
            return batch

        limit = delete_limit(backend)
        batches = [packs[start : start + limit] for start in range(0, len(packs), limit)]
        try:
            for batch in map_at_once(delete, batches, threads=backend.connections, name="delete"):
                self._result.deleted += len(batch)
                self._result.deleted_size += sum(sizes[pack] for pack in batch)
            self._check()
        except BaseException as error:
            with suppress(StorageError):
                revoke_flags(self._repository, [dooms[pack] for pack in packs if pack not in tried])
            if isinstance(error, StorageDenied):
                raise StorageDenied(str(error), hint=_DENIED_HINT) from error
            raise

    # --- keeping

    def _revive(self, packs: Sequence[bytes]) -> None:
        if packs:
            revoke_flags(self._repository, condemnations(self._view.index, packs))
            self._result.revived = len(packs)

    def _rescue(self, packs: Sequence[PackUse]) -> None:
        """Copy what is needed out of packs that somebody doomed and left, then delete them."""
        if not packs:
            return
        copied = set(self._copy(packs).copied)
        self._delete({pack.id: pack.size for pack in packs if pack.id in copied})

    def _condemn(self, packs: Mapping[bytes, int]) -> None:
        self._check()
        try:
            set_flags(self._repository, "condemned", packs)
        except StorageFull as error:
            raise StorageFull(str(error), hint=_GRACE_HINT) from error
        self._result.condemned += len(packs)
        self._result.condemned_size += sum(packs.values())

    def _repack(self, todo: list[PackUse]) -> None:
        """Copy in steps: what a step replaces is gone, or on its way out, before the next begins.

        Where a step finds no room, smaller ones are tried, each of which makes room for the next.
        """
        limit = _STEP
        while todo:
            self._check()
            step = _take_step(todo, limit)
            done = self._copy(step)
            if done.full is not None:
                if len(step) == 1:
                    self._reporter.warn(b"", f"no room to repack pack {short_id(step[0].id)}: {done.full}")
                    return
                todo, limit = step + todo, sum(pack.used for pack in step) // 2
            sizes = {pack.id: pack.size for pack in step if pack.id in set(done.copied)}
            self._result.repacked += len(sizes)
            if self._options.grace:
                self._condemn(sizes)
            else:
                self._delete(sizes)

    def _copy(self, packs: Sequence[PackUse]) -> Repacked:
        """Copy what is needed of packs. If there is no room, what was written until then is deleted."""
        repacker = Repacker(
            self._repository,
            self._view.loader,
            self._view.marks,
            self._weights.frame_used,
            self._reporter.progress,
            self._cancelled,
            workers=self._options.workers,
        )
        now = {pack.id: pack for pack in self._weights.packs}  # others may have changed the index since it was planned
        done = repacker.copy([now[pack.id] for pack in packs if pack.id in now and now[pack.id].state is pack.state])
        self._result.written += done.bytes_written
        for pack, error in done.problems:
            self._result.problems.append(str(error))
            self._reporter.problem(b"", f"pack {short_id(pack)} stays: {error}")
        if done.full is not None:
            weights = self._look()
            self._delete({pack: size for pack, size in weights.unnamed.items() if pack in done.packs})
        return done

    def _merge(self) -> None:
        try:
            self._view.read_index()
            self._result.merged = merge_index(self._repository, self._view.index)
        except StorageFull as error:
            self._reporter.warn(b"", f"there is no room to join index objects: {error}")

    def _lock(self, plan: PrunePlan) -> None:
        """Lock what stays anew, where the storage does such things."""
        going = {*plan.delete, *plan.condemn, *plan.waiting, *(pack.id for pack in (*plan.repack, *plan.rescue))}
        kept = (pack.id for pack in self._weights.packs if pack.used and pack.id not in going)
        self._result.locked = extend_locks(self._repository, kept, self._cancelled)
        self._check()

    def _check(self) -> None:
        if self._cancelled():
            raise Interrupted("stopped while pruning", hint="what was done stays done; the next prune goes on")


_DENIED_HINT: Final = "run prune where deleting is allowed: this store, or its permissions, only let data be added"
_LOST_HINT: Final = (
    "'backupforge check' shows what is lost; back up the same files again, which stores it again, or let go of it with "
    "'backupforge repair snapshots --forget'"
)
_GRACE_HINT: Final = "with --grace 0 packs are deleted one by one, which needs next to no room"
_FULL_HINT: Final = "remove a snapshot with 'backupforge forget', which needs no room, or free a few KiB on the volume"


def _take_step(todo: list[PackUse], limit: int) -> list[PackUse]:
    """The packs off the front that are copied together: one at least."""
    step: list[PackUse] = []
    while todo and (not step or sum(pack.used for pack in step) + todo[0].used <= limit):
        step.append(todo.pop(0))
    return step
