"""`umount`: end a mount of snapshots."""

from __future__ import annotations

import click

from cli.app import App, pass_app
from cli.exit_codes import DONE, FAILED, USAGE
from cli.options import command
from cli.output import path_fields
from cli.render import shown


@command(
    "umount",
    short_help="End a mount.",
    examples=[("backupforge umount /mnt/backup", "whether it runs in the background, or has died")],
    exit_codes=(DONE, FAILED, USAGE),
)
@click.argument("directory", metavar="DIR")
@pass_app
def run(app: App, directory: str) -> None:
    """End a mount of snapshots, on DIR, and the process that serves it.

    Fails while somebody uses it: a shell stands in there, or a file is open. If its process has died, the mount goes
    away in any case.
    """
    from mount.mountpoint import absolute_place, unmount

    place = absolute_place(directory)
    unmount(place)
    app.output.document({"unmounted": True, **path_fields(place, "mountpoint")})
    app.output.say(f"{shown(place)} is no longer mounted")
