"""`import`: snapshots of what other programs have made."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from bfrepo.core.errors import SourceError, UsageError
from cli.app import App, pass_app
from cli.commands.backup import show_result, summary_fields
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import Group
from cli.render import shown
from cli.values import parse_time, split_tags
from cli.version import PROGRAM

if TYPE_CHECKING:
    from bfrepo.formats.tar_reader import ByteStream

run = Group(
    "import",
    help="Make snapshots of what other programs have made: a tar archive.",
    short_help="Make snapshots of a tar archive.",
)


@run.command(
    "tar",
    short_help="Make a snapshot of a tar archive.",
    examples=[
        ("backupforge import tar web1.tar --host web1", "of a file"),
        ("zstd -dc web1.tar.zst | backupforge import tar -", "of one that is compressed"),
        ("ssh web1 tar -C / --xattrs --acls -cpf - srv | backupforge import tar - --host web1", "of another machine"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("file", metavar="FILE|-")
@click.option("--at", default="/", show_default=True, metavar="PATH", help="Where the archive goes in the snapshot.")
@click.option("--tag", "tags", multiple=True, metavar="TAG[,TAG]", help="Tag the snapshot; may be repeated.")
@click.option("--label", default="", metavar="TEXT", help="A remark on the snapshot, for people.")
@click.option("--host", metavar="NAME", help="The host name to record.  [default: this machine's]")
@click.option("--time", metavar="TIME", help="The time to record, such as '2026-01-31 12:00:00'.  [default: now]")
@click.option("-n", "--dry-run", is_flag=True, help="Store nothing; say what would be stored.")
@pass_app
def tar_command(
    app: App,
    file: str,
    at: str,
    tags: Sequence[str],
    label: str,
    host: str | None,
    time: str | None,
    dry_run: bool,
) -> int:
    """Make a snapshot of a tar archive, with all that it has: owners, times, links, holes, attributes and ACLs.

    The archive is read once, from front to back, and may be a pipe; it must not be compressed. A member whose name
    leads out of the archive ("..") is reported and left out, and the exit code is 3. Of an archive that is damaged or
    ends too early no snapshot is made.
    """
    from bfrepo.operations.backup import BackupOptions, backup
    from bfrepo.sources.tar import TarSource, names_of
    from cli.what import username

    above = names_of(os.fsencode(at))
    options = BackupOptions(
        paths=(b"/" + b"/".join(above),),
        hostname=host or socket.gethostname(),
        username=username(),
        program=PROGRAM,
        tags=split_tags(tags),
        label=label,
        time=parse_time(time) if time else None,
        force=True,
        dry_run=dry_run,
    )
    with app.open_repository() as repository, app.working() as work, _opened(file) as stream:
        display = work.display
        source = TarSource(stream, above, display.problem, display.warn)
        result = backup(repository, lambda: source, options, display, work.cancelled)
    if app.output.as_json:
        app.output.line("summary", summary_fields(result, dry_run=dry_run))
    else:
        show_result(app.output, result, dry_run=dry_run)
    return INCOMPLETE if result.snapshot.summary.errors else DONE


@contextmanager
def _opened(file: str) -> Iterator[ByteStream]:
    if file == "-":
        if sys.stdin.isatty():
            raise UsageError("there is nothing to read on a terminal", hint="pipe an archive in, or name a file")
        with open(0, "rb", buffering=0, closefd=False) as stream:
            yield stream
        return
    try:
        stream = open(file, "rb", buffering=0)  # noqa: SIM115 (an error while it is read is no failure to open it)
    except OSError as error:
        raise SourceError(f"cannot read {shown(file)}: {error.strerror}") from error
    with stream:
        yield stream
