"""`find`: files, blobs, packs and trees across snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count
from cli.app import App, pass_app
from cli.entries import entry_fields, entry_line
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.lookup import catalogue_option, looking_up
from cli.options import command, filter_options
from cli.output import json_line
from cli.render import local_time, short, shown
from cli.values import parse_time

if TYPE_CHECKING:
    from bfrepo.operations.find import Match, SnapshotMatches, UsedKind


@command(
    "find",
    short_help="Find files, blobs and packs across snapshots.",
    examples=[
        ("backupforge find '*.conf' --host web1", "in all snapshots of a host"),
        ("backupforge find '/srv/**/report-2024*' --ignore-case --long", "by path, with sizes and times"),
        ("backupforge find notes.txt --oldest 2024-05-01 --newest '2024-05-31 23:59:59'", "by time of modification"),
        ("backupforge find --catalogue '*invoice*'", "and keep a catalogue: from then on it takes a moment"),
        ("backupforge find --pack 7c1e90ab", "which files need something in this pack?"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@click.option("-i", "--ignore-case", is_flag=True, help="Capital and small letters are equal.")
@click.option("-O", "--oldest", metavar="TIME", help="Only what was modified at this time or later.")
@click.option("-N", "--newest", metavar="TIME", help="Only what was modified at this time or earlier.")
@click.option("-l", "--long", is_flag=True, help="With type, permissions, owner, size and time.")
@click.option("-s", "--snapshot", "names", multiple=True, metavar="SNAPSHOT", help="Only in this one; may be repeated.")
@click.option("--blob", "kind", flag_value="blob", help="The arguments are IDs of blobs: find what uses them.")
@click.option("--pack", "kind", flag_value="pack", help="The arguments are IDs of packs.")
@click.option("--tree", "kind", flag_value="tree", help="The arguments are IDs of trees.")
@catalogue_option
@filter_options
@pass_app
def run(
    app: App,
    patterns: Sequence[str],
    ignore_case: bool,
    oldest: str | None,
    newest: str | None,
    long: bool,
    names: Sequence[str],
    kind: UsedKind | None,
    catalogue: bool | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Find files across snapshots, by name or by what they use.

    A PATTERN is for names, or for paths if it has a slash in it: * and ? stand for anything in a name, ** for any
    directories; with a / in front it counts from the root. With --blob, --pack or --tree the arguments are IDs, or
    their first 8 digits or more. Snapshots come oldest first.

    All directories are read, each once, however many snapshots share it. With a catalogue only those that are new.
    """
    from bfrepo.operations.find import find_names, find_objects
    from bfrepo.sources.query import NameQuery

    if kind is not None and (ignore_case or oldest or newest):
        raise UsageError(f"--{kind} takes IDs, so --ignore-case, --oldest and --newest mean nothing with it")
    if kind is None:
        limits = {"oldest_ns": _nanoseconds(oldest), "newest_ns": _nanoseconds(newest, end=True)}
        query = NameQuery(patterns, ignore_case=ignore_case, **limits)
    else:
        catalogue = False  # it has names, and no blobs
    with looking_up(app, catalogue=catalogue, names=names, hosts=hosts, tags=tags, paths=paths) as lookup:
        repository, snapshots = lookup.repository, lookup.snapshots
        display, cancelled = lookup.work.display, lookup.work.cancelled
        if kind is None:
            found = find_names(repository, snapshots, query, display, cancelled, catalogue=lookup.catalogue)
        else:
            found = find_objects(repository, snapshots, kind, patterns, display, cancelled)
        _show(app, found, len(snapshots), long=long)
    return INCOMPLETE if display.progress.errors else DONE


def _nanoseconds(text: str | None, *, end: bool = False) -> int | None:
    """A time of the command line, in ns since 1970; with `end` the end of that second."""
    if text is None:
        return None
    return int(parse_time(text).timestamp()) * 1_000_000_000 + (999_999_999 if end else 0)


def _show(app: App, found: Iterator[SnapshotMatches], searched: int, *, long: bool) -> None:
    snapshots = matches = 0
    for each in found:
        snapshots += 1
        matches += len(each.matches)
        if app.output.as_json:
            app.output.raw("".join(json_line(_fields(each, match)) for match in each.matches))
        else:
            gap = [""] if snapshots > 1 else []
            app.output.result([*gap, app.output.style.bold(_heading(each)), *_lines(each.matches, long=long)])
    app.output.line("summary", {"snapshots": snapshots, "matches": matches, "snapshots_searched": searched})
    if not app.output.as_json:
        app.output.remark(_summary(snapshots, matches, searched))


def _heading(found: SnapshotMatches) -> str:
    return f"snapshot {short(found.snapshot_id)} of {shown(found.snapshot.hostname)}, {local_time(found.snapshot.when)}"


def _lines(matches: Sequence[Match], *, long: bool) -> Iterator[str]:
    for match in matches:
        suffix = f"  {short(match.object_id)}" if match.object_id else ""
        yield f"{entry_line(match.path, match.node, long=long)}{suffix}"


def _summary(snapshots: int, matches: int, searched: int) -> str:
    if not matches:
        return f"nothing found in {_counted(searched, 'snapshot')}"
    kind = "match" if matches == 1 else "matches"
    return f"{format_count(matches)} {kind} in {format_count(snapshots)} of {_counted(searched, 'snapshot')}"


def _counted(number: int, what: str) -> str:
    return f"{format_count(number)} {what}{'' if number == 1 else 's'}"


def _fields(found: SnapshotMatches, match: Match) -> dict[str, object]:
    return {
        "message_type": "match",
        "snapshot_id": found.snapshot_id.hex(),
        **entry_fields(match.path, match.node),
        **({"object_id": match.object_id.hex()} if match.object_id else {}),
    }
