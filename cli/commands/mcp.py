"""`mcp`: tools for assistants, over the Model Context Protocol."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bfrepo.core.errors import BackupForgeError, UsageError
from cli.app import App, pass_app
from cli.exit_codes import DONE, REPOSITORY_CODES
from cli.options import command
from cli.version import PROGRAM, VERSION

if TYPE_CHECKING:
    from api.tools.config import ClusterAccess


@command(
    "mcp",
    short_help="Let an assistant look into snapshots (MCP).",
    examples=[
        ("backupforge mcp -r /srv/backup --password-file ~/.backup-password", "what an assistant's settings start"),
        ("backupforge mcp --allow-write --allow-restore-to ~/restored", "it may also forget, prune and restore"),
        ("backupforge mcp --proxmox --allow-write", "it may also list and back up guests of Proxmox"),
        ("backupforge mcp --listen 127.0.0.1:8421 --token-file ~/.mcp-token", "for clients that speak HTTP"),
    ],
    exit_codes=REPOSITORY_CODES,
)
@click.option("--allow-write", is_flag=True, help="Offer tools that remove snapshots and free space as well.")
@click.option(
    "--allow-backup-of",
    "backup_roots",
    multiple=True,
    type=click.Path(),
    metavar="DIR",
    help="Offer backups of what is in this directory; may be repeated. Needs --allow-write.",
)
@click.option(
    "--allow-restore-to",
    "restore_roots",
    multiple=True,
    type=click.Path(),
    metavar="DIR",
    help="Offer restores into this directory; may be repeated. Needs --allow-write.",
)
@click.option(
    "--proxmox",
    is_flag=True,
    help="Offer tools for guests of the Proxmox cluster that BACKUPFORGE_PROXMOX_API names; backups of them need "
    "--allow-write.",
)
@click.option(
    "--allow-guest-restore",
    is_flag=True,
    help="Offer restores of guests. Needs --proxmox and --allow-write.",
)
@click.option(
    "--listen",
    metavar="ADDRESS:PORT",
    help="Serve HTTP on this address of this machine, such as 127.0.0.1:8421, instead of the standard streams.",
)
@click.option(
    "--token-file",
    type=click.Path(),
    metavar="FILE",
    help="The token that clients of --listen have to send.  [env: BACKUPFORGE_MCP_TOKEN]",
)
@pass_app
def run(
    app: App,
    allow_write: bool,
    backup_roots: Sequence[str],
    restore_roots: Sequence[str],
    proxmox: bool,
    allow_guest_restore: bool,
    listen: str | None,
    token_file: str | None,
) -> int:
    """Serve tools that list snapshots, browse, find, compare and read files, add up sizes and check the repository.

    Read-only, unless --allow-write says otherwise. Then whatever removes snapshots, frees space or replaces files is
    asked of the person in front of the client first, and refused where the client cannot ask.

    A client that starts the program speaks with it over standard input and output. Every call is written to
    ~/.local/state/backupforge/mcp-audit.jsonl.
    """
    if (backup_roots or restore_roots) and not allow_write:
        raise UsageError("--allow-backup-of and --allow-restore-to need --allow-write")
    if allow_guest_restore and not (proxmox and allow_write):
        raise UsageError("--allow-guest-restore needs --proxmox and --allow-write")
    if token_file and not listen:
        raise UsageError("--token-file is for --listen")
    try:
        from api.tools.config import ToolsConfig
        from api.tools.server import make_server
        from api.tools.transports import check_token, parse_local, serve_http, serve_stdio
    except ModuleNotFoundError as error:
        raise BackupForgeError(
            f"the tools need the package {error.name}, which is not installed",
            hint="pip install 'backupforge[mcp]'",
        ) from error
    from cli.what import username

    address = parse_local(listen) if listen else None
    token = app.settings.mcp_token(token_file) if listen else ""
    if listen:
        check_token(token)
    config = ToolsConfig(
        audit_log=app.settings.mcp_audit_log,
        hostname=socket.gethostname(),
        username=username(),
        program=PROGRAM,
        version=VERSION,
        allow_write=allow_write,
        backup_roots=tuple(map(_directory, backup_roots)),
        restore_roots=tuple(map(_directory, restore_roots)),
        cluster=_cluster(app, allow_restore=allow_guest_restore) if proxmox else None,
    )
    with app.open_repository(read_only=not allow_write) as repository:
        server = make_server(repository, config, app.clock)
        if address is None:
            serve_stdio(server)
        else:
            serve_http(server, *address, token, lambda url: _show(app, url))
    return DONE


def _cluster(app: App, *, allow_restore: bool) -> ClusterAccess:
    """The cluster that the environment names."""
    from api.tools.config import ClusterAccess

    try:
        api = app.settings.proxmox(None, None, None)
        nodes = app.settings.proxmox_nodes(None, sudo=False, work=None)
    except ModuleNotFoundError as error:
        raise BackupForgeError(
            f"guests of Proxmox need the package {error.name}, which is not installed",
            hint="pip install 'backupforge[proxmox,ssh]'",
        ) from error
    return ClusterAccess(api=api, nodes=nodes, allow_restore=allow_restore)


def _directory(path: str) -> bytes:
    """A directory that is allowed. Raises UsageError."""
    if not os.path.isdir(path):
        raise UsageError(f"there is no directory {path} to allow")
    return os.fsencode(os.path.abspath(path))


def _show(app: App, url: str) -> None:
    app.output.streaming = True
    app.output.say(f"listening on {url}")
    app.output.line("listening", {"url": url})
