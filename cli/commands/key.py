"""`key`: the passwords of a repository."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import click

from cli.app import App, pass_app
from cli.exit_codes import DONE, INCOMPLETE, REPOSITORY_CODES, WORK_CODES
from cli.options import Group
from cli.passwords import PasswordSource
from cli.render import shown, table

if TYPE_CHECKING:
    from bfrepo.operations.keys import KeyInfo
    from bfrepo.repository.repository import KdfProfile

run = Group(
    "key",
    help="""List, add, remove and change passwords.

    Each password opens all of the repository. Removing one does not take back what its owner has seen.""",
    short_help="List, add, remove and change passwords.",
)

_KDF_HELP = "How hard it is to try passwords; strong takes 256 MiB of memory and six times as long."
_NEW_FILE = "Read the new password from the first line of a file instead of asking for it."


@run.command(
    "list",
    short_help="List the passwords.",
    examples=[("backupforge key list", "who can open the repository?")],
    exit_codes=WORK_CODES,
)
@pass_app
def list_command(app: App) -> int:
    """List the passwords by label, host and time; the one in use has a star."""
    from bfrepo.operations.keys import list_keys

    with app.open_repository() as repository:
        keys = list_keys(repository)
    app.output.document([_fields(key) for key in keys])
    for key in keys:
        if key.problem is not None:
            app.output.notice("error", b"", key.problem)
    if not keys:
        app.output.say("the repository is not encrypted, so it has no passwords")
    else:
        rows = [
            (
                f"{'*' if key.current else ' '}{key.name[:8]}",
                shown(key.label),
                shown(key.host),
                shown(key.created[:19].replace("T", " ")),
            )
            for key in keys
        ]
        app.output.result(table((" ID", "Label", "Host", "Made"), rows, "<<<<", app.output.style))
    return INCOMPLETE if any(key.problem for key in keys) else DONE


@run.command(
    "add",
    short_help="Add a password.",
    examples=[
        ("backupforge key add --label laptop", "asks for the new password twice"),
        ("backupforge key add --new-password-file ~/second-password", "without asking"),
    ],
    exit_codes=REPOSITORY_CODES,
)
@click.option("--label", default="", metavar="TEXT", help="What to call it.")
@click.option("--kdf", type=click.Choice(["default", "strong"]), default="default", show_default=True, help=_KDF_HELP)
@click.option("--new-password-file", type=click.Path(), metavar="FILE", help=_NEW_FILE)
@pass_app
def add_command(app: App, label: str, kdf: KdfProfile, new_password_file: str | None) -> None:
    """Add a password that opens the repository as well."""
    from bfrepo.operations.keys import add_key, require_encryption

    with app.open_repository() as repository:
        require_encryption(repository)
        password = PasswordSource(file=new_password_file).read_new(f"new password for {shown(repository.location)}: ")
        name = add_key(repository, password, label=label, host=socket.gethostname(), kdf=kdf)
    app.output.document({"message_type": "key_added", "id": name})
    app.output.say(f"added key {name[:8]}")


@run.command(
    "remove",
    short_help="Remove a password.",
    examples=[("backupforge key remove 9b21d0e7", "by its ID from 'key list'")],
    exit_codes=REPOSITORY_CODES,
)
@click.argument("key", metavar="ID")
@pass_app
def remove_command(app: App, key: str) -> None:
    """Remove a password; never the last one, and never the one in use."""
    from bfrepo.operations.keys import remove_key

    with app.open_repository() as repository:
        name = remove_key(repository, key)
    app.output.document({"message_type": "key_removed", "id": name})
    app.output.say(f"removed key {name[:8]}")


@run.command(
    "passwd",
    short_help="Replace the password in use.",
    examples=[("backupforge key passwd", "asks for the old password, then twice for the new one")],
    exit_codes=REPOSITORY_CODES,
)
@click.option("--label", metavar="TEXT", help="What to call it.  [default: as before]")
@click.option("--kdf", type=click.Choice(["default", "strong"]), default="default", show_default=True, help=_KDF_HELP)
@click.option("--new-password-file", type=click.Path(), metavar="FILE", help=_NEW_FILE)
@pass_app
def passwd_command(app: App, label: str | None, kdf: KdfProfile, new_password_file: str | None) -> None:
    """Replace the password in use: the new one is added, then the old one removed."""
    from bfrepo.operations.keys import change_password, require_encryption

    with app.open_repository() as repository:
        require_encryption(repository)
        password = PasswordSource(file=new_password_file).read_new(f"new password for {shown(repository.location)}: ")
        new, old = change_password(repository, password, host=socket.gethostname(), label=label, kdf=kdf)
    app.output.document({"message_type": "password_changed", "id": new, "removed": old})
    app.output.say(f"changed the password: key {new[:8]} in place of {old[:8]}")


def _fields(key: KeyInfo) -> dict[str, object]:
    return {
        "id": key.name,
        "label": key.label,
        "host": key.host,
        "created": key.created,
        "current": key.current,
        **({"problem": key.problem} if key.problem is not None else {}),
    }
