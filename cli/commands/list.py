"""`list`, also called `snapshots`: what is in a repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import BackupForgeError, UsageError
from bfrepo.core.units import format_count, format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import Output, path_fields
from cli.render import local_time, short, shown, table
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from bfrepo.data.snapshot import Snapshot
    from bfrepo.operations.listing import Group
    from bfrepo.repository.repository import Repository

_LINES_AT_ONCE: Final = 10_000
"""So many IDs are written together: there may be millions."""


@command(
    "list",
    short_help="List snapshots, or the IDs of what is stored.",
    examples=[
        ("backupforge list", "all snapshots, oldest first"),
        ("backupforge list --latest 1 --host web1", "the last snapshot of each set of paths on one host"),
        ("backupforge list --group-by host,paths", "grouped"),
        ("backupforge list packs", "the IDs of all packs"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("what", type=click.Choice(["snapshots", "packs", "index", "keys", "blobs"]), default="snapshots")
@filter_options
@click.option(
    "--latest",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only the last N of each host and paths, or of each group.",
)
@click.option("--group-by", default="", metavar="KEYS", help="Group by any of host,paths,tags.")
@pass_app
def run(
    app: App,
    what: str,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
    latest: int | None,
    group_by: str,
) -> int:
    """List snapshots as a table, oldest first; or the IDs of packs, index objects, keys or blobs, one a line.

    A snapshot that cannot be read is named on stderr; the others are listed, and the exit code is 3.
    """
    if what == "snapshots":
        return _list_snapshots(app, hosts, tags, paths, latest, group_by)
    if hosts or tags or paths or latest or group_by:
        raise UsageError(f"filters and groups are for snapshots, not for {what}")
    with app.open_repository() as repository:
        identifiers = iter(_object_ids(repository, what))
        if app.output.as_json:
            app.output.document(list(identifiers))
            return DONE
        while some := list(islice(identifiers, _LINES_AT_ONCE)):
            app.output.result(some)
    return DONE


def _object_ids(repository: Repository, what: str) -> Iterable[str]:
    from bfrepo.storage.base import ObjectKind

    if what == "blobs":
        return (blob_id.hex() for blob_id, _ in repository.refresh_index().table.blobs())
    kinds = {"packs": ObjectKind.PACK, "index": ObjectKind.INDEX, "keys": ObjectKind.KEY}
    return sorted(info.name for info in repository.backend.list(kinds[what]))


def _list_snapshots(
    app: App, hosts: Sequence[str], tags: Sequence[str], paths: Sequence[str], latest: int | None, group_by: str
) -> int:
    from bfrepo.operations.listing import group_snapshots, latest_of_each, parse_group_by
    from bfrepo.operations.snapshots import load_snapshots

    keys = parse_group_by(group_by)
    chosen = snapshot_filter(hosts, tags, paths)
    damaged: list[str] = []

    def on_error(name: str, error: BackupForgeError) -> None:
        damaged.append(name)
        app.output.notice("error", b"", str(error))

    with app.open_repository() as repository:
        snapshots = chosen.apply(load_snapshots(repository, on_error))
    if latest is not None:
        snapshots = latest_of_each(snapshots, latest, keys or ("host", "paths"))
    groups = group_snapshots(snapshots, keys)
    if app.output.as_json:
        app.output.document(_group_documents(groups) if keys else _snapshot_documents(snapshots))
    elif not snapshots:
        app.output.say("no snapshots match" if chosen != type(chosen)() else "no snapshots yet")
    else:
        _show_groups(app.output, groups)
        count = len(snapshots)
        app.output.say(f"{format_count(count)} snapshot{'' if count == 1 else 's'}")
    return INCOMPLETE if damaged else DONE


def _show_groups(output: Output, groups: Sequence[Group]) -> None:
    for group in groups:
        title = group_title(group)
        if title:
            output.result(output.style.bold(f"Snapshots for {title}"))
        output.result(_snapshot_table(output, group.snapshots))
        output.result("")


def group_title(group: Group) -> str:
    """What the snapshots of a group have in common, as people read it."""
    parts = []
    if group.host is not None:
        parts.append(f"host {shown(group.host)}")
    if group.paths is not None:
        parts.append(f"paths {', '.join(map(shown, group.paths))}")
    if group.tags is not None:
        parts.append(f"tags {', '.join(map(shown, group.tags)) or '(none)'}")
    return ", ".join(parts)


def _snapshot_table(output: Output, snapshots: Mapping[bytes, Snapshot]) -> list[str]:
    """The table; columns that would be empty are left out."""
    columns = {
        "ID": ("<", [short(identifier) for identifier in snapshots]),
        "Time": ("<", [local_time(each.when) for each in snapshots.values()]),
        "Host": ("<", [shown(each.hostname) for each in snapshots.values()]),
        "Tags": ("<", [",".join(map(shown, each.tags)) for each in snapshots.values()]),
        "Label": ("<", [shown(each.label) for each in snapshots.values()]),
        "Paths": ("<", ["\n".join(map(shown, each.paths)) for each in snapshots.values()]),
        "Files": (">", [format_count(each.summary.files) for each in snapshots.values()]),
        "Size": (">", [format_size(each.summary.size) for each in snapshots.values()]),
    }
    kept = {heading: column for heading, column in columns.items() if any(column[1])}
    rows = list(zip(*(cells for _, cells in kept.values()), strict=True))
    return table(list(kept), rows, "".join(align for align, _ in kept.values()), output.style)


def snapshot_document(identifier: bytes, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as JSON, with restic's names where they mean the same."""
    import msgspec

    paths = [path_fields(path) for path in snapshot.paths]
    raw = {"paths_raw": [each.get("path_raw") for each in paths]} if any("path_raw" in each for each in paths) else {}
    return {
        "id": identifier.hex(),
        "short_id": short(identifier),
        "time": snapshot.time,
        "hostname": snapshot.hostname,
        "username": snapshot.username,
        "paths": [each["path"] for each in paths],
        **raw,
        "tags": snapshot.tags,
        "label": snapshot.label,
        "excludes": snapshot.excludes,
        "tree": snapshot.tree.hex(),
        **({"parent": snapshot.parent.hex()} if snapshot.parent else {}),
        **({"original": snapshot.original.hex()} if snapshot.original else {}),
        "program_version": snapshot.program,
        "summary": msgspec.structs.asdict(snapshot.summary),
    }


def _snapshot_documents(snapshots: Mapping[bytes, Snapshot]) -> list[dict[str, Any]]:
    return [snapshot_document(identifier, snapshot) for identifier, snapshot in snapshots.items()]


def group_key(group: Group) -> dict[str, Any]:
    """What the snapshots of a group have in common, as JSON."""
    return {
        "hostname": group.host,
        "paths": None if group.paths is None else [path_fields(path)["path"] for path in group.paths],
        "tags": None if group.tags is None else list(group.tags),
    }


def _group_documents(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [
        {
            "group_key": group_key(group),
            "snapshots": _snapshot_documents(group.snapshots),
        }
        for group in groups
    ]
