"""A routine: back up, forget, prune and check in one go, with hooks around it. What timers run.

    before hooks -> backup -> forget -> prune -> check -> after hooks
    after a failure or an interruption, wherever it was: failure hooks

A step that fails ends the routine. After a backup that had to leave items out, forget and prune are skipped: what it
lacks may be in older snapshots only. Forgetting looks only at the snapshots that this routine makes, unless told
otherwise, so that two routines in one repository never apply their rules to each other's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal, Protocol, TypeAlias

from bfrepo.core.clock import Clock
from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted
from bfrepo.core.progress import Reporter
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.backup import BackupOptions, BackupResult, SeveralBackups, backup
from bfrepo.operations.check import CheckOptions, CheckResult, check
from bfrepo.operations.forget import ForgetOptions, ForgetPlan, load_all_snapshots, plan_forget, remove_snapshots
from bfrepo.operations.hooks import HookKind, Hooks
from bfrepo.operations.prune import PruneOptions, PruneResult, plan_prune, prune
from bfrepo.repository.prune import PrunePlan
from bfrepo.repository.repository import Repository
from bfrepo.sources.base import Source, StreamedSource

StepName: TypeAlias = Literal["before", "backup", "forget", "prune", "check", "after", "failure"]
Status: TypeAlias = Literal["done", "incomplete", "failed", "interrupted", "skipped"]
Outcome: TypeAlias = BackupResult | SeveralBackups | ForgetPlan | PrunePlan | PruneResult | CheckResult | None
"""What a step's operation has returned."""

Watch: TypeAlias = tuple[Reporter, Callable[[], bool]]
"""Where a step reports to, and whether it shall end."""

NOT_MADE: Final = bytes(32)
"""Stands in a dry run for the ID of the snapshot that would have been made."""

