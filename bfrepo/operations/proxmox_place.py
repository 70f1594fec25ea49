"""Before and after the restore of a guest, by the API: is its place free, and does it start?"""

from __future__ import annotations

from collections.abc import Callable

from bfrepo.core.errors import ObjectNotFound, TargetError
from bfrepo.operations.proxmox_restore import GuestRestoreOptions, StoredGuest
from bfrepo.sources.proxmox.api import ProxmoxApi, wait_for_task
from bfrepo.sources.proxmox.inventory import Kind, list_guests, list_nodes, next_free_id


def refuse_impossible(api: ProxmoxApi, guest: StoredGuest, options: GuestRestoreOptions) -> None:
    """See that the guest can be restored, before anything is sent. Raises ObjectNotFound, TargetError, ProxmoxError."""
    nodes = {node.name: node.status for node in list_nodes(api)}
    if options.node not in nodes:
        known = ", ".join(nodes)
        raise ObjectNotFound(f"the cluster has no node {options.node!r}", hint=f"name one with --node: {known}")
    if nodes[options.node] == "offline":
        raise TargetError(f"the node {options.node} is offline", hint="name another with --node")
    there = next((each for each in list_guests(api) if each.id == options.guest_id), None)
    if there is None:
        return
    if not options.overwrite:
        hint = f"replace it with --overwrite, or take another ID: --id {next_free_id(api)} is free"
        raise TargetError(f"there is a guest {there.shown} on {there.node} already", hint=hint)
    if there.kind != guest.kind or there.node != options.node:
        raise TargetError(f"{there.shown} on {there.node} is another guest than this one", hint="take another --id")
    if there.status == "running":
        raise TargetError(f"{there.shown} is running", hint="stop it first")


def start_guest(
    api: ProxmoxApi,
    kind: Kind,
    options: GuestRestoreOptions,
    tell: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> None:
    """Start a guest, and wait until it has. `tell` gets the task's log by lines. Raises TaskFailed, ProxmoxError."""
    upid = api.post("nodes", options.node, kind, str(options.guest_id), "status", "start")
    wait_for_task(api, upid, tell, cancelled)
