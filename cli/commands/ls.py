"""`ls`: the files in a snapshot."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import UsageError
from cli.app import App, pass_app
from cli.entries import entry_fields, entry_line
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import json_line
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from bfrepo.operations.listing import ListedFile, SortKey

_BATCH: Final = 1000
"""Lines written at a time: few writes, and the first lines of a long list come at once."""


@command(
    "ls",
    short_help="List the files in a snapshot.",
    examples=[
        ("backupforge ls latest /srv/data", "one directory"),
        ("backupforge ls -l --recursive latest:/srv/data", "all below it, with owners, sizes and times"),
        ("backupforge ls -l --recursive --sort size latest | head", "the largest files"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshot", metavar="SNAPSHOT[:PATH]")
@click.argument("path", required=False, metavar="[PATH]")
@click.option("-l", "--long", is_flag=True, help="With type, permissions, owner, size and time.")
@click.option("-R", "--recursive", is_flag=True, help="Everything below, too.")
@click.option(
    "--sort",
    type=click.Choice(["name", "size", "time"]),
    default="name",
    show_default=True,
    help="Largest or newest first.",
)
@filter_options
@pass_app
def run(
    app: App,
    snapshot: str,
    path: str | None,
    long: bool,
    recursive: bool,
    sort: SortKey,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """List the files in a snapshot.

    SNAPSHOT is an ID prefix, latest, or latest~N; filters apply to latest. Names that would confuse a terminal are
    shown with backslash escapes.
    """
    from bfrepo.data.selection import find_snapshot, split_path
    from bfrepo.operations.listing import list_files
    from bfrepo.operations.snapshots import load_snapshots

    chosen = snapshot_filter(hosts, tags, paths)
    name, below = split_path(snapshot)
    if path is not None:
        if below:
            raise UsageError("give the path either behind the colon or as an argument")
        below = os.fsencode(path).strip(b"/")
    errors: list[bytes] = []

    def on_error(where: bytes, message: str) -> None:
        errors.append(where)
        app.output.notice("error", where, message)

    app.output.streaming = True
    with app.open_repository() as repository:
        snapshots = load_snapshots(repository, on_error=lambda damaged, error: None)
        identifier = find_snapshot(name, snapshots, chosen)
        repository.refresh_index()
        files = list_files(
            repository.loader, snapshots[identifier].tree, below, recursive=recursive, sort=sort, on_error=on_error
        )
        _write(app, files, long=long)
    return INCOMPLETE if errors else DONE


def _write(app: App, files: Iterable[ListedFile], *, long: bool) -> None:
    lines = iter(_json_lines(files) if app.output.as_json else _text_lines(files, long=long))
    while batch := list(islice(lines, _BATCH)):
        app.output.raw("".join(batch))


def _text_lines(files: Iterable[ListedFile], *, long: bool) -> Iterator[str]:
    return (f"{entry_line(each.path, each.node, long=long)}\n" for each in files)


def _json_lines(files: Iterable[ListedFile]) -> Iterator[str]:
    return (json_line({"message_type": "node", **_fields(each)}) for each in files)


def _fields(each: ListedFile) -> dict[str, Any]:
    return {**entry_fields(each.path, each.node), "inode": each.node.inode, "links": each.node.links}
