"""`history`: every version of a path, across snapshots."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.units import format_count, format_size
from bfrepo.data.attributes import entry_time
from cli.app import App, pass_app
from cli.entries import entry_fields, permissions
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.lookup import catalogue_option, looking_up
from cli.options import command, filter_options
from cli.output import path_fields
from cli.render import local_time, short, shown, table

if TYPE_CHECKING:
    from bfrepo.operations.history import PathVersion


@command(
    "history",
    short_help="List every version of a path, across snapshots.",
    examples=[
        ("backupforge history /etc/passwd", "when did it change?"),
        ("backupforge history ~/thesis.tex --host laptop", "of one host"),
        ("backupforge history --json /etc/passwd", "with the IDs of all snapshots of each version"),
        ("backupforge dump 4f3a09c2 /etc/passwd", "have a look at one of them"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("path", metavar="PATH")
@catalogue_option
@filter_options
@pass_app
def run(
    app: App,
    path: str,
    catalogue: bool | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """List every version of a path: since when and until when it was so, and in how many snapshots.

    A version ends when the content or the metadata changes; change time, access time and inode do not count. The
    content of a directory is all that is below it. A PATH that is not absolute counts from the working directory.
    """
    from bfrepo.operations.history import history
    from bfrepo.sources.paths import absolute_path

    where = absolute_path(os.fsencode(path), os.getcwdb())
    with looking_up(app, catalogue=catalogue, hosts=hosts, tags=tags, paths=paths, streaming=False) as lookup:
        versions = history(
            lookup.repository,
            lookup.snapshots,
            where,
            lookup.work.display,
            lookup.work.cancelled,
            catalogue=lookup.catalogue,
        )
    app.output.document({**path_fields(where), "versions": [_fields(where, version) for version in versions]})
    if versions:
        app.output.result(_table(app, versions))
    else:
        app.output.say(f"{shown(where)} is in none of {format_count(len(lookup.snapshots))} snapshots")
    return INCOMPLETE if lookup.work.display.progress.errors else DONE


def _table(app: App, versions: Sequence[PathVersion]) -> list[str]:
    """A line for each version; the hosts are named if there are several."""
    headings = ["First seen", "Last seen", "Snapshots", "Last in", "Change", "Mode", "Size", "Modified"]
    align = "<<><<<><"
    rows = [_row(version) for version in versions]
    if len({version.hostname for version in versions}) > 1:
        headings, align = ["Host", *headings], f"<{align}"
        rows = [[shown(version.hostname), *row] for version, row in zip(versions, rows, strict=True)]
    return table(headings, rows, align, app.output.style)


def _row(version: PathVersion) -> list[str]:
    identifiers, node = list(version.snapshots), version.node
    times = [local_time(version.snapshots[identifier].when) for identifier in (identifiers[0], identifiers[-1])]
    row = [*times, format_count(len(identifiers)), short(identifiers[-1]), version.change]
    if node is None:
        return [*row, "", "", ""]
    return [*row, permissions(node), format_size(node.size), local_time(entry_time(node.mtime_ns))]


def _fields(path: bytes, version: PathVersion) -> dict[str, Any]:
    snapshots = list(version.snapshots.items())
    return {
        "hostname": version.hostname,
        "change": version.change,
        "first_seen": snapshots[0][1].time,
        "last_seen": snapshots[-1][1].time,
        "snapshots": [identifier.hex() for identifier, _ in snapshots],
        "entry": entry_fields(path, version.node) if version.node is not None else None,
    }
