"""`export`: snapshots for other programs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from cli.commands import dump
from cli.exit_codes import REPOSITORY_CODES
from cli.options import Group, filter_options
from cli.warming import warm_up_option

run = Group(
    "export",
    help="Write snapshots in a form that other programs read: a tar archive.",
    short_help="Write a snapshot as a tar archive.",
)


@run.command(
    "tar",
    short_help="Write a snapshot as a tar archive.",
    examples=[
        ("backupforge export tar latest -o all.tar", "all of a snapshot, as a file"),
        ("backupforge export tar latest:/srv/data | ssh web1 tar -xpC /srv/data", "a directory, to another machine"),
    ],
    exit_codes=REPOSITORY_CODES,
)
@click.argument("snapshot", metavar="SNAPSHOT[:PATH]")
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
@click.pass_context
def tar_command(
    context: click.Context,
    /,
    snapshot: str,
    output_file: str | None,
    warm_up_wait: str | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Write a snapshot, or a directory in it, as a tar archive: what 'backupforge dump --archive tar' writes.

    Names in the archive start in the directory that is written. It has all that a snapshot has, but for sockets and
    inode flags; 'backupforge import tar' reads it back.
    """
    status: int = context.invoke(
        dump.run,
        snapshot=snapshot,
        path=None,
        archive="tar",
        output_file=output_file,
        warm_up_wait=warm_up_wait,
        hosts=hosts,
        tags=tags,
        paths=paths,
    )
    return status
