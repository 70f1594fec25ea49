"""`run`: what a profile says, from the first hook to the last, with one summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count, format_duration, format_size
from cli.app import App
from cli.exit_codes import DONE, WORK_CODES, worst
from cli.options import Flags, command
from cli.render import short, shown, table
from cli.settings import resolve
from cli.signals import raising

if TYPE_CHECKING:
    from bfrepo.operations.backup import BackupResult
    from bfrepo.operations.routine import Outcome, RoutineResult, StepName, StepResult, Watch
    from cli.routine import Plan


@command(
    "run",
    short_help="Back up, forget, prune and check as a profile says.",
    examples=[
        ("backupforge run", "the profile called default"),
        ("backupforge run home office", "two profiles, one after the other"),
        ("backupforge run home --dry-run", "what would be done?"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("profiles", nargs=-1, metavar="[PROFILE]...")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing, run no hook; say what would be done.")
def run(profiles: Sequence[str], dry_run: bool) -> int:
    """Back up, forget, prune and check as a profile says: see backupforge-profile(5).

    First the hooks before it run, then the backup, then what the rules do not keep is forgotten, space is freed, and a
    sample of the data is read; then the hooks after it. When a step fails the ones behind it are skipped, and the hooks
    for failures run. After a backup that had to leave something out nothing is forgotten or freed.

    The exit code is the worst of all steps and profiles.
    """
    from cli.routine import make_plan

    flags = click.get_current_context().ensure_object(Flags)
    apps = {name: App(resolve(replace(flags, profile=name))) for name in _names(profiles, flags)}
    plans = [(app, make_plan(name, app.settings, app.clock, dry_run=dry_run)) for name, app in apps.items()]
    documents, codes = [], []
    for app, plan in plans:
        result = _run_one(app, plan)
        codes.append(_exit_code(result))
        documents.append(_fields(plan, result, codes[-1]))
        _show(app, plan, result)
        if result.status == "interrupted":
            break
    first = plans[0][0]
    first.output.document({"profiles": documents, "exit_code": worst(codes), "dry_run": dry_run})
    return worst(codes)


def _names(profiles: Sequence[str], flags: Flags) -> list[str]:
    """The profiles to run, each once."""
    from cli.profiles import DEFAULT_PROFILE

    if profiles and flags.profile:
        raise UsageError("profiles were named twice", hint="name them behind 'run', or one with --profile")
    return list(dict.fromkeys(profiles)) or [flags.profile or DEFAULT_PROFILE]


def _run_one(app: App, plan: Plan) -> RoutineResult:
    from bfrepo.operations.routine import run_routine

    with raising():
        return run_routine(plan.routine, app.open_repository, _Observer(app, plan), app.clock)


class _Observer:
    """Shows how a routine goes."""

    def __init__(self, app: App, plan: Plan) -> None:
        self._app = app
        self._plan = plan

    @contextmanager
    def working(self, name: StepName) -> Iterator[Watch]:
        """The usual frame for long work, one for each step."""
        from bfrepo.operations.scan import BackgroundScan
        from cli.what import ignore_errors

        what = self._plan.what
        self._app.output.remark(f"{self._plan.routine.name}: {name}")
        unit = "files" if name == "backup" else "items"
        with self._app.working(unit=unit, streaming=False) as work, ExitStack() as stack:
            if name == "backup" and what is not None and work.display.wants_totals:
                stack.enter_context(BackgroundScan(lambda: what.open_source(ignore_errors), work.display.progress))
            yield work.display, work.cancelled

    def ended(self, step: StepResult) -> None:
        """What went wrong is said at once, not only in the summary."""
        from bfrepo.operations.check import CheckResult
        from cli.commands.check import report_finding

        output = self._app.output
        if isinstance(step.outcome, CheckResult) and not output.as_json:
            for finding in step.outcome.findings:
                report_finding(output, finding)
        if step.error is not None:
            output.notice("error", b"", f"{self._plan.routine.name}: {step.name}: {step.error}")
            if step.error.hint and not output.as_json:
                output.complain([f"{output.error_style.dim('hint:')} {shown(step.error.hint)}"])


def _exit_code(result: RoutineResult) -> int:
    from cli.exit_codes import INCOMPLETE

    def code(step: StepResult) -> int:
        if step.error is not None:
            return step.error.exit_status
        return INCOMPLETE if step.status == "incomplete" else DONE

    return worst(map(code, result.steps))


def _show(app: App, plan: Plan, result: RoutineResult) -> None:
    output, style = app.output, app.output.style
    rows = [
        (step.name, step.status, format_duration(step.duration_s) if step.duration_s else "-", _text(step, plan))
        for step in result.steps
    ]
    output.say(f"Profile {shown(plan.routine.name)}, repository {shown(plan.location)}")
    for line in table(("Step", "Status", "Time", "Result"), rows, "<<><", style):
        output.say(line)
    colour = {"done": style.green, "incomplete": style.yellow}.get(result.status, style.red)
    dry = ", as a dry run: nothing was changed" if plan.routine.dry_run else ""
    output.say(colour(f"{shown(plan.routine.name)}: {result.status} in {format_duration(result.duration_s)}{dry}"))


def _text(step: StepResult, plan: Plan) -> str:
    """What a step did, in one line."""
    if step.error is not None:
        return shown(str(step.error))
    said = _outcome_text(step.outcome, dry_run=plan.routine.dry_run) if step.outcome is not None else ""
    return "; ".join(filter(None, (step.reason, said)))


def _fields(plan: Plan, result: RoutineResult, code: int) -> dict[str, Any]:
    return {
        "profile": plan.routine.name,
        "repository": plan.location,
        "status": result.status,
        "exit_code": code,
        "seconds_elapsed": round(result.duration_s, 3),
        "steps": [_step_fields(step, plan) for step in result.steps],
    }


def _step_fields(step: StepResult, plan: Plan) -> dict[str, Any]:
    error = step.error
    return {
        "step": step.name,
        "status": step.status,
        "seconds_elapsed": round(step.duration_s, 3),
        **({"reason": step.reason} if step.reason else {}),
        **({"error": type(error).code, "message": str(error)} if error is not None else {}),
        **({"result": _outcome_fields(step.outcome, dry_run=plan.routine.dry_run)} if step.outcome is not None else {}),
    }


def _outcome_text(outcome: Outcome, *, dry_run: bool) -> str:
    """What an operation has brought about, in one line."""
    from bfrepo.operations.backup import BackupResult, SeveralBackups
    from bfrepo.operations.check import CheckResult
    from bfrepo.operations.forget import ForgetPlan
    from bfrepo.operations.prune import PruneResult
    from bfrepo.repository.prune import PrunePlan

    match outcome:
        case BackupResult():
            return _backup_text(outcome, dry_run=dry_run)
        case SeveralBackups():
            return f"saved {_count(len(outcome.made), 'snapshot')}"
        case ForgetPlan():
            removed, kept = len(outcome.removed), len(outcome.kept)
            return (
                f"{'would remove' if dry_run else 'removed'} {_count(removed, 'snapshot')}, kept {format_count(kept)}"
            )
        case PrunePlan():
            return f"would delete {format_size(outcome.delete_size)} now, {format_size(outcome.condemn_size)} later"
        case PruneResult():
            return f"freed {format_size(outcome.deleted_size)}; {_count(outcome.condemned, 'more pack')} to go later"
        case CheckResult():
            found = f"{_count(outcome.errors, 'error')}" if outcome.errors else "no errors"
            left_out = f", left out {_count(outcome.archived, 'archived pack')}" if outcome.archived else ""
            read = f"read {format_size(outcome.bytes_read)} of data{left_out}"
            return f"{found} in {_count(outcome.snapshots, 'snapshot')}; {read}"
        case None:
            return ""


def _outcome_fields(outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    """The same for programs, named as in the summaries of the commands that do the same."""
    from bfrepo.operations.backup import BackupResult, SeveralBackups
    from bfrepo.operations.check import CheckResult
    from bfrepo.operations.forget import ForgetPlan
    from bfrepo.operations.prune import PruneResult
    from bfrepo.repository.prune import PrunePlan
    from cli.commands.backup import summary_fields as backup_fields
    from cli.commands.check import finding_fields
    from cli.commands.check import summary_fields as check_fields

    match outcome:
        case BackupResult():
            return backup_fields(outcome, dry_run=dry_run)
        case SeveralBackups():
            return {
                "backups": [backup_fields(each, dry_run=dry_run) for each in outcome.made],
                "failed": outcome.failed,
            }
        case ForgetPlan():
            return {
                "removed": [identifier.hex() for identifier in outcome.removed],
                "kept": [identifier.hex() for identifier in outcome.kept],
            }
        case PrunePlan():
            return {"bytes_to_delete": outcome.delete_size, "bytes_to_condemn": outcome.condemn_size}
        case PruneResult():
            return {
                "packs_deleted": outcome.deleted,
                "bytes_deleted": outcome.deleted_size,
                "packs_condemned": outcome.condemned,
                "bytes_condemned": outcome.condemned_size,
                "packs_repacked": outcome.repacked,
                "problems": outcome.problems,
            }
        case CheckResult():
            return {**check_fields(outcome), "findings": [finding_fields(each) for each in outcome.findings]}
        case None:
            return {}


def _backup_text(result: BackupResult, *, dry_run: bool) -> str:
    summary = result.snapshot.summary
    counts = f"{format_count(summary.files_new)} new, {format_count(summary.files_changed)} changed files"
    added = f"{'would store' if dry_run else 'stored'} {format_size(summary.data_stored)}"
    saved = f"snapshot {short(result.snapshot_id)}: " if result.snapshot_id else ""
    return f"{saved}{counts} of {format_count(summary.files)}; {added}"


def _count(number: int, what: str) -> str:
    return f"{format_count(number)} {what}{'' if number == 1 else 's'}"
