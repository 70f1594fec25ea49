"""`restore`: write a snapshot back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from bfrepo.core.errors import UsageError
from bfrepo.core.units import format_count, format_duration, format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import command, filter_options
from cli.output import Output, path_fields
from cli.render import short, shown
from cli.values import snapshot_filter
from cli.warming import say_archived, warm_up, warm_up_option

if TYPE_CHECKING:
    from bfrepo.operations.restore import RestoreResult
    from bfrepo.operations.restore_remote import RemoteTarget
    from bfrepo.restorer.plan import Overwrite, RestoreOptions


@command(
    "restore",
    short_help="Write a snapshot back.",
    examples=[
        ("backupforge restore latest --target /tmp/restored", "all of the newest snapshot"),
        ("backupforge restore latest:/srv/data --target /srv/data --dry-run", "in place: what would change?"),
        ("backupforge restore 4f3a09c2 --include '*.conf' --target /tmp/restored", "only some files"),
        ("backupforge restore latest --host web1 --verify --target /mnt", "and compare it with the snapshot"),
        ("backupforge restore latest:/srv/data --target ssh://root@shop/srv/data", "to another host, by SSH"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshot", metavar="SNAPSHOT[:PATH]")
@click.option("-t", "--target", required=True, type=click.Path(), metavar="DIR", help="Where to write it.")
@click.option("-i", "--include", multiple=True, metavar="PATTERN", help="Only what matches.")
@click.option("-e", "--exclude", multiple=True, metavar="PATTERN", help="All but what matches.")
@click.option(
    "--overwrite",
    type=click.Choice(["always", "if-changed", "if-newer", "never"]),
    default="if-changed",
    show_default=True,
    help="What to do with files that exist; of those that differ only the differing blocks are written.",
)
@click.option("--delete", is_flag=True, help="Delete from restored directories what is not in the snapshot.")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@click.option("--verify", is_flag=True, help="Read everything back and compare it with the snapshot.")
@click.option("--no-sparse", is_flag=True, help="Write zeros where files have holes.")
@click.option("--no-xattrs", is_flag=True, help="Leave extended attributes away, and with them ACLs.")
@click.option("--numeric-ids", is_flag=True, help="Take owners by number, not by name.")
@click.option("--remote-sudo", is_flag=True, help="On another host, write as root, by sudo.")
@warm_up_option
@filter_options
@pass_app
def run(
    app: App,
    /,
    snapshot: str,
    warm_up_wait: str | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
    **flags: Any,
) -> int:
    """Write a snapshot back.

    SNAPSHOT is an ID prefix, latest, or latest~N; filters apply to latest. With a PATH behind a colon the contents of
    that directory are written directly to the target, or the one file with that name.

    Every byte is checked before it is written. An item that cannot be restored is reported; the rest is restored, and
    the exit code is 3.

    DIR may be ssh://[user@]host[:port]/path, a directory of another host; what differs there is sent whole.

    What the storage keeps in an archive is asked for first and waited for: --dry-run says how much that is.
    """
    chosen = snapshot_filter(hosts, tags, paths)
    app.approach_repository()
    from bfrepo.operations.restore import restore

    target, directory = _target(app, flags)
    options = _options(flags, directory)
    with app.open_repository(ahead=("snapshots", "index", "packs")) as repository, app.working(unit="items") as work:
        waiting = warm_up(app.output, warm_up_wait)
        if target is not None:
            from bfrepo.operations.restore_remote import restore_to_host

            result = restore_to_host(
                repository, snapshot, chosen, target, options, work.display, work.cancelled, waiting
            )
        else:
            result = restore(repository, snapshot, chosen, options, work.display, work.cancelled, waiting)
    say_archived(app.output, result.archived)
    if app.output.as_json:
        app.output.line("summary", _summary_fields(result, dry_run=options.dry_run))
    else:
        _show(app.output, result, options, flags["target"] if target is not None else shown(options.target))
    return INCOMPLETE if work.display.progress.errors else DONE


def _options(flags: dict[str, Any], directory: bytes) -> RestoreOptions:
    from bfrepo.restorer.plan import RestoreOptions, select_all
    from bfrepo.sources.exclude import PathFilter

    patterns = flags["include"] or flags["exclude"]
    return RestoreOptions(
        target=directory,
        overwrite=cast("Overwrite", flags["overwrite"]),
        delete=flags["delete"],
        dry_run=flags["dry_run"],
        verify=flags["verify"],
        sparse=not flags["no_sparse"],
        xattrs=not flags["no_xattrs"],
        numeric_ids=flags["numeric_ids"],
        selection=PathFilter(include=flags["include"], exclude=flags["exclude"]).selects if patterns else select_all,
    )


def _target(app: App, flags: dict[str, Any]) -> tuple[RemoteTarget | None, bytes]:
    """The other host, if that is where it goes, and the directory."""
    from bfrepo.sources.ssh.place import is_remote, parse_remote

    if not is_remote(flags["target"]):
        if flags["remote_sudo"]:
            raise UsageError("--remote-sudo is for other hosts", hint="name one: --target ssh://host/path")
        return None, os.fsencode(flags["target"])
    from bfrepo.operations.restore_remote import RemoteTarget

    host, path = parse_remote(flags["target"])
    if not path:
        raise UsageError(f"{flags['target']} names no path", hint=f"write {host.shown}/ for the root directory")
    return RemoteTarget(host, app.settings.storage.sftp.ssh(), sudo=flags["remote_sudo"]), path


def _show(output: Output, result: RestoreResult, options: RestoreOptions, target: str) -> None:
    summary = result.summary
    files, others, directories = summary.files, summary.others, summary.directories
    what = f"snapshot {short(result.snapshot_id)}{':/' + shown(result.path) if result.path else ''}"
    output.say(
        f"Files:       {format_count(files.created)} created, {format_count(files.updated)} updated, "
        f"{format_count(files.unchanged)} unchanged, {format_count(files.skipped)} skipped"
    )
    output.say(
        f"Directories: {format_count(directories.created)} created, {format_count(directories.updated)} updated"
        f"   Others: {format_count(others.created)} created, {format_count(others.updated)} updated"
    )
    if options.delete:
        output.say(f"Deleted:     {format_count(summary.removed)}")
    verb = "Would write" if options.dry_run else "Wrote"
    output.say(f"{verb} {format_size(summary.bytes_written)} of {format_size(summary.bytes_total)}")
    if options.verify and not options.dry_run:
        output.say(f"Verified {format_size(summary.bytes_verified)}")
    if summary.errors:
        output.say(output.style.yellow(f"{format_count(summary.errors)} items could not be restored as they should"))
    if options.dry_run:
        output.say("dry run: nothing was changed")
    else:
        output.say(output.style.green(f"{what} restored to {target} in {format_duration(result.duration_s)}"))


def _summary_fields(result: RestoreResult, *, dry_run: bool) -> dict[str, Any]:
    """Named as in restic's summary where it means the same."""
    summary, files = result.summary, result.summary.files
    return {
        "snapshot_id": result.snapshot_id.hex(),
        **path_fields(b"/" + result.path),
        "total_files": files.created + files.updated + files.unchanged + files.skipped,
        "files_restored": files.created,
        "files_updated": files.updated,
        "files_unchanged": files.unchanged,
        "files_skipped": files.skipped,
        "files_deleted": summary.removed,
        "total_bytes": summary.bytes_total,
        "bytes_restored": summary.bytes_written,
        "bytes_verified": summary.bytes_verified,
        "seconds_elapsed": round(result.duration_s, 3),
        "errors": summary.errors,
        "dry_run": dry_run,
    }
