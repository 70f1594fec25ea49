"""`stats`: what snapshots cost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count, format_ratio, format_size
from cli.app import App, Work, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import Output
from cli.render import bar, local_time, short, table
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from bfrepo.data.selection import SnapshotFilter
    from bfrepo.data.snapshot import Snapshot
    from bfrepo.operations.stats import Sizes, StatsResult
    from bfrepo.repository.repository import Repository

_MODES: Final = ("restore-size", "files-by-contents", "raw-data", "blobs-per-file")


@command(
    "stats",
    short_help="Show what snapshots cost: sizes and ratios.",
    examples=[
        ("backupforge stats", "every snapshot, and all of them together"),
        ("backupforge stats latest latest~1", "two snapshots"),
        ("backupforge stats --plot", "as bars"),
        ("backupforge stats --mode raw-data --json", "one number for a program"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT...]")
@click.option(
    "--mode",
    type=click.Choice(_MODES),
    help="Only one way of counting: restore-size is the size of all files; files-by-contents counts equal files once; "
    "raw-data is what is stored; blobs-per-file counts blobs once for each different file.",
)
@click.option("--plot", is_flag=True, help="Draw bars.")
@filter_options
@pass_app
def run(
    app: App,
    snapshots: Sequence[str],
    mode: str | None,
    plot: bool,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Show what snapshots cost, each and all together.

    Restore size is the size of all files. Unique is what is left of it when everything counts once. Stored is what that
    takes in the repository, compressed and encrypted. The ratios are of deduplication (restore size to unique) and of
    compression (unique to stored).
    """
    from bfrepo.operations.stats import stats

    if mode is not None and plot:
        raise UsageError("--mode and --plot exclude each other")
    chosen = snapshot_filter(hosts, tags, paths)
    with app.open_repository() as repository, app.working(streaming=False) as work:
        picked = _pick(repository, work, snapshots, chosen)
        if mode is None:
            result = stats(repository, picked, work.display, work.cancelled)
        else:
            numbers = _count_one_way(repository, picked, mode, work)
    if mode is not None:
        _show_numbers(app.output, numbers)
    elif app.output.as_json:
        app.output.document(_document(picked, result))
    elif not picked:
        app.output.say("no snapshots")
    elif plot:
        app.output.result(_plot(picked, result))
    else:
        _show(app.output, picked, result)
    return INCOMPLETE if work.display.progress.errors else DONE


def _pick(repository: Repository, work: Work, names: Sequence[str], chosen: SnapshotFilter) -> dict[bytes, Snapshot]:
    """The snapshots that are named, or all that match. One that cannot be read is reported."""
    from bfrepo.data.selection import find_snapshot
    from bfrepo.operations.snapshots import load_snapshots

    known = load_snapshots(repository, on_error=lambda name, error: work.display.problem(b"", str(error)))
    if not names:
        return chosen.apply(known)
    return {identifier: known[identifier] for identifier in (find_snapshot(name, known, chosen) for name in names)}


def _count_one_way(repository: Repository, picked: Mapping[bytes, Snapshot], mode: str, work: Work) -> dict[str, Any]:
    """The numbers of one mode, with the names that restic gives them."""
    from bfrepo.operations.stats import content_stats, stats

    counted = {"snapshots_count": len(picked)}
    if mode in ("files-by-contents", "blobs-per-file"):
        found = content_stats(repository, picked.values(), work.display, work.cancelled)
        if mode == "files-by-contents":
            return {"total_size": found.size, "total_file_count": found.files, **counted}
        sizes = {"total_size": found.blob_size, "total_file_count": found.files, "total_blob_count": found.blobs}
        return {**sizes, **counted}
    total = stats(repository, picked, work.display, work.cancelled).total
    if mode == "restore-size":
        return {"total_size": total.restore_size, "total_file_count": total.files, **counted}
    return {
        "total_size": total.stored,
        "total_uncompressed_size": total.unique,
        "compression_ratio": round(total.unique / total.stored, 3) if total.stored else 1.0,
        "total_blob_count": total.blobs,
        **counted,
    }


def _show_numbers(output: Output, numbers: Mapping[str, Any]) -> None:
    output.document(numbers)
    for name, value in numbers.items():
        form = (
            format_size(value) if name.endswith("_size") else format_count(value) if isinstance(value, int) else value
        )
        output.result(f"{name.replace('_', ' '):<25}{form:>12}")


def _show(output: Output, picked: Mapping[bytes, Snapshot], result: StatsResult) -> None:
    headings = ("ID", "Time", "Files", "Restore size", "Unique", "Stored", "Dedup", "Compression")
    rows = [
        (short(identifier), local_time(picked[identifier].when), *_cells(sizes))
        for identifier, sizes in result.snapshots.items()
    ]
    if len(rows) > 1:
        rows.append(("Together", "", *_cells(result.total)))
    output.result(table(headings, rows, "<<>>>>>>", output.style))
    total = result.total
    output.say()
    output.say(
        f"Files of {format_size(total.restore_size)} take {format_size(total.stored)}, {_ratio(total)} times less."
    )
    output.say(f"The repository holds {format_size(result.repository_size)} in {format_count(result.packs)} packs.")


def _cells(sizes: Sizes) -> tuple[str, ...]:
    return (
        format_count(sizes.files),
        format_size(sizes.restore_size),
        format_size(sizes.unique),
        format_size(sizes.stored),
        format_ratio(sizes.unique, sizes.restore_size),
        format_ratio(sizes.stored, sizes.unique),
    )


def _ratio(sizes: Sizes) -> str:
    return format_ratio(sizes.stored, sizes.restore_size).removesuffix("x")


def _document(picked: Mapping[bytes, Snapshot], result: StatsResult) -> dict[str, Any]:
    return {
        "snapshots": [
            {"id": identifier.hex(), "time": picked[identifier].time, **_fields(sizes)}
            for identifier, sizes in result.snapshots.items()
        ],
        "total": _fields(result.total),
        "packs": result.packs,
        "repository_size": result.repository_size,
    }


def _fields(sizes: Sizes) -> dict[str, Any]:
    def ratio(part: int, whole: int) -> float | None:
        return round(whole / part, 3) if part else None

    return {
        **asdict(sizes),
        "deduplication_ratio": ratio(sizes.unique, sizes.restore_size),
        "compression_ratio": ratio(sizes.stored, sizes.unique),
    }


def _plot(picked: Mapping[bytes, Snapshot], result: StatsResult) -> Iterator[str]:
    """Three bars for each snapshot and for all together, each part to the scale of the largest in it."""
    width = max(shutil.get_terminal_size().columns - 28, 10)
    most = max(sizes.restore_size for sizes in result.snapshots.values())
    for identifier, sizes in result.snapshots.items():
        yield f"{short(identifier)}  {local_time(picked[identifier].when)}"
        yield from _bars(sizes, max(most, sizes.unique), width)
    if len(picked) > 1:
        yield "Together"
        yield from _bars(result.total, max(result.total.restore_size, result.total.unique), width)


def _bars(sizes: Sizes, most: int, width: int) -> Iterator[str]:
    for name, size in (("restore size", sizes.restore_size), ("unique", sizes.unique), ("stored", sizes.stored)):
        yield f"  {name:<12}{format_size(size):>10}  {bar(size, most, width)}".rstrip()
    yield ""
