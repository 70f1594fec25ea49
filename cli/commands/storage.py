"""`storage`: about the places that keep repositories."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.units import format_duration, format_size, parse_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE
from cli.options import Group
from cli.render import Style, shown, table

if TYPE_CHECKING:
    from bfrepo.operations.storage_probe import ProbeCheck, ProbeResult

run = Group(
    "storage",
    help="""Try out a storage, before a repository is made there.""",
    short_help="Try out a storage: is it right, and how fast?",
)


@run.command(
    "probe",
    short_help="Is a storage right, and how fast is it?",
    examples=[
        ("backupforge storage probe s3:https://s3.example.com/bucket/probe", "an empty prefix of a bucket"),
        ("backupforge storage probe sftp:me@example.com:probe --size 64M", "with larger transfers"),
        ("backupforge storage probe /mnt/nas/probe --json", "for a program"),
    ],
    exit_codes=(DONE, FAILED, USAGE, INTERRUPTED),
)
@click.argument("url")
@click.option("--size", default="8M", show_default=True, metavar="SIZE", help="Bytes of each measured transfer.")
@pass_app
def probe_command(app: App, url: str, size: str) -> int:
    """Find out whether a storage keeps what repositories rely on, and measure it: latency, and speed up and down over
    one connection and over as many as are used (see the option connections of each storage).

    URL is a place that is empty, such as a new prefix in a bucket; a place that holds anything is refused. All that is
    stored there, some 1,200 small objects and a few large ones, is removed again. Nothing is tried twice, and no limit
    of --limit-upload or --limit-download counts, so that what is shown is the storage itself.

    The exit code is 1 when a check has failed: do not keep backups there. A warning says what to take care of.
    """
    from bfrepo.operations.storage_probe import probe_storage

    transfer = parse_size(size)
    with app.working(unit="steps", streaming=False) as work:
        result = probe_storage(
            lambda: app.open_bare_storage(url), app.clock, work.display.progress, work.cancelled, size=max(transfer, 1)
        )
    _show(app, result)
    return FAILED if result.failed or result.left else DONE


def _show(app: App, result: ProbeResult) -> None:
    output, style = app.output, app.output.style
    output.document(_fields(result))
    rows = [(each.title, _verdict(each, style), shown(each.detail)) for each in result.checks]
    output.result(table(("Check", "Result", ""), rows, "<<<", style))
    if result.latencies:
        output.say()
        calls = [(each.call, _milliseconds(each.median_s), _milliseconds(each.slowest_s)) for each in result.latencies]
        output.result(table(("Call", "Median", "Slowest"), calls, "<>>", style))
    if result.throughputs:
        output.say()
        speeds = [
            (each.direction, str(each.connections), format_size(each.size), f"{format_size(each.rate)}/s")
            for each in result.throughputs
        ]
        output.result(table(("Direction", "Connections", "Transferred", "Speed"), speeds, "<>>>", style))
    output.say()
    for each in result.left:
        output.notice("warning", b"", f"could not be removed: {each}")
    _conclude(app, result)


def _conclude(app: App, result: ProbeResult) -> None:
    output, style = app.output, app.output.style
    took = format_duration(result.duration_s)
    warnings = sum(check.verdict == "warning" for check in result.checks)
    if result.failed:
        output.result(style.red(f"{shown(result.location)} is not fit for a repository: {result.failed} checks failed"))
    elif warnings:
        output.say(style.yellow(f"{shown(result.location)} can keep a repository, with care; probed in {took}"))
    else:
        output.say(style.green(f"{shown(result.location)} can keep a repository; probed in {took}"))


def _verdict(check: ProbeCheck, style: Style) -> str:
    return {"passed": style.green, "warning": style.yellow, "failed": style.red}[check.verdict](check.verdict)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _fields(result: ProbeResult) -> dict[str, Any]:
    return {
        "message_type": "storage_probe",
        "location": result.location,
        "connections": result.connections,
        "failed": result.failed,
        "checks": [asdict(each) for each in result.checks],
        "latencies": [asdict(each) for each in result.latencies],
        "throughputs": [{**asdict(each), "bytes_per_second": round(each.rate)} for each in result.throughputs],
        "left": list(result.left),
        "seconds_elapsed": round(result.duration_s, 3),
    }
