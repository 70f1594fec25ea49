"""`proxmox`: guests of Proxmox VE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from bfrepo.core.errors import BackupForgeError, Interrupted
from bfrepo.core.units import format_count, format_size
from cli.app import App, pass_app
from cli.commands.backup import show_result, summary_fields
from cli.exit_codes import DONE, FAILED, INCOMPLETE, INTERRUPTED, USAGE, WORK_CODES
from cli.options import Group, filter_options
from cli.render import shown, table
from cli.values import snapshot_filter, split_tags
from cli.version import PROGRAM

if TYPE_CHECKING:
    from bfrepo.operations.proxmox import Mode
    from bfrepo.operations.proxmox_restore import StoredGuest
    from bfrepo.sources.proxmox.api import ProxmoxApi
    from bfrepo.sources.proxmox.inventory import Guest
    from bfrepo.sources.proxmox.node import NodeAccess

F = TypeVar("F", bound=Callable[..., Any])

_CODES: Final = (DONE, FAILED, USAGE, INTERRUPTED)

run = Group(
    "proxmox",
    help="""Back up and restore guests of Proxmox VE: virtual machines and containers.

    The API, with a token, says which guests there are. Their bytes come by SSH from the node they are on.
    'backupforge mount', 'restore' and 'dump' take single files and disks out of what was backed up.""",
    short_help="Back up and restore guests of Proxmox VE.",
)


def _api_options(function: F) -> F:
    """Where the API is."""
    for option in (
        click.option(
            "--ca-file",
            type=click.Path(),
            metavar="FILE",
            help="Certificates to trust, such as the cluster's /etc/pve/pve-root-ca.pem.  "
            "[env: BACKUPFORGE_PROXMOX_CA_FILE; default: the system's]",
        ),
        click.option(
            "--token-file",
            type=click.Path(),
            metavar="FILE",
            help="A file with the token, USER@REALM!NAME=SECRET.  [env: BACKUPFORGE_PROXMOX_TOKEN_FILE]",
        ),
        click.option(
            "--api",
            metavar="URL",
            help="Where the API is, such as https://pve.example.com:8006; any node will do.  "
            "[env: BACKUPFORGE_PROXMOX_API]",
        ),
    ):
        function = option(function)
    return function


def _node_options(function: F) -> F:
    """How nodes are reached."""
    for option in (
        click.option(
            "--node-dir",
            metavar="DIR",
            help="A directory on the nodes for what backups need meanwhile.  "
            "[env: BACKUPFORGE_PROXMOX_NODE_DIR; default: /var/lib/backupforge]",
        ),
        click.option("--node-sudo", is_flag=True, help="Run commands on nodes as root, by sudo."),
        click.option(
            "--node-ssh",
            metavar="[USER@]HOST[:PORT]",
            help="How a node is reached by SSH; {node} is its name.  [env: BACKUPFORGE_PROXMOX_SSH; "
            "default: root@{node}]",
        ),
    ):
        function = option(function)
    return function


def _guest_options(function: F) -> F:
    """Which guests."""
    for option in (
        click.option("--exclude", "excluded", multiple=True, metavar="GUEST", help="Not this one; may be repeated."),
        click.option("--all", "everything", is_flag=True, help="All guests that the token may see."),
        click.option("--pool", "pools", multiple=True, metavar="POOL", help="Those in a pool; may be repeated."),
        click.option(
            "--guest-tag", "guest_tags", multiple=True, metavar="TAG", help="Those with a tag; may be repeated."
        ),
    ):
        function = option(function)
    return function


@run.command(
    "list",
    short_help="List the guests of a cluster.",
    examples=[
        ("backupforge proxmox list --api https://pve.example.com:8006 --token-file ~/.pve-token", "all that is there"),
        ("backupforge proxmox list --pool shop", "those of a pool"),
    ],
    exit_codes=_CODES,
)
@click.argument("names", nargs=-1, metavar="[GUEST...]")
@_guest_options
@_api_options
@pass_app
def list_command(
    app: App,
    /,
    names: Sequence[str],
    guest_tags: Sequence[str],
    pools: Sequence[str],
    everything: bool,
    excluded: Sequence[str],
    api: str | None,
    token_file: str | None,
    ca_file: str | None,
) -> None:
    """List guests: their IDs, names, nodes, tags and pools. Without arguments all that the token may see."""
    cluster = _connect(app, api, token_file, ca_file)
    every = everything or not (names or guest_tags or pools)
    guests = _choose(cluster, names, guest_tags, pools, excluded, everything=every)
    app.output.document([_fields(guest) for guest in guests])
    if guests:
        app.output.result(_table(app, guests))
    app.output.say(f"guests: {format_count(len(guests))}")


@run.command(
    "backup",
    short_help="Make a snapshot of each guest.",
    examples=[
        ("backupforge proxmox backup 100 web1", "guests by ID or name"),
        ("backupforge proxmox backup --guest-tag prod --exclude 900", "all with a tag but one"),
        ("backupforge proxmox backup --all --node-ssh root@{node}.example.com", "everything"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("names", nargs=-1, metavar="[GUEST...]")
@_guest_options
@click.option(
    "--mode",
    type=click.Choice(["snapshot", "suspend", "stop"]),
    default="snapshot",
    show_default=True,
    help="What happens to a guest that runs, as vzdump has it.",
)
@click.option("--tag", "tags", multiple=True, metavar="TAG[,TAG]", help="Tag the snapshots; may be repeated.")
@click.option("--host", metavar="NAME", help="The host name to record.  [default: that of the API]")
@_api_options
@_node_options
@pass_app
def backup_command(
    app: App,
    /,
    names: Sequence[str],
    guest_tags: Sequence[str],
    pools: Sequence[str],
    everything: bool,
    excluded: Sequence[str],
    mode: Mode,
    tags: Sequence[str],
    host: str | None,
    api: str | None,
    token_file: str | None,
    ca_file: str | None,
    node_ssh: str | None,
    node_sudo: bool,
    node_dir: str | None,
) -> int:
    """Make a snapshot of each guest, one after the other, by vzdump on its node.

    A virtual machine becomes /qemu/ID with its configuration and each disk as a raw image; only what changed on a disk
    is stored. A container becomes /lxc/ID with its configuration and its files.

    A guest that cannot be backed up is reported; the others are backed up, and the exit code is 3, or 1 if there are
    none. What a backup that was cut off has left on a node is removed by the next one of that guest.
    """
    from bfrepo.operations.proxmox import GuestBackupOptions, back_up_guest
    from cli.what import username

    cluster = _connect(app, api, token_file, ca_file)
    access = _access(app, node_ssh, node_dir, sudo=node_sudo)
    guests = _choose(cluster, names, guest_tags, pools, excluded, everything=everything)
    options = GuestBackupOptions(
        hostname=host or cluster.host, username=username(), program=PROGRAM, tags=split_tags(tags), mode=mode
    )
    failed = errors = 0
    with app.open_repository() as repository:
        for guest in guests:
            app.output.say(app.output.style.bold(shown(guest.shown)))
            try:
                with app.working() as work:
                    result = back_up_guest(repository, guest, access, options, work.display, work.cancelled)
            except Interrupted:
                raise
            except BackupForgeError as error:
                if len(guests) == 1:
                    raise
                failed += 1
                _show_failure(app, guest, error)
                continue
            errors += result.snapshot.summary.errors
            if app.output.as_json:
                app.output.line("summary", {"guest": _fields(guest), **summary_fields(result, dry_run=False)})
            else:
                show_result(app.output, result, dry_run=False)
    if not guests:
        app.output.say("no guest fits")
    if failed and failed == len(guests):
        return FAILED
    return INCOMPLETE if failed or errors else DONE


@run.command(
    "restore",
    short_help="Restore a guest on a node.",
    examples=[
        ("backupforge proxmox restore latest --path /qemu/100 --storage local-lvm", "a machine, as it was"),
        ("backupforge proxmox restore 4f3a09c2 --id 900 --node pve2", "under another ID, on another node"),
        ("backupforge restore latest:/qemu/100 --path /qemu/100 --target /srv/vm100", "its disks as raw files"),
    ],
    exit_codes=WORK_CODES,
)
@click.argument("snapshot", metavar="SNAPSHOT")
@click.option("--id", "guest_id", type=click.IntRange(100, 999_999_999), metavar="ID", help="Its new ID.")
@click.option("--node", metavar="NAME", help="The node to restore on.  [default: the one it was on]")
@click.option("--storage", metavar="NAME", help="The storage for all its disks.  [default: where they were]")
@click.option("--overwrite", is_flag=True, help="Replace a guest that has this ID; it must not run.")
@click.option("--start", is_flag=True, help="Start it.")
@_api_options
@_node_options
@filter_options
@pass_app
def restore_command(
    app: App,
    /,
    snapshot: str,
    guest_id: int | None,
    node: str | None,
    storage: str | None,
    overwrite: bool,
    start: bool,
    api: str | None,
    token_file: str | None,
    ca_file: str | None,
    node_ssh: str | None,
    node_sudo: bool,
    node_dir: str | None,
    hosts: Sequence[str],
    tags: Sequence[str],
    paths: Sequence[str],
) -> int:
    """Restore a guest of a snapshot on a node: a machine through qmrestore, a container through pct restore.

    It gets the ID that it had, unless --id says otherwise; a guest that has the ID is only replaced with --overwrite.
    """
    from bfrepo.operations.proxmox_place import refuse_impossible, start_guest
    from bfrepo.operations.proxmox_restore import GuestRestoreOptions, find_stored_guest, restore_guest

    chosen = snapshot_filter(hosts, tags, paths)
    cluster = _connect(app, api, token_file, ca_file)
    access = _access(app, node_ssh, node_dir, sudo=node_sudo)
    with app.open_repository() as repository, app.working(unit="guests") as work:
        stored = find_stored_guest(repository, snapshot, chosen, work.display)
        options = GuestRestoreOptions(
            node=node or stored.about.node, guest_id=guest_id or stored.about.id, storage=storage, overwrite=overwrite
        )
        refuse_impossible(cluster, stored, options)
        restore_guest(repository, stored, access, options, work.display, work.cancelled)
        if start:
            start_guest(cluster, stored.kind, options, app.output.remark, work.cancelled)
    _show_restored(app, stored, options.guest_id, options.node)
    return DONE


@run.command(
    "node-script",
    short_help="Print what runs on a node.",
    examples=[
        ("backupforge proxmox node-script > /usr/local/sbin/backupforge-node", "to install it there"),
    ],
    exit_codes=(DONE, USAGE),
)
@pass_app
def script_command(app: App) -> None:
    """Print the script that backups and restores run on a node.

    It need not be installed. Where a key shall do nothing else it can be, as the command of that key:
    command="/usr/local/sbin/backupforge-node \\"$SSH_ORIGINAL_COMMAND\\"".
    """
    from bfrepo.sources.proxmox.script import SCRIPT

    app.output.raw(SCRIPT)


def _connect(app: App, api: str | None, token_file: str | None, ca_file: str | None) -> ProxmoxApi:
    with _needing_packages():
        from bfrepo.sources.proxmox.api import ProxmoxApi
    return ProxmoxApi(app.settings.proxmox(api, token_file, ca_file))


def _access(app: App, way: str | None, work: str | None, *, sudo: bool) -> NodeAccess:
    with _needing_packages():
        return app.settings.proxmox_nodes(way, sudo=sudo, work=work)


@contextmanager
def _needing_packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise BackupForgeError(
            f"guests of Proxmox need the package {error.name}, which is not installed",
            hint="pip install 'backupforge[proxmox]'",
        ) from error


def _choose(
    cluster: ProxmoxApi,
    names: Sequence[str],
    tags: Sequence[str],
    pools: Sequence[str],
    excluded: Sequence[str],
    *,
    everything: bool,
) -> list[Guest]:
    from bfrepo.sources.proxmox.inventory import GuestSelection, list_guests

    selection = GuestSelection(names=names, tags=tags, pools=pools, everything=everything, excluded=excluded)
    return selection.choose(list_guests(cluster))


def _table(app: App, guests: Sequence[Guest]) -> list[str]:
    columns = {
        "ID": (">", [str(guest.id) for guest in guests]),
        "Kind": ("<", ["VM" if guest.kind == "qemu" else "CT" for guest in guests]),
        "Name": ("<", [shown(guest.name) for guest in guests]),
        "Node": ("<", [shown(guest.node) for guest in guests]),
        "Status": ("<", [shown(guest.status) for guest in guests]),
        "Lock": ("<", [shown(guest.lock) for guest in guests]),
        "Tags": ("<", [",".join(map(shown, guest.tags)) for guest in guests]),
        "Pool": ("<", [shown(guest.pool) for guest in guests]),
        "Disk": (">", [format_size(guest.disk) for guest in guests]),
    }
    kept = {heading: column for heading, column in columns.items() if any(column[1])}
    rows = list(zip(*(cells for _, cells in kept.values()), strict=True))
    return table(list(kept), rows, "".join(align for align, _ in kept.values()), app.output.style)


def _fields(guest: Guest) -> dict[str, Any]:
    return {
        "id": guest.id,
        "kind": guest.kind,
        "name": guest.name,
        "node": guest.node,
        "status": guest.status,
        "lock": guest.lock or None,
        "tags": list(guest.tags),
        "pool": guest.pool or None,
        "template": guest.template,
        "disk": guest.disk,
        "memory": guest.memory,
    }


def _show_failure(app: App, guest: Guest, error: BackupForgeError) -> None:
    hint = f" ({error.hint})" if error.hint else ""
    app.output.notice("error", guest.shown.encode(errors="replace"), f"{error}{hint}")


def _show_restored(app: App, stored: StoredGuest, guest_id: int, node: str) -> None:
    fields = {"snapshot_id": stored.snapshot_id.hex(), "id": guest_id, "kind": stored.kind, "node": node}
    app.output.line("summary", fields)
    what = "VM" if stored.kind == "qemu" else "CT"
    app.output.say(app.output.style.green(f"{what} {guest_id} restored on {shown(node)}"))
