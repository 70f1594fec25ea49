"""`diff`: what changed between two snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.units import format_count, format_size
from cli.app import App, cycles_rarely_collected, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import json_line, path_fields
from cli.render import Style, short, shown
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from bfrepo.data.difference import Change, OneSided
    from bfrepo.data.node import Node
    from bfrepo.operations.diff import BlobSum, ComparedPlace, Diff

_SIGNS: Final = {"added": "+", "removed": "-", "modified": "M", "metadata": "U", "type": "T"}

_BATCH: Final = 1000
"""Lines written at a time: few writes, and the first lines of a long list come at once."""


@command(
    "diff",
    short_help="Show what changed between two snapshots.",
    examples=[
        ("backupforge diff latest~1 latest", "what did the last backup find?"),
        ("backupforge diff 4f3a09c2:/etc latest:/etc", "one directory"),
        ("backupforge diff --metadata latest~1 latest", "also owners, modes and times"),
        ("backupforge diff --json latest~1 latest | jq -r 'select(.modifier == \"-\").path'", "for a program"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("before", metavar="SNAPSHOT[:PATH]")
@click.argument("after", metavar="SNAPSHOT[:PATH]")
@click.option("--metadata", is_flag=True, help="Show entries of which only metadata changed, and what of it.")
@filter_options
@pass_app
def run(
    app: App,
    before: str,
    after: str,
    metadata: bool,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Show what changed from one snapshot to another.

    SNAPSHOT is an ID prefix, latest, or latest~N; filters apply to latest. With a PATH behind a colon only what is
    below it is compared, and the two may be different.

    \b
    +  added
    -  removed
    M  content modified
    U  only metadata changed (with --metadata)
    T  type changed, as from a file to a directory

    Directories end in a slash; all that is in one that was added or removed is listed. -v shows sizes. Names that would
    confuse a terminal are shown with backslash escapes.
    """
    from bfrepo.operations.diff import diff

    errors: list[bytes] = []

    def on_error(where: bytes, message: str) -> None:
        errors.append(where)
        app.output.notice("error", where, message)

    app.output.streaming = True
    chosen = snapshot_filter(hosts, tags, paths)
    with app.open_repository() as repository, cycles_rarely_collected():
        found = diff(repository, before, after, chosen, metadata=metadata, on_error=on_error)
        app.output.say(f"Comparing {_place(found.before)} with {_place(found.after)}")
        app.output.say()
        _write_changes(app, found)
        if app.output.as_json:
            app.output.line("statistics", _statistics(found))
        else:
            _show_summary(app, found, metadata=metadata)
    return INCOMPLETE if errors else DONE


def _place(place: ComparedPlace) -> str:
    return f"{short(place.snapshot_id)}:/{shown(place.path)}" if place.path else short(place.snapshot_id)


def _write_changes(app: App, found: Diff) -> None:
    output = app.output
    make_line = _json_line if output.as_json else _text_line(output.style, with_sizes=output.verbosity > 0)
    lines = map(make_line, found.changes())
    while batch := list(islice(lines, _BATCH)):
        output.raw("".join(batch))


def _text_line(style: Style, *, with_sizes: bool) -> Callable[[Change], str]:
    paint: dict[str, Callable[[str], str]] = {"added": style.green, "removed": style.red, "type": style.yellow}
    signs = {kind: paint.get(kind, str)(sign) + "    " for kind, sign in _SIGNS.items()}

    def line(change: Change) -> str:
        text = signs[change.kind] + shown(_path(change))
        if with_sizes:
            text += _sizes(change)
        return f"{text}  ({', '.join(change.fields)})\n" if change.fields else f"{text}\n"

    return line


def _path(change: Change) -> bytes:
    """The path, with a slash behind it where it is a directory now, or was before it was removed."""
    node = change.after or change.before
    return change.path + b"/" if node is not None and node.type == "dir" else change.path


def _sizes(change: Change) -> str:
    sizes = [format_size(node.size) for node in _files(change)]
    if change.kind == "metadata" or not sizes:
        return ""
    return f", {' -> '.join(sizes)}"


def _files(change: Change) -> Iterator[Node]:
    return (node for node in (change.before, change.after) if node is not None and node.type == "file")


def _json_line(change: Change) -> str:
    node = change.after or change.before
    fields: dict[str, Any] = {
        "message_type": "change",
        **path_fields(_path(change)),
        "modifier": _SIGNS[change.kind],
        "type": node.type if node is not None else "",
    }
    for key, each in (("size_before", change.before), ("size_after", change.after)):
        if each is not None and each.type == "file":
            fields[key] = each.size
    if change.fields:
        fields["metadata"] = change.fields
    return json_line(fields)


def _statistics(found: Diff) -> dict[str, Any]:
    """Named as in restic's where it means the same."""
    summary = found.summary
    return {
        "source_snapshot": found.before.snapshot_id.hex(),
        "target_snapshot": found.after.snapshot_id.hex(),
        **path_fields(b"/" + found.before.path, "source_path"),
        **path_fields(b"/" + found.after.path, "target_path"),
        "changed_files": summary.changed_files,
        "changed_others": summary.changed_others,
        "changed_metadata": summary.changed_metadata,
        "changed_types": summary.changed_types,
        "changed_size_before": summary.size_before,
        "changed_size_after": summary.size_after,
        "added": _one_sided(summary.added, found.added_blobs()),
        "removed": _one_sided(summary.removed, found.removed_blobs()),
    }


def _one_sided(side: OneSided, blobs: BlobSum) -> dict[str, int]:
    return {
        "files": side.files,
        "dirs": side.dirs,
        "others": side.others,
        "size": side.size,
        "data_blobs": blobs.data_blobs,
        "tree_blobs": blobs.tree_blobs,
        "bytes": blobs.size,
    }


def _show_summary(app: App, found: Diff, *, metadata: bool) -> None:
    summary, say = found.summary, app.output.say
    added, removed = summary.added, summary.removed
    if summary == type(summary)():
        say("nothing changed" if metadata else "nothing changed; metadata was not compared")
        return
    say()
    say(f"Files:       {_counts(added.files, removed.files)}, {format_count(summary.changed_files)} changed")
    say(f"Directories: {_counts(added.dirs, removed.dirs)}")
    say(f"Others:      {_counts(added.others, removed.others)}, {format_count(summary.changed_others)} changed")
    if metadata:
        say(f"Metadata:    {format_count(summary.changed_metadata)} changed")
    if summary.changed_types:
        say(f"Types:       {format_count(summary.changed_types)} changed")
    sizes = f"{format_size(added.size)} added, {format_size(removed.size)} removed"
    if summary.changed_files:
        sizes += f", {format_size(summary.size_before)} changed to {format_size(summary.size_after)}"
    say(f"Content:     {sizes}")
    say(f"Blobs:       {_blobs(found.added_blobs())} added, {_blobs(found.removed_blobs())} removed")


def _counts(added: int, removed: int) -> str:
    return f"{format_count(added)} added, {format_count(removed)} removed"


def _blobs(blobs: BlobSum) -> str:
    return f"{format_count(blobs.data_blobs + blobs.tree_blobs)} ({format_size(blobs.size)})"
