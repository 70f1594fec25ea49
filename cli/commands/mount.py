"""`mount`: snapshots as directories."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.units import parse_size
from cli.app import App, pass_app
from cli.background import in_background
from cli.exit_codes import DONE, REPOSITORY_CODES
from cli.options import command, filter_options
from cli.output import path_fields
from cli.render import shown
from cli.values import snapshot_filter

if TYPE_CHECKING:
    from mount.options import MountOptions


@command(
    "mount",
    short_help="Show snapshots as directories.",
    examples=[
        ("backupforge mount /mnt/backup", "until Ctrl-C, or 'backupforge umount /mnt/backup'"),
        ("backupforge mount /mnt/backup --background", "and use the shell meanwhile"),
        ("diff -r --no-dereference /mnt/backup/latest/etc /etc", "what has changed since?"),
        ("backupforge mount ~/backup --host web1 --owner-me", "another machine's files, as if they were mine"),
        ("sudo backupforge mount /mnt/backup --allow-other", "for all users, within the rights of the files"),
    ],
    exit_codes=REPOSITORY_CODES,
)
@click.argument("directory", metavar="DIR")
@click.option(
    "--background",
    is_flag=True,
    help="Return when the snapshots are there. What goes wrong later is only in the --log-file.",
)
@click.option("--allow-other", is_flag=True, help="Let other users in, within the rights that the files have.")
@click.option("--owner-me", is_flag=True, help="Show all files as belonging to who mounts them.")
@click.option(
    "--cache-size",
    metavar="SIZE",
    default="256M",
    show_default=True,
    help="How much of what was read to keep in memory.",
)
@click.option(
    "--path-template",
    "path_templates",
    multiple=True,
    metavar="TEMPLATE",
    help="Where each snapshot is, in place of the usual directories; may be repeated. %T stands for its time, %h host, "
    "%u user, %t its tags, %l label, %i ID, %I all of it.",
)
@filter_options
@pass_app
def run(
    app: App,
    directory: str,
    background: bool,
    allow_other: bool,
    owner_me: bool,
    cache_size: str,
    path_templates: Sequence[str],
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Show snapshots as directories below DIR, an empty directory. Needs FUSE: 'backupforge doctor' says what is there.

    Below snapshots/ each has a directory with its time as name, and latest is the newest; ids/, hosts/ and tags/ lead
    to the same. versions/ has every version of a file under its path. New snapshots appear within seconds. Nothing can
    be changed in there. A file that is damaged cannot be read and is named in a message, all others can.

    Ctrl-C, SIGTERM and 'backupforge umount DIR' end it.
    """
    if not background:  # a process that goes on by itself has to ask by itself
        app.approach_repository()
    _check_packages()
    from mount.mountpoint import absolute_place, check_mountpoint
    from mount.options import MountOptions

    place = absolute_place(directory)
    check_mountpoint(place)
    options = MountOptions(
        cache_size=parse_size(cache_size),
        path_templates=tuple(path_templates),
        owner_me=owner_me,
        snapshots=snapshot_filter(hosts, tags, paths),
        allow_other=allow_other,
    )
    app.output.streaming = True
    app.output.outlives_readers = True

    if background:
        return in_background(lambda under_way: _mount(app, place, options, under_way))
    _mount(app, place, options, lambda: None)
    return DONE


def _check_packages() -> None:
    """Before anybody types a password. Raises BackupForgeError."""
    try:
        import mount.main  # noqa: F401
    except ModuleNotFoundError as error:
        raise BackupForgeError(
            f"mounting needs the package {error.name}, which is not installed", hint="pip install 'backupforge[mount]'"
        ) from error
    except ImportError as error:  # pyfuse3 is there, and what it needs is not
        raise BackupForgeError(f"libfuse does not load: {error}", hint="install the package fuse3") from error


def _mount(app: App, place: bytes, options: MountOptions, under_way: Callable[[], None]) -> None:
    from mount.main import run as run_mount
    from mount.main import share_freed_memory

    def on_ready() -> None:
        app.output.line("mounted", path_fields(place, "mountpoint"))
        end = f"backupforge umount {shlex.quote(os.fsdecode(place))}"
        app.output.say(f"snapshots are below {shown(place)}; '{shown(end)}' ends that")
        under_way()

    share_freed_memory()
    with app.open_repository(ahead=("snapshots", "index")) as repository:
        run_mount(repository, place, options, on_ready=on_ready, log=app.output.notice)
