"""`vma`: archives of virtual machines, as Proxmox VE writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

from bfrepo.core.errors import InvalidValue
from bfrepo.core.units import format_count, format_size
from cli.app import App, pass_app
from cli.exit_codes import DONE, FAILED, INTERRUPTED, USAGE
from cli.options import Group
from cli.render import local_time, shown, table
from cli.streams import open_input, open_output

if TYPE_CHECKING:
    from bfrepo.formats.vma import VmaHeader

_CODES: Final = (DONE, FAILED, USAGE, INTERRUPTED)

run = Group(
    "vma",
    help="""Look into, unpack and make archives of virtual machines (VMA), as Proxmox VE writes them.

    FILE is an archive that is not compressed, or - for standard input, which takes one from a program that decompresses
    it: zstd -dc vm.vma.zst | backupforge vma list -""",
    short_help="Unpack and make archives of virtual machines (VMA).",
)


@run.command(
    "list",
    short_help="List what is in an archive.",
    examples=[
        ("backupforge vma list vzdump-qemu-100.vma", "which disks, and how large?"),
        ("zstd -dc vzdump-qemu-100.vma.zst | backupforge vma list -", "of one that is compressed"),
    ],
    exit_codes=_CODES,
)
@click.argument("file", metavar="FILE|-")
@pass_app
def list_command(app: App, file: str) -> None:
    """List the configuration files and disks of an archive. Only its beginning is read."""
    from bfrepo.operations.vma import read_vma_header

    with open_input(file) as stream:
        header = read_vma_header(stream)
    app.output.document(_fields(header))
    rows = [("config", shown(name), format_size(len(content))) for name, content in header.configs]
    rows += [("disk", shown(device.name), format_size(device.size)) for device in header.devices]
    app.output.result(table(("Kind", "Name", "Size"), rows, "<<>", app.output.style))
    app.output.say(f"made {local_time(datetime.fromtimestamp(header.created_s, UTC))}")


@run.command(
    "extract",
    short_help="Unpack an archive.",
    examples=[
        (
            "backupforge vma extract vzdump-qemu-100.vma --target vm100",
            "its configuration, and each disk as drive-X.raw",
        ),
        ("zstd -dc vzdump-qemu-100.vma.zst | backupforge vma extract - --target vm100", "of one that is compressed"),
        ("backupforge vma extract vm.vma --target vm --disk drive-scsi1", "one of its disks"),
    ],
    exit_codes=_CODES,
)
@click.argument("file", metavar="FILE|-")
@click.option("-t", "--target", required=True, type=click.Path(), metavar="DIR", help="Where to; made if need be.")
@click.option("--disk", "disks", multiple=True, metavar="NAME", help="Only this disk; may be repeated.")
@pass_app
def extract_command(app: App, file: str, target: str, disks: Sequence[str]) -> None:
    """Write the configuration files of an archive and its disks as raw images, which keep their holes.

    Every rule of the format is checked. Files get their names when the whole archive was read and is right; what is
    left of one that is damaged ends in .partial.
    """
    from bfrepo.operations.vma import extract_vma

    with app.working(unit="disks", streaming=False) as work, open_input(file) as stream:
        result = extract_vma(stream, target, disks, work.display, work.cancelled)
    app.output.document({"files": list(result.files), "size": result.size, "stored": result.stored})
    app.output.say(
        f"{format_count(len(result.files))} files in {shown(target)}: disks of {format_size(result.size)}; "
        f"the archive had {format_size(result.stored)} of blocks that are not zeros"
    )


@run.command(
    "create",
    short_help="Make an archive of raw images.",
    examples=[
        (
            "backupforge vma create --config qemu-server.conf --disk drive-scsi0=drive-scsi0.raw -o vm.vma",
            "of what extract has written",
        ),
        ("backupforge vma create --config qemu-server.conf --disk drive-scsi0=/dev/vg/vm | qmrestore - 100", "a pipe"),
    ],
    exit_codes=_CODES,
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="[NAME=]FILE",
    help="A configuration file, such as qemu-server.conf; may be repeated.",
)
@click.option(
    "--disk", "disks", multiple=True, required=True, metavar="NAME=PATH", help="A raw image or block device; the same."
)
@click.option(
    "-o", "--output", "output_file", type=click.Path(), metavar="FILE", help="Write to a file.  [default: stdout]"
)
@pass_app
def create_command(app: App, configs: Sequence[str], disks: Sequence[str], output_file: str | None) -> None:
    """Make an archive that qmrestore takes: a configuration file says where each disk goes.

    It has a line such as #qmdump#map:scsi0:drive-scsi0:local-lvm:raw: for each, as one that was extracted has.
    Holes of the images are not read.
    """
    from bfrepo.operations.vma import create_vma

    pairs = (_named(disks, "--disk"), _named(configs, "--config", basename=True))
    created_s = int(app.clock.now().timestamp())
    with app.working(unit="disks", streaming=False) as work, open_output(output_file, "an archive") as sink:
        header = create_vma(sink, pairs[1], pairs[0], work.display, work.cancelled, created_s=created_s)
    if output_file is not None:
        app.output.document({**_fields(header), "output": output_file})
        size = sum(device.size for device in header.devices)
        app.output.say(f"disks: {format_count(len(header.devices))}, {format_size(size)}, in {shown(output_file)}")


def _named(arguments: Sequence[str], option: str, *, basename: bool = False) -> dict[str, str]:
    """Paths by names, from NAME=PATH; or, where that is allowed, from a path alone."""
    found: dict[str, str] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals and basename:
            name, path = os.path.basename(argument), argument
        if not name or not path or name in found:
            raise InvalidValue(f"{option} {argument} is not NAME=PATH with a name of its own")
        found[name] = path
    return found


def _fields(header: VmaHeader) -> dict[str, Any]:
    return {
        "created": datetime.fromtimestamp(header.created_s, UTC).isoformat(),
        "configs": [{"name": name, "size": len(content)} for name, content in header.configs],
        "disks": [{"name": device.name, "size": device.size} for device in header.devices],
    }
