"""`backup`: make a snapshot."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.units import format_count, format_duration, format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command
from cli.output import Output
from cli.render import short
from cli.values import parse_time, split_tags
from cli.version import PROGRAM

if TYPE_CHECKING:
    from bfrepo.operations.backup import BackupOptions, BackupResult
    from cli.what import What


@command(
    "backup",
    short_help="Make a snapshot of files and directories.",
    examples=[
        ("backupforge backup /srv/data /etc", "the usual case: run it again and only changes are stored"),
        ("backupforge backup --exclude '*.o' --exclude-caches ~", "without what can be made again"),
        ("backupforge backup --dry-run -v /srv/data", "what would be stored?"),
        ("backupforge backup --stdin-filename shop.sql --stdin-from-command -- pg_dump shop", "a program's output"),
        ("backupforge backup ssh://backup@shop/srv/data", "directories of another host, by SSH"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out what matches; see backupforge-exclude(7).")
@click.option("--iexclude", multiple=True, metavar="PATTERN", help="The same, capital or small letters alike.")
@click.option(
    "--exclude-file", multiple=True, type=click.Path(), metavar="FILE", help="Patterns to leave out, one a line."
)
@click.option(
    "--iexclude-file",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="The same, capital or small letters alike.",
)
@click.option("--exclude-caches", is_flag=True, help="Leave out the contents of directories with a CACHEDIR.TAG.")
@click.option(
    "--exclude-if-present",
    multiple=True,
    metavar="NAME[:HEADER]",
    help="Leave out the contents of directories that hold this file.",
)
@click.option("--exclude-larger-than", metavar="SIZE", help="Leave out files larger than this, such as 500M.")
@click.option("--gitignore", is_flag=True, help="Leave out what .gitignore files say.")
@click.option("-x", "--one-file-system", is_flag=True, help="Do not enter other file systems.")
@click.option(
    "--files-from",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Back up the paths and patterns in a file, one a line; - is standard input.",
)
@click.option(
    "--files-from-verbatim",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Paths, one a line, exactly as they stand.",
)
@click.option(
    "--files-from-raw",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Paths that end with a NUL, as of find -print0.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG[,TAG]", help="Tag the snapshot; may be repeated.")
@click.option("--label", default="", metavar="TEXT", help="A remark on the snapshot, for people.")
@click.option("--host", metavar="NAME", help="The host name to record.  [default: this machine's, or the host's]")
@click.option("--time", metavar="TIME", help="The time to record, such as '2026-01-31 12:00:00'.  [default: now]")
@click.option(
    "--parent", metavar="SNAPSHOT", help="Compare with this snapshot.  [default: the latest of the same host and paths]"
)
@click.option("-f", "--force", is_flag=True, help="Read all files, whatever the parent says.")
@click.option("--ignore-ctime", is_flag=True, help="Do not take a changed ctime for a changed file.")
@click.option("--ignore-inode", is_flag=True, help="Do not take another inode number for a changed file.")
@click.option("--with-atime", is_flag=True, help="Keep the times of last access too.")
@click.option("-n", "--dry-run", is_flag=True, help="Store nothing; say what would be stored.")
@click.option("--stdin", is_flag=True, help="Back up what is piped in.")
@click.option(
    "--stdin-from-command",
    is_flag=True,
    help="Back up what the command behind -- prints; if it fails, no snapshot is made.",
)
@click.option(
    "--stdin-filename", default="stdin", show_default=True, metavar="NAME", help="The name it gets in the snapshot."
)
@click.option("--remote-sudo", is_flag=True, help="On another host, list and read files as root, by sudo.")
@click.option("--skip-if-unchanged", is_flag=True, help="Make no snapshot when nothing has changed since the parent.")
@click.option(
    "--read-concurrency",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    metavar="N",
    help="How many files to read at once.",
)
@pass_app
def run(app: App, /, paths: Sequence[str], **flags: Any) -> int:
    """Make a snapshot of files and directories.

    What has not changed since the last snapshot of the same paths is not read again, and nothing is stored twice. A
    file that cannot be read is reported and left out; the rest is backed up, and the exit code is 3.

    A PATH may be ssh://[user@]host[:port]/path: files of another host, where nothing has to be installed.
    """
    app.approach_repository()
    from bfrepo.operations.backup import backup
    from bfrepo.operations.scan import BackgroundScan
    from cli.what import choose_source, ignore_errors, report_to

    settings = app.settings
    what = choose_source(paths, flags, clock=app.clock, environment=settings.environment, ssh=settings.storage.sftp)
    options = _options(what, flags)
    with app.open_repository(ahead=("index", "snapshots")) as repository, app.working() as work, ExitStack() as stack:
        display = work.display
        if what.can_be_scanned and display.wants_totals:
            stack.enter_context(BackgroundScan(lambda: what.open_source(ignore_errors), display.progress))
        on_error = report_to(display, what.paths)
        result = backup(repository, lambda: what.open_source(on_error), options, display, work.cancelled)
    if app.output.as_json:
        app.output.line("summary", summary_fields(result, dry_run=options.dry_run))
    else:
        show_result(app.output, result, dry_run=options.dry_run)
    return INCOMPLETE if result.snapshot.summary.errors else DONE


def _options(what: What, flags: dict[str, Any]) -> BackupOptions:
    from bfrepo.operations.backup import BackupOptions
    from cli.what import username

    return BackupOptions(
        paths=what.paths,
        hostname=flags["host"] or what.host or socket.gethostname(),
        username=username(),
        program=PROGRAM,
        excludes=what.excludes,
        tags=split_tags(flags["tags"]),
        label=flags["label"],
        time=parse_time(flags["time"]) if flags["time"] else None,
        parent=flags["parent"],
        force=flags["force"],
        ignore_ctime=flags["ignore_ctime"],
        ignore_inode=flags["ignore_inode"],
        with_atime=flags["with_atime"],
        dry_run=flags["dry_run"],
        skip_if_unchanged=flags["skip_if_unchanged"],
        readers=flags["read_concurrency"],
        read_once=what.read_once,
    )


def show_result(output: Output, result: BackupResult, *, dry_run: bool) -> None:
    """What a backup did, in words."""
    summary, style = result.snapshot.summary, output.style
    counts = (summary.files_new, summary.files_changed, summary.files_unmodified)
    new, changed, unmodified = map(format_count, counts)
    files, dirs = format_count(summary.files), format_count(summary.dirs)
    added, stored = format_size(summary.data_added), format_size(summary.data_stored)
    size, duration = format_size(summary.size), format_duration(result.duration_s)
    output.say(f"Files:      {new} new, {changed} changed, {unmodified} unmodified")
    output.say(f"{'Would add' if dry_run else 'Added'} to the repository: {added} (stored {stored})")
    output.say(f"Processed {files} files and {dirs} directories, {size}, in {duration}")
    if summary.errors:
        output.say(style.yellow(f"{format_count(summary.errors)} items could not be read and are not in the snapshot"))
    if result.snapshot_id is not None:
        output.say(style.green(f"snapshot {short(result.snapshot_id)} saved"))
    elif dry_run:
        output.say("dry run: nothing was stored")
    else:
        output.say("nothing has changed: no snapshot was made")


def summary_fields(result: BackupResult, *, dry_run: bool) -> dict[str, Any]:
    """Named as in restic's summary where it means the same."""
    summary, snapshot_id = result.snapshot.summary, result.snapshot_id
    return {
        "files_new": summary.files_new,
        "files_changed": summary.files_changed,
        "files_unmodified": summary.files_unmodified,
        "dirs": summary.dirs,
        "others": summary.others,
        "blobs_added": summary.blobs_added,
        "data_added": summary.data_added,
        "data_added_packed": summary.data_stored,
        "total_files_processed": summary.files,
        "total_bytes_processed": summary.size,
        "total_duration": round(result.duration_s, 3),
        "errors": summary.errors,
        "dry_run": dry_run,
        **({"parent": result.parent_id.hex()} if result.parent_id else {}),
        **({"snapshot_id": snapshot_id.hex()} if snapshot_id else {}),
    }