_WORST_LAST: Final[tuple[Status, ...]] = ("skipped", "done", "incomplete", "failed", "interrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupStep:
    """What to back up; `open_source` is told where to report what cannot be read."""

    options: BackupOptions
    open_source: Callable[[Reporter], Source | StreamedSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupsStep:
    """Backups of several things, such as guests of a cluster. Raises what a backup raises where all have failed."""

    back_up: Callable[[Repository, Reporter, Callable[[], bool]], SeveralBackups]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetStep:
    """What to forget, of the snapshots that `concerns` is true for.

    With `after_incomplete` also after a backup that left something out; the same goes for the prune that follows.
    """

    options: ForgetOptions
    concerns: Callable[[Snapshot], bool]
    after_incomplete: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Routine:
    """The steps to take; None for one to leave out. A dry run changes nothing, runs no hook and reads no data."""

    name: str
    hooks: Hooks
    backup: BackupStep | BackupsStep | None = None
    forget: ForgetStep | None = None
    prune: PruneOptions | None = None
    check: CheckOptions | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """How a step ended. `error` says why it failed, `reason` why it was skipped or is incomplete."""

    name: StepName
    status: Status
    duration_s: float = 0.0
    outcome: Outcome = None
    error: BackupForgeError | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutineResult:
    """Every step in its order, and how it ended as a whole: as the worst of them."""

    steps: tuple[StepResult, ...]
    duration_s: float

    @property
    def status(self) -> Status:
        return max((step.status for step in self.steps), key=_WORST_LAST.index, default="done")


class Observer(Protocol):
    """Whoever looks on while a routine runs. Called from the thread that runs it."""

    def working(self, name: StepName) -> AbstractContextManager[Watch]:
        """A frame around one step."""

    def ended(self, step: StepResult) -> None:
        """A step has ended, or was skipped."""


def run_routine(
    routine: Routine,
    open_repository: Callable[[], AbstractContextManager[Repository]],
    observer: Observer,
    clock: Clock,
) -> RoutineResult:
    """Run all steps. Whatever BackupForgeError ends a step is in the result, Interrupted among them.

    `open_repository` is called once, when the hooks that may have to mount it have run. For one thread.
    """
    begun = clock.monotonic()
    with ExitStack() as stack:
        run = _Run(routine, lambda: stack.enter_context(open_repository()), observer, clock)
        run.all_steps()
    return RoutineResult(steps=tuple(run.results), duration_s=clock.monotonic() - begun)


class _Run:
    """One run of a routine."""

    def __init__(
        self, routine: Routine, open_repository: Callable[[], Repository], observer: Observer, clock: Clock
    ) -> None:
        self.results: list[StepResult] = []
        self._routine = routine
        self._open = open_repository
        self._opened: Repository | None = None
        self._observer = observer
        self._clock = clock
        self._snapshot = b""
        self._planned: Snapshot | None = None

    def all_steps(self) -> None:
        """Every step of the routine. What is no BackupForgeError goes on to the caller when the failure hooks ran."""
        try:
            for name, action in self._steps():
                self._attempt(name, action)
        finally:
            if self._failed is not None and self._routine.hooks.failure and not self._routine.dry_run:
                self._attempt("failure", partial(self._run_hooks, "failure"), always=True)

    def _steps(self) -> Iterator[tuple[StepName, Callable[[], StepResult]]]:
        """The steps that are wanted, in their order."""
        routine = self._routine
        if routine.hooks.before:
            yield "before", partial(self._run_hooks, "before")
        if routine.backup is not None:
            yield "backup", partial(self._backup, routine.backup)
        if routine.forget is not None:
            yield "forget", partial(self._forget, routine.forget)
        if routine.prune is not None:
            yield "prune", partial(self._prune, routine.prune)
        if routine.check is not None:
            yield "check", partial(self._check, routine.check)
        if routine.hooks.after:
            yield "after", partial(self._run_hooks, "after")

    @property
    def _failed(self) -> StepResult | None:
        """The first step that failed or was interrupted."""
        return next((step for step in self.results if step.status in ("failed", "interrupted")), None)

    def _attempt(self, name: StepName, action: Callable[[], StepResult], *, always: bool = False) -> None:
        """Take a step unless there is a reason to skip it, and keep the account of it."""
        begun = self._clock.monotonic()
        reason = "" if always else self._reason_to_skip(name)
        try:
            result = StepResult(name=name, status="skipped", reason=reason) if reason else action()
        except Interrupted as error:
            result = StepResult(name=name, status="interrupted", error=error)
        except BackupForgeError as error:
            result = StepResult(name=name, status="failed", error=error)
        except Exception as error:
            self.results.append(StepResult(name=name, status="failed", error=BackupForgeError(str(error))))
            raise
        self.results.append(replace(result, duration_s=0.0 if reason else self._clock.monotonic() - begun))
        self._observer.ended(self.results[-1])

    def _reason_to_skip(self, name: StepName) -> str:
        """Why not to take a step, empty for none."""
        if self._failed is not None:
            return f"{self._failed.name} {'was interrupted' if self._failed.status == 'interrupted' else 'failed'}"
        if self._routine.dry_run and name in ("before", "check", "after"):
            return "dry run"
        forget = self._routine.forget
        incomplete = any(step.status == "incomplete" for step in self.results)
        if name in ("forget", "prune") and incomplete and not (forget and forget.after_incomplete):
            return "the backup is incomplete"
        return ""

    # --- the steps

    def _repository(self) -> Repository:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _backup(self, step: BackupStep | BackupsStep) -> StepResult:
        repository = self._repository()
        if isinstance(step, BackupsStep):
            return self._backups(repository, step)
        with self._observer.working("backup") as (reporter, cancelled):
            result = backup(repository, lambda: step.open_source(reporter), step.options, reporter, cancelled)
        self._snapshot = result.snapshot_id or b""
        self._planned = result.snapshot if self._routine.dry_run else None
        errors = result.snapshot.summary.errors
        return StepResult(
            name="backup",
            status="incomplete" if errors else "done",
            outcome=result,
            reason=f"{errors} items could not be read" if errors else "",
        )

    def _backups(self, repository: Repository, step: BackupsStep) -> StepResult:
        with self._observer.working("backup") as (reporter, cancelled):
            result = step.back_up(repository, reporter, cancelled)
        errors = result.failed + sum(each.snapshot.summary.errors for each in result.made)
        self._snapshot = next((each.snapshot_id or b"" for each in reversed(result.made)), b"")
        reason = f"{errors} items could not be backed up" if errors else ""
        return StepResult(name="backup", status="incomplete" if errors else "done", outcome=result, reason=reason)

    def _forget(self, step: ForgetStep) -> StepResult:
        repository = self._repository()
        with self._observer.working("forget") as (reporter, cancelled):
            snapshots = load_all_snapshots(repository)
            if self._planned is not None:
                snapshots[NOT_MADE] = self._planned
            own = {identifier: each for identifier, each in snapshots.items() if step.concerns(each)}
            plan = plan_forget(own, step.options, self._clock.now())
            for warning in plan.warnings:
                reporter.warn(b"", warning)
            if not self._routine.dry_run:
                remove_snapshots(repository, plan.removed, reporter, cancelled)
        return StepResult(name="forget", status="done", outcome=plan)

    def _prune(self, options: PruneOptions) -> StepResult:
        repository = self._repository()
        with self._observer.working("prune") as (reporter, cancelled):
            if self._routine.dry_run:
                plan = plan_prune(repository, options, reporter, cancelled)
                return StepResult(name="prune", status="done", outcome=plan, reason="as the repository is now")
            result = prune(repository, options, reporter, cancelled)
        reason = f"{len(result.problems)} packs could not be read in full, and stay" if result.problems else ""
        return StepResult(name="prune", status="incomplete" if reason else "done", outcome=result, reason=reason)

    def _check(self, options: CheckOptions) -> StepResult:
        repository = self._repository()
        with self._observer.working("check") as (reporter, cancelled):
            result = check(repository, options, reporter, cancelled)
        if not result.errors:
            return StepResult(name="check", status="done", outcome=result)
        error = DamagedObject(
            f"{result.errors} error{'s' if result.errors > 1 else ''} found in {repository.location}",
            hint="nothing was changed; 'backupforge repair' plans what can be mended",
        )
        return StepResult(name="check", status="failed", outcome=result, error=error)

    def _run_hooks(self, kind: HookKind) -> StepResult:
        failed, incomplete = self._failed, any(step.status == "incomplete" for step in self.results)
        if failed is not None:
            variables = self._variables(failed.name, failed.status, str(failed.error or ""))
        else:
            status = "running" if kind == "before" else "incomplete" if incomplete else "done"
            variables = self._variables(kind, status, "")
        self._routine.hooks.run(kind, variables)
        return StepResult(name=kind, status="done")

    def _variables(self, step: StepName, status: str, error: str) -> dict[str, str]:
        """What hooks are told."""
        return {
            "PROFILE": self._routine.name,
            "STEP": step,
            "STATUS": status,
            "SNAPSHOT": self._snapshot.hex(),
            "ERROR": error,
        }
