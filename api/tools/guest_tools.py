"""The tools for guests of Proxmox VE, as clients see them. They exist only where whoever started the server named a
cluster; those that change something only where it allowed them. A restore is always asked of a person first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from mcp.server import MCPServer
from mcp.server.mcpserver import Elicit, ElicitationResult, Resolve
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field

from api.tools.bounds import MOST_ENTRIES, quoted
from api.tools.calls import Call, Toolbox, long, quick, toolbox
from api.tools.changing import named
from api.tools.changing_tools import Confirmation, must_be_able_to_ask, must_be_confirmed
from api.tools.config import ToolsConfig
from api.tools.guests import GuestPlace, Guests
from api.tools.reading_tools import DATA_NOT_INSTRUCTIONS, Limit, Offset, SnapshotName
from api.tools.results import BackupView, GuestPage, GuestRestoreView, GuestStatus

_LOOKS: Final = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
_ADDS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)
_DESTROYS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True
)

GuestName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9.-]{1,128}$", description="A guest: its ID, or its name if no other has it.")
]
GuestTags = Annotated[
    list[Annotated[str, Field(pattern=r"^[^,\x00-\x1f]{1,100}$")]],
    Field(max_length=20, description="Tags for the snapshot."),
]
NewId = Annotated[
    int | None, Field(ge=100, le=999_999_999, description="The ID the guest gets; the one it had by default.")
]
NodeName = Annotated[
    str | None,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]{0,62}$", description="The node; the one it was on by default."),
]
Storage = Annotated[
    str | None,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,99}$", description="The storage for its disks; as before by default."),
]
Overwrite = Annotated[bool, Field(description="Replace a guest that has the ID. It must not run.")]
Start = Annotated[bool, Field(description="Start the guest when it is restored.")]


def add_guest_tools(server: MCPServer[Toolbox], config: ToolsConfig) -> None:
    """Register those that `config` allows."""
    tools: list[tuple[str, Callable[..., Any], ToolAnnotations]] = [
        ("List guests", proxmox_list_guests, _LOOKS),
        ("Status of a guest", proxmox_guest_status, _LOOKS),
    ]
    if config.allow_write:
        tools.append(("Back up a guest", proxmox_backup_guest, _ADDS))
        if config.cluster is not None and config.cluster.allow_restore:
            tools.append(("Restore a guest", proxmox_restore_guest, _DESTROYS))
    for title, tool, hints in tools:
        description = f"{' '.join((tool.__doc__ or '').split())} {DATA_NOT_INSTRUCTIONS}"
        server.add_tool(tool, title=title, description=description, annotations=hints)


def _guests(call: Call) -> Guests:
    guests = toolbox(call).guests
    if guests is None:
        raise ToolError("not-allowed: this server has no cluster")
    return guests


async def proxmox_list_guests(call: Call, offset: Offset = 0, limit: Limit = MOST_ENTRIES) -> GuestPage:
    """Virtual machines and containers of the Proxmox cluster, by ID: names, nodes, status, tags, pools."""
    guests = _guests(call)
    return await quick(toolbox(call), lambda: guests.list(offset, limit))


async def proxmox_guest_status(call: Call, guest: GuestName) -> GuestStatus:
    """One guest of the Proxmox cluster: how it is, and its snapshots in the repository, the newest first."""
    guests = _guests(call)
    return await quick(toolbox(call), lambda: guests.status(guest))


async def proxmox_backup_guest(call: Call, guest: GuestName, tags: GuestTags = []) -> BackupView:  # noqa: B006
    """Make a snapshot of a guest of the Proxmox cluster. May take hours. The guest goes on running."""
    guests, chosen = _guests(call), tuple(tags)
    return await long(call, lambda notes, cancelled: guests.back_up(guest, chosen, notes, cancelled), unit="bytes")


async def _place(
    call: Call,
    snapshot: SnapshotName,
    guest_id: NewId = None,
    node: NodeName = None,
    storage: Storage = None,
    overwrite: Overwrite = False,
) -> GuestPlace:
    must_be_able_to_ask(call)
    guests = _guests(call)
    return await quick(toolbox(call), lambda: guests.place(snapshot, guest_id, node, storage, overwrite))


async def _ask(call: Call, place: Annotated[GuestPlace, Resolve(_place)]) -> Elicit[Confirmation]:
    del call
    stored, options = place.guest, place.options
    what = "machine" if stored.kind == "qemu" else "container"
    replacing = f", deleting {quoted(place.replaces)} with all its disks" if place.replaces else ""
    return Elicit(
        f"Restore the {what} {stored.about.id} of snapshot {named(stored.snapshot_id, stored.snapshot)} "
        f"as {options.guest_id} on node {quoted(options.node)}{replacing}?",
        Confirmation,
    )


async def proxmox_restore_guest(
    call: Call,
    snapshot: SnapshotName,
    place: Annotated[GuestPlace, Resolve(_place)],
    answer: Annotated[ElicitationResult[Confirmation], Resolve(_ask)],
    guest_id: NewId = None,
    node: NodeName = None,
    storage: Storage = None,
    overwrite: Overwrite = False,
    start: Start = False,
) -> GuestRestoreView:
    """Restore a guest of a snapshot on a node of the Proxmox cluster. A person is asked to confirm."""
    must_be_confirmed(answer)
    guests = _guests(call)
    return await long(call, lambda notes, cancelled: guests.restore(place, start, notes, cancelled), unit="bytes")
