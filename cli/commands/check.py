"""`check`: is everything there, and right?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count, format_duration, format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, FAILED, REPOSITORY_CODES
from cli.options import command
from cli.output import Output, path_fields
from cli.render import local_time, short, shown
from cli.warming import warm_up, warm_up_option

if TYPE_CHECKING:
    from bfrepo.checker.findings import AffectedSnapshot, Finding
    from bfrepo.operations.check import CheckOptions, CheckResult
    from bfrepo.operations.warming import WarmUp

_LISTED = ("snapshots", "index", "packs", "claims")
"""What a check lists, in its order."""
_SHOWN_FILES = 5
_SHOWN_SNAPSHOTS = 5


@command(
    "check",
    short_help="Is everything there, and right?",
    examples=[
        ("backupforge check", "is everything there that the snapshots need?"),
        ("backupforge check --read-data", "and is every stored byte right?"),
        ("backupforge check --read-data-subset 1/7", "a seventh of that: 1/7 to 7/7 on the days of a week"),
        ("backupforge check --no-key -r /srv/backup", "without the password, for whoever stores it"),
    ],
    exit_codes=REPOSITORY_CODES,
)
@click.option("--read-data", is_flag=True, help="Read, open and compare everything that is stored.")
@click.option("--read-data-subset", metavar="n/t|P%|SIZE", help="Do so with a part, a percentage or a size of it.")
@click.option("--no-key", is_flag=True, help="Only compare the hash of every object with its name; needs no password.")
@warm_up_option
@pass_app
def run(app: App, read_data: bool, read_data_subset: str | None, no_key: bool, warm_up_wait: str | None) -> int:
    """Is everything there, and right? Nothing is changed.

    Reads the index and every directory of every snapshot, and proves that all they need is there. Each finding says
    what depends on it. The exit code is 1 when something is wrong.

    What is to be read and is kept in an archive by the storage is asked for first and waited for.
    """
    if (read_data, read_data_subset is not None, no_key).count(True) > 1:
        raise UsageError("--read-data, --read-data-subset and --no-key exclude each other")
    if not no_key:
        app.approach_repository()
    from bfrepo.operations.check import check, check_without_key

    waiting = warm_up(app.output, warm_up_wait)
    options = _options(read_data=read_data, subset=read_data_subset, waiting=waiting)
    if no_key:
        backend = app.open_backend()
        with app.working(unit="items") as work:
            result = check_without_key(backend, app.clock, work.display, work.cancelled, waiting)
        backend.close()
    else:
        with app.open_repository(ahead=_LISTED) as repository, app.working(unit="items") as work:
            result = check(repository, options, work.display, work.cancelled)
    for finding in result.findings:
        report_finding(app.output, finding)
    app.output.line("summary", summary_fields(result))
    _show(app.output, result)
    return FAILED if result.errors else DONE


def _options(*, read_data: bool, subset: str | None, waiting: WarmUp) -> CheckOptions:
    from bfrepo.checker.sampling import Everything, parse_sample
    from bfrepo.operations.check import CheckOptions

    if subset is not None:
        return CheckOptions(read=parse_sample(subset), warm_up=waiting)
    return CheckOptions(read=Everything() if read_data else None, warm_up=waiting)


def report_finding(output: Output, finding: Finding) -> None:
    if output.as_json:
        output.line(finding.severity, finding_fields(finding))
        return
    style = output.error_style
    label = style.red("error:") if finding.severity == "error" else style.dim("note:")
    hint = [f"  {style.dim('next:')} {finding.hint}"] if finding.hint else []
    output.complain([f"{label} {shown(finding.message)}", *_dependents(finding), *hint])


def _dependents(finding: Finding) -> Iterator[str]:
    """What needs the object the finding is about."""
    snapshots = finding.snapshots
    if snapshots:
        listed = ", ".join(map(_snapshot_text, snapshots[:_SHOWN_SNAPSHOTS]))
        yield f"  needed by {_count(len(snapshots), 'snapshot')}: {listed}{_more(len(snapshots), _SHOWN_SNAPSHOTS)}"
    if finding.files_count:
        yield f"  {_count(finding.files_count, 'file or directory', 'files and directories')}:"
        yield from (f"    {shown(path)}" for path in finding.files[:_SHOWN_FILES])
        if finding.files_count > _SHOWN_FILES:
            yield f"    and {format_count(finding.files_count - _SHOWN_FILES)} more"


def _snapshot_text(snapshot: AffectedSnapshot) -> str:
    when = f" of {local_time(datetime.fromisoformat(snapshot.time))}" if snapshot.time else ""
    return f"{short(snapshot.id)}{when}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{format_count(number)} {one if number == 1 else many or one + 's'}"


def _more(number: int, listed: int) -> str:
    return f" and {format_count(number - listed)} more" if number > listed else ""


def _show(output: Output, result: CheckResult) -> None:
    style = output.style
    looked = [_count(result.snapshots, "snapshot"), _count(result.packs, "pack")]
    if result.trees:
        looked[1:1] = [_count(result.trees, "tree"), _count(result.blobs, "blob")]
    read = f"; read {format_size(result.bytes_read)} of data" if result.packs_read else ""
    output.say(f"Checked {', '.join(looked)}{read}, in {format_duration(result.duration_s)}")
    if result.errors:
        output.say(style.red(f"{_count(result.errors, 'error')} found"))
        output.say(
            "Nothing was changed. Keep a copy of the repository as it is, and restore what you need. Then repair."
        )
    else:
        output.say(style.green("no errors found"))


def finding_fields(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "object": finding.object_kind,
        "ids": [each.hex() for each in finding.object_ids],
        "message": finding.message,
        **({"hint": finding.hint} if finding.hint else {}),
        "snapshots": [{"id": each.id.hex(), "time": each.time} for each in finding.snapshots],
        "files": [path_fields(path) for path in finding.files],
        "files_count": finding.files_count,
    }


def summary_fields(result: CheckResult) -> dict[str, Any]:
    return {
        "num_errors": result.errors,
        "num_notes": len(result.findings) - result.errors,
        "snapshots": result.snapshots,
        "trees": result.trees,
        "blobs": result.blobs,
        "packs": result.packs,
        "packs_read": len(result.packs_read),
        "bytes_read": result.bytes_read,
        "packs_archived": result.archived,
        "seconds_elapsed": round(result.duration_s, 3),
    }
