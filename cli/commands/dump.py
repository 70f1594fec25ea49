"""`dump`: a file, or a directory as an archive, out of a snapshot."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import format_count, format_duration, format_size
from cli.app import App, pass_app
from cli.exit_codes import REPOSITORY_CODES
from cli.options import command, filter_options
from cli.output import Output, path_fields
from cli.render import short, shown
from cli.streams import not_to_a_terminal, open_output
from cli.values import snapshot_filter
from cli.warming import warm_up, warm_up_option

if TYPE_CHECKING:
    from bfrepo.exporter.sinks import Sink
    from bfrepo.operations.dump import Archive, DumpedPlace, DumpResult

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
"""What a terminal would act on; line breaks, tabs and form feeds are text."""


@command(
    "dump",
    short_help="Write a file, or a directory as tar or zip, to standard output.",
    examples=[
        ("backupforge dump latest /etc/hosts", "look at a file"),
        ("backupforge dump latest:/srv/data | ssh web1 tar -xpC /srv/data", "a directory, to another machine"),
        ("backupforge dump latest /srv/data --archive zip --output data.zip", "a directory as a file"),
        ("backupforge dump latest /db.sql.zst | zstd -d | psql", "straight to where it is needed"),
    ],
    exit_codes=REPOSITORY_CODES,
)
@click.argument("snapshot", metavar="SNAPSHOT[:PATH]")
@click.argument("path", required=False, metavar="[PATH]")
@click.option(
    "--archive",
    type=click.Choice(["tar", "zip"]),
    help="Write an archive of this kind. A directory is a tar archive if nothing is said, a file just its content.",
)
@click.option(
    "-o",
    "--output",
    "output_file",
    type=click.Path(),
    metavar="FILE",
    help="Write to a file, readable by its owner alone, which appears when it is complete.",
)
@warm_up_option
@filter_options
@pass_app
def run(
    app: App,
    snapshot: str,
    path: str | None,
    archive: Archive | None,
    output_file: str | None,
    warm_up_wait: str | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Write a file, or a directory as an archive, to standard output.

    SNAPSHOT is an ID prefix, latest, or latest~N; filters apply to latest. Names in an archive start in the directory
    that is written.

    A tar archive has all that a snapshot has, but for sockets and inode flags: extract it with 'tar -xp', as root and
    with --xattrs --xattrs-include='*' --acls for everything. A zip archive has files, directories and symlinks, with
    modes and times.

    Every byte is checked before it is written. At the first that cannot be had the command fails, and an archive ends
    in such a way that whoever reads it fails as well.

    What the storage keeps in an archive is asked for and waited for before anything is written.
    """
    from bfrepo.data.selection import split_path
    from bfrepo.operations.dump import archive_for, dump, find_dump

    name, below = split_path(snapshot)
    if path is not None:
        if below:
            raise UsageError("give the path either behind the colon or as an argument")
        below = os.fsencode(path).strip(b"/")
    chosen = snapshot_filter(hosts, tags, paths)
    waiting = warm_up(app.output, warm_up_wait)
    if output_file is None:  # whoever reads the pipe may write to the same terminal
        app.settings = replace(app.settings, progress=False)
    begun = app.clock.monotonic()
    with app.open_repository() as repository, app.working(unit="items", streaming=False) as work:
        place = find_dump(repository, name, below, chosen, work.display)
        kind = archive_for(place.node, archive)
        with _open_sink(app.output, output_file, kind) as sink:
            result = dump(repository, place, kind, sink, work.display, work.cancelled, waiting)
    for what, count in result.lost.items():
        app.output.notice("warning", b"", f"a {kind} archive keeps no {what} ({format_count(count)} affected)")
    if output_file is not None:
        _tell(app, place, result, output_file, app.clock.monotonic() - begun)
    return 0


@contextmanager
def _open_sink(output: Output, file: str | None, kind: Archive | None) -> Iterator[Sink]:
    """The file, or standard output. Raises UsageError where that is a terminal and an archive would go to it."""
    if file is None and kind is None and sys.stdout.isatty():
        yield _TerminalSink(output)
    else:
        with open_output(file, f"a {kind} archive") as sink:
            yield sink


class _TerminalSink:
    """Shows text. Raises UsageError for anything else, as a terminal would act on it."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def write(self, data: Buffer) -> None:
        """See Sink."""
        self._show(bytes(data), last=False)

    def zeros(self, count: int) -> None:
        """See Sink."""
        if count:
            raise not_to_a_terminal("this file")

    def flush(self) -> None:
        """See Sink."""
        self._show(b"", last=True)

    def _show(self, data: bytes, *, last: bool) -> None:
        try:
            text = self._decoder.decode(data, last)
        except UnicodeDecodeError:
            raise not_to_a_terminal("this file") from None
        if _CONTROL.search(text):
            raise not_to_a_terminal("this file")
        self._output.raw(text)


def _tell(app: App, place: DumpedPlace, result: DumpResult, file: str, duration_s: float) -> None:
    if app.output.as_json:
        app.output.line("summary", _summary(place, result, file, duration_s))
        return
    what = f"{short(place.snapshot_id)}{':/' + shown(place.path) if place.path else ''}"
    app.output.say(
        f"{what} written to {shown(file)} in {format_duration(duration_s)}: {format_count(result.files)} files, "
        f"{format_count(result.dirs)} directories, {format_count(result.others)} others, {format_size(result.size)}"
    )


def _summary(place: DumpedPlace, result: DumpResult, file: str, duration_s: float) -> dict[str, Any]:
    return {
        "snapshot_id": place.snapshot_id.hex(),
        **path_fields(b"/" + place.path),
        **path_fields(os.fsencode(file), "output"),
        **asdict(result),
        "seconds_elapsed": round(duration_s, 3),
    }
