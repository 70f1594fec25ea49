"""`import`: snapshots of what other programs have made."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from bfrepo.core.units import format_count, format_duration, format_size
from cli.app import App, pass_app
from cli.commands.backup import show_result, summary_fields
from cli.exit_codes import DONE, INCOMPLETE, WORK_CODES
from cli.options import Group, filter_options, other_password_options
from cli.output import Output, path_fields
from cli.render import local_time, short, shown
from cli.streams import open_input
from cli.values import parse_time, snapshot_filter, split_tags
from cli.version import PROGRAM

if TYPE_CHECKING:
    from bfrepo.data.selection import SnapshotFilter
    from bfrepo.data.snapshot import Snapshot
    from bfrepo.operations.import_restic import ImportResult


class ImportGroup(Group):
    """Takes the place of a repository together with what kind it is, as in restic:/srv/restic."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """restic:URL is the command restic with the argument URL."""
        kind, colon, place = args[0].partition(":")
        return super().resolve_command(ctx, [kind, place, *args[1:]] if colon and kind in self.commands else args)


run = ImportGroup(
    "import",
    help="Make snapshots of what other programs have made: a tar archive, or a repository of restic.",
    short_help="Make snapshots of a tar archive or a restic repository.",
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
        read_once=True,
    )
    with app.open_repository() as repository, app.working() as work, open_input(file) as stream:
        display = work.display
        source = TarSource(stream, above, display.problem, display.warn)
        result = backup(repository, lambda: source, options, display, work.cancelled)
    if app.output.as_json:
        app.output.line("summary", summary_fields(result, dry_run=dry_run))
    else:
        show_result(app.output, result, dry_run=dry_run)
    return INCOMPLETE if result.snapshot.summary.errors else DONE


@run.command(
    "restic",
    short_help="Import the snapshots of a restic repository.",
    examples=[
        ("backupforge import restic:/srv/restic", "all snapshots that are not here yet"),
        ("backupforge import restic:s3:https://s3.example.com/bucket/restic --host web1", "those of a host"),
        ("backupforge import restic:rest:https://user:secret@backup.example.com/web1/ latest", "the newest one"),
        ("backupforge import restic:sftp:nas:/restic --dry-run", "what would be imported?"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("place", metavar="URL")
@click.argument("snapshots", nargs=-1, metavar="[SNAPSHOT...]")
@other_password_options("from")
@click.option("-n", "--dry-run", is_flag=True, help="Import nothing; say what would be imported.")
@filter_options
@pass_app
def restic_command(
    app: App,
    place: str,
    snapshots: Sequence[str],
    from_password_file: str | None,
    from_password_command: str | None,
    dry_run: bool,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Import the snapshots of a restic repository, all of them or those that are named.

    Each keeps its time, host, user, paths and tags, and the ID that it had as "original". The repository is read and
    not changed: it needs no lock, but do not prune it meanwhile. What was imported before is not imported again; an
    import that is interrupted keeps what it stored: run it again.

    A snapshot of which something cannot be read is not imported; what is wrong is reported, the others are imported,
    and the exit code is 3.
    """
    from bfrepo.operations.import_restic import import_restic, imported_before, restic_snapshots
    from bfrepo.restic.repository import open_restic

    password = app.settings.other_password(from_password_file, from_password_command)
    chosen = snapshot_filter(hosts, tags, paths)
    with app.open_repository() as target, closing(app.open_storage(place, of_restic=True)) as backend:
        source = open_restic(backend, lambda: password.read(f"password for {shown(backend.location)}: "))
        with app.working(unit="snapshots") as work:
            display = work.display
            wanted = _choose(restic_snapshots(source, display), snapshots, chosen)
            if dry_run:
                present = imported_before(target, display)
                _show_plan(app.output, {old: each for old, each in wanted.items() if old not in present}, len(wanted))
            else:

                def on_imported(old: bytes, new: bytes) -> None:
                    _show_imported(app.output, wanted[old], old, new)

                result = import_restic(source, target, wanted, display, work.cancelled, on_imported)
        if not dry_run:
            _show_result(app.output, result)
    return INCOMPLETE if work.display.progress.errors else DONE


def _choose(snapshots: dict[bytes, Snapshot], names: Sequence[str], chosen: SnapshotFilter) -> dict[bytes, Snapshot]:
    from bfrepo.data.selection import find_snapshot

    if not names:
        return chosen.apply(snapshots)
    wanted = {find_snapshot(name, snapshots, chosen) for name in names}
    return {identifier: snapshot for identifier, snapshot in snapshots.items() if identifier in wanted}


def _show_imported(output: Output, snapshot: Snapshot, old: bytes, new: bytes) -> None:
    output.line("imported", {"original_id": old.hex(), "snapshot_id": new.hex(), **_fields(snapshot)})
    if not output.as_json:
        output.say(f"imported {_text(old, snapshot)} as {short(new)}")


def _show_plan(output: Output, missing: dict[bytes, Snapshot], wanted: int) -> None:
    for identifier, snapshot in missing.items():
        output.line("would_import", {"original_id": identifier.hex(), **_fields(snapshot)})
        output.result(f"would import {_text(identifier, snapshot)}")
    counts = {"snapshots_to_import": len(missing), "snapshots_present": wanted - len(missing)}
    output.line("summary", {**counts, "dry_run": True})
    output.say(f"snapshots to import: {len(missing)}, here already: {wanted - len(missing)}")
    output.say("dry run: nothing was imported")


def _show_result(output: Output, result: ImportResult) -> None:
    stored = result.stored
    output.line(
        "summary",
        {
            "snapshots_imported": len(result.imported),
            "snapshots_present": len(result.present),
            "snapshots_failed": [identifier.hex() for identifier in result.failed],
            "bytes_read": result.read,
            "data_added": stored.bytes_new,
            "data_added_packed": stored.bytes_stored,
            "seconds_elapsed": round(result.duration_s, 3),
            "dry_run": False,
        },
    )
    failed = f", could not be imported: {format_count(len(result.failed))}" if result.failed else ""
    output.say(
        f"snapshots imported: {format_count(len(result.imported))}, here already: {format_count(len(result.present))}"
        f"{output.style.yellow(failed)}"
    )
    output.say(
        f"Read {format_size(result.read)}; added {format_size(stored.bytes_new)} "
        f"(stored {format_size(stored.bytes_stored)}) in {format_duration(result.duration_s)}"
    )


def _fields(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "time": snapshot.time,
        "hostname": snapshot.hostname,
        "paths": [path_fields(path)["path"] for path in snapshot.paths],
    }


def _text(identifier: bytes, snapshot: Snapshot) -> str:
    paths = ", ".join(map(shown, snapshot.paths))
    return f"snapshot {short(identifier)} of {local_time(snapshot.when)}, {shown(snapshot.hostname)}: {paths}"
