"""`ls`: the files in a snapshot."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import json_line, path_fields
from cli.render import local_time, shown
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from bfrepo.data.node import Node
    from bfrepo.operations.listing import ListedFile, SortKey

_TYPE_BITS: Final = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "blockdev": stat.S_IFBLK,
    "chardev": stat.S_IFCHR,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MOST_S: Final = 50_000_000_000
"""Seconds from the epoch that a datetime can hold, in any zone: the years 385 to 3554."""

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
    for each in files:
        yield f"{_details(each.node)} {_name(each)}\n" if long else f"{shown(each.path)}\n"


def _details(node: Node) -> str:
    owner, group = shown(node.user) or str(node.uid), shown(node.group) or str(node.gid)
    mode = stat.filemode(_TYPE_BITS[node.type] | node.mode)
    size = f"{node.rdev >> 8 & 0xFFF}, {node.rdev & 0xFF}" if node.rdev else format_size(node.size)
    return f"{mode} {owner:<8} {group:<8} {size:>9} {local_time(_when(node.mtime_ns))}"


def _name(each: ListedFile) -> str:
    return f"{shown(each.path)} -> {shown(each.node.target)}" if each.node.type == "symlink" else shown(each.path)


def _when(nanoseconds: int) -> datetime:
    """A time to the second, or the end of the calendar for one that is beyond it."""
    return _EPOCH + timedelta(seconds=min(max(nanoseconds // 1_000_000_000, -_MOST_S), _MOST_S))


def _json_lines(files: Iterable[ListedFile]) -> Iterator[str]:
    return (json_line({"message_type": "node", **_fields(each)}) for each in files)


def _fields(each: ListedFile) -> dict[str, Any]:
    node = each.node
    return {
        **path_fields(each.path),
        **path_fields(node.name, "name"),
        "type": node.type,
        "mode": node.mode,
        "permissions": stat.filemode(_TYPE_BITS[node.type] | node.mode),
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
        "size": node.size,
        "mtime_ns": node.mtime_ns,
        "mtime": _when(node.mtime_ns).isoformat(),
        "inode": node.inode,
        "links": node.links,
        **(path_fields(node.target, "target") if node.type == "symlink" else {}),
    }
