"""`copy`: snapshots to another repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.units import format_count, format_duration, format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options, other_password_options
from cli.output import Output, path_fields
from cli.render import local_time, short, shown
from cli.values import snapshot_filter
from cli.warming import say_archived, warm_up, warm_up_option

if TYPE_CHECKING:
    from bfrepo.data.selection import SnapshotFilter
    from bfrepo.data.snapshot import Snapshot
    from bfrepo.operations.copy import CopyPlan, CopyResult
    from bfrepo.repository.repository import Repository


@command(
    "copy",
    short_help="Copy snapshots to another repository.",
    examples=[
        ("backupforge copy --to /mnt/disk/backup", "all snapshots that are not there yet"),
        ("backupforge copy --to /mnt/disk/backup latest --host web1", "the newest one of a host"),
        ("backupforge copy --to /mnt/disk/backup --tag monthly --dry-run", "what would be copied?"),
        (
            "backupforge init -r /mnt/disk/backup --copy-chunker-from /srv/backup",
            "make a repository to copy to from /srv/backup",
        ),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT...]")
@click.option("--to", "to", required=True, metavar="URL", help="The repository to copy to.")
@other_password_options("to")
@click.option("--to-hot", metavar="URL", help="Where its hot part is, if it is in cold storage.")
@click.option("-n", "--dry-run", is_flag=True, help="Copy nothing; say what would be copied.")
@warm_up_option
@filter_options
@pass_app
def run(
    app: App,
    snapshots: Sequence[str],
    to: str,
    to_password_file: str | None,
    to_password_command: str | None,
    to_hot: str | None,
    dry_run: bool,
    warm_up_wait: str | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Copy snapshots to another repository, which has a password of its own: all of them, or those that are named.

    SNAPSHOT is an ID prefix, latest, or latest~N; filters choose among all snapshots, or apply to latest. A snapshot
    that was copied before is not copied again, and of the others only what the target does not have. A copy that is
    interrupted keeps what it stored: run it again.

    A snapshot of which something cannot be read is not copied; what is wrong is reported, the others are copied, and
    the exit code is 3.

    What the storage keeps in an archive is asked for first and waited for: --dry-run says how much that is.
    """
    from bfrepo.operations.copy import copy_snapshots, plan_copy, survey_copy

    password = app.settings.other_password(to_password_file, to_password_command, which="to")
    chosen = snapshot_filter(hosts, tags, paths)
    waiting = warm_up(app.output, warm_up_wait)
    with app.open_repository() as source, app.open_repository(to, password, hot=to_hot) as target:
        with app.working(unit="snapshots") as work:
            found = _choose(source, snapshots, chosen)
            if dry_run:
                plan = plan_copy(source, target, found, work.display)
                archived = survey_copy(source, plan, work.display, work.cancelled)
            else:

                def on_copied(old: bytes, new: bytes) -> None:
                    _show_copied(app.output, found[old], old, new)

                result = copy_snapshots(source, target, found, work.display, work.cancelled, on_copied, waiting)
        if dry_run:
            say_archived(app.output, archived)
            _show_plan(app.output, plan, target.location)
        else:
            _show(app.output, result, target.location)
    return INCOMPLETE if work.display.progress.errors else DONE


def _choose(source: Repository, names: Sequence[str], chosen: SnapshotFilter) -> dict[bytes, Snapshot]:
    """The snapshots that are meant, oldest first. What cannot be read is reported by whoever copies."""
    from bfrepo.data.selection import find_snapshot
    from bfrepo.operations.snapshots import load_snapshots

    snapshots = load_snapshots(source, on_error=lambda name, error: None)
    if not names:
        return chosen.apply(snapshots)
    wanted = {find_snapshot(name, snapshots, chosen) for name in names}
    return {identifier: snapshot for identifier, snapshot in snapshots.items() if identifier in wanted}


def _show_copied(output: Output, snapshot: Snapshot, old: bytes, new: bytes) -> None:
    """A line for a snapshot that has arrived."""
    if output.as_json:
        output.line("copied", {"source_snapshot_id": old.hex(), "snapshot_id": new.hex(), **_fields(snapshot)})
    else:
        output.say(f"copied {_text(old, snapshot)} as {short(new)}")


def _show_plan(output: Output, plan: CopyPlan, target: str) -> None:
    for identifier, snapshot in plan.missing.items():
        if output.as_json:
            output.line("would_copy", {"source_snapshot_id": identifier.hex(), **_fields(snapshot)})
        else:
            output.result(f"would copy {_text(identifier, snapshot)}")
    counts = {"snapshots_to_copy": len(plan.missing), "snapshots_present": len(plan.present)}
    output.line("summary", {**counts, "dry_run": True})
    output.say(
        f"{_count(len(plan.missing))} to copy to {shown(target)}, {format_count(len(plan.present))} there already"
    )
    output.say("dry run: nothing was copied")


def _show(output: Output, result: CopyResult, target: str) -> None:
    output.line("summary", _summary_fields(result))
    stored, present = result.stored, format_count(len(result.present))
    failed = f", {format_count(len(result.failed))} could not be copied" if result.failed else ""
    output.say(
        f"{_count(len(result.copied))} copied to {shown(target)}, {present} there already{output.style.yellow(failed)}"
    )
    if not (result.copied or result.failed):
        return
    output.say(
        f"Read {format_size(result.read)}; added {format_size(stored.bytes_new)} "
        f"(stored {format_size(stored.bytes_stored)}) in {format_duration(result.duration_s)}"
    )
    if not result.same_chunker:
        output.remark(
            f"{output.error_style.dim('hint:')} the two repositories cut files at different places: what is backed up "
            "to the target itself shares little with the copies; 'init --copy-chunker-from' makes one where it does"
        )


def _fields(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "time": snapshot.time,
        "hostname": snapshot.hostname,
        "paths": [path_fields(path)["path"] for path in snapshot.paths],
    }


def _summary_fields(result: CopyResult) -> dict[str, Any]:
    stored = result.stored
    return {
        "snapshots_copied": len(result.copied),
        "snapshots_present": len(result.present),
        "snapshots_failed": [identifier.hex() for identifier in result.failed],
        "bytes_read": result.read,
        "data_added": stored.bytes_new,
        "data_added_packed": stored.bytes_stored,
        "same_chunker": result.same_chunker,
        "seconds_elapsed": round(result.duration_s, 3),
        "dry_run": False,
    }


def _text(identifier: bytes, snapshot: Snapshot) -> str:
    paths = ", ".join(map(shown, snapshot.paths))
    return f"snapshot {short(identifier)} of {local_time(snapshot.when)}, {shown(snapshot.hostname)}: {paths}"


def _count(number: int) -> str:
    return f"{format_count(number)} snapshot{'' if number == 1 else 's'}"
