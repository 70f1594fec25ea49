"""`init`: make a repository."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import click

from bfrepo.core.errors import UsageError
from cli.app import App, pass_app
from cli.exit_codes import REPOSITORY_CODES
from cli.options import command, other_password_options
from cli.render import shown

if TYPE_CHECKING:
    from bfrepo.repository.config import Config


@command(
    "init",
    short_help="Make a new repository.",
    examples=[
        ("backupforge init -r /srv/backup", "a repository in a local directory; asks for a password"),
        ("backupforge init -r /srv/backup --password-file ~/.backup-password", "without asking"),
        (
            "backupforge init -r /mnt/disk/backup --copy-chunker-from /srv/backup",
            "one that can share chunks with another",
        ),
    ],
    exit_codes=REPOSITORY_CODES,
)
@click.option(
    "--encryption",
    type=click.Choice(["aes-256-gcm", "none"]),
    default="aes-256-gcm",
    show_default=True,
    help="How to encrypt. It cannot be changed later.",
)
@click.option(
    "--compression", default="zstd:3", show_default=True, metavar="KIND", help="zstd:1 to zstd:22, lz4 or none."
)
@click.option(
    "--chunker", metavar="KIND", help="fastcdc[:MIN:AVERAGE:MAX] or fixed:SIZE.  [default: fastcdc:256K:1M:4M]"
)
@click.option("--pack-size", default="64M", show_default=True, metavar="SIZE", help="Size of stored files, 4M to 512M.")
@click.option(
    "--kdf",
    type=click.Choice(["default", "strong"]),
    default="default",
    show_default=True,
    help="How hard it is to try passwords; strong takes 256 MiB of memory and six times as long.",
)
@click.option("--label", default="", metavar="TEXT", help="What to call the password in 'key list'.")
@click.option("--copy-chunker-from", metavar="URL", help="Cut files at the same places as this repository does.")
@other_password_options("from")
@pass_app
def run(
    app: App,
    encryption: str,
    compression: str,
    chunker: str | None,
    pack_size: str,
    kdf: str,
    label: str,
    copy_chunker_from: str | None,
    from_password_file: str | None,
    from_password_command: str | None,
) -> None:
    """Make a new repository.

    The place is made if it is missing, and must be empty if it is there. A repository is encrypted by a key of its own,
    which a password opens: without the password the data is lost.
    """
    from bfrepo.chunker.base import ChunkerParams
    from bfrepo.compression import Compression
    from bfrepo.core.units import parse_size
    from bfrepo.operations.init import InitOptions, init

    if chunker is not None and copy_chunker_from is not None:
        raise UsageError("--chunker and --copy-chunker-from exclude each other")
    password = app.settings.password
    if encryption == "none" and password.given:
        raise UsageError(
            "a password was given, but without encryption nothing asks for it",
            hint="leave out --encryption none, or give no password, now and later",
        )
    like = None
    if copy_chunker_from is not None:
        other = app.settings.other_password(from_password_file, from_password_command)
        with app.open_repository(copy_chunker_from, other) as repository:
            like = repository.config
    backend = app.open_backend()
    options = InitOptions(
        encryption="none" if encryption == "none" else "aes-256-gcm",
        chunker=ChunkerParams.parse(chunker) if chunker is not None else None,
        compression=Compression.parse(compression),
        pack_size=parse_size(pack_size),
        kdf="strong" if kdf == "strong" else "default",
        like=like,
        label=label,
        host=socket.gethostname(),
    )
    config = init(
        backend,
        options,
        app.clock,
        lambda: password.read_new(f"new password for {shown(backend.location)}: "),
        cache_dir=app.settings.cache_dir,
    )
    backend.close()
    _show(app, config, backend.location)


def _show(app: App, config: Config, location: str) -> None:
    output = app.output
    output.document(
        {
            "message_type": "initialized",
            "id": config.repository_id.hex(),
            "repository": location,
            "encryption": config.encryption,
            "chunker": config.chunker.format(),
            "compression": str(config.compression),
            "pack_size": config.pack_size,
        }
    )
    output.say(f"made repository {config.repository_id.hex()[:8]} in {shown(location)}")
    output.say(f"encryption {config.encryption}, chunker {config.chunker.format()}, compression {config.compression}")
    if config.encryption == "none":
        output.say("it is not encrypted: whoever can read the files there can read the backups")
    else:
        output.say()
        output.say(
            output.style.yellow(
                "Without the password the data is lost. Keep it where you find it when this machine is gone."
            )
        )
