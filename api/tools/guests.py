"""Guests of Proxmox VE for tools: listed, backed up and restored. Everything blocks.

Which guest and which node is meant is resolved before somebody confirms it. Raises what the operations raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from api.tools.bounds import cut
from api.tools.config import ClusterAccess, ToolsConfig
from api.tools.describing import backup_view
from api.tools.reporting import Notes
from api.tools.repository import ServedRepository
from api.tools.results import BackupView, GuestPage, GuestRestoreView, GuestStatus, GuestView
from bfrepo.core.errors import TargetError
from bfrepo.data.selection import SnapshotFilter
from bfrepo.operations.proxmox import GuestBackupOptions, back_up_guest, guest_path
from bfrepo.operations.proxmox_place import refuse_impossible, start_guest
from bfrepo.operations.proxmox_restore import GuestRestoreOptions, StoredGuest, find_stored_guest, restore_guest
from bfrepo.sources.proxmox.api import ProxmoxApi
from bfrepo.sources.proxmox.inventory import Guest, find_guest, list_guests

Cancelled = Callable[[], bool]

_NEWEST = 20


@dataclass(frozen=True, slots=True)
class GuestPlace:
    """What is to be restored where, looked at: it can be done."""

    guest: StoredGuest
    options: GuestRestoreOptions
    replaces: str
    """The guest that has the ID and would be gone; empty where there is none."""


class Guests:
    """The guests of one cluster. For one thread at a time."""

    def __init__(self, served: ServedRepository, config: ToolsConfig, cluster: ClusterAccess) -> None:
        self._served = served
        self._config = config
        self._cluster = cluster
        self._api = ProxmoxApi(cluster.api)

    def list(self, offset: int, limit: int) -> GuestPage:
        """Guests by ID, from `offset` on."""
        guests = list_guests(self._api)
        page = guests[offset : offset + limit]
        more = offset + limit if offset + limit < len(guests) else None
        return GuestPage(guests=[_view(guest) for guest in page], total=len(guests), next_offset=more)

    def status(self, name: str) -> GuestStatus:
        """A guest, and its snapshots, the newest first."""
        guest = self._find(name)
        chosen = SnapshotFilter(paths=(guest_path(guest),)).apply(self._served.snapshots())
        newest = [(identifier, each) for identifier, each in chosen.items() if each.hostname == self._cluster.api.host]
        newest.reverse()
        return GuestStatus(
            guest=_view(guest),
            snapshots=[{"id": identifier.hex(), "time": each.time} for identifier, each in newest[:_NEWEST]],
            snapshots_count=len(newest),
        )

    def back_up(self, name: str, tags: tuple[str, ...], notes: Notes, cancelled: Cancelled) -> BackupView:
        """Make a snapshot of a guest."""
        config, guest = self._config, self._find(name)
        options = GuestBackupOptions(
            hostname=self._cluster.api.host, username=config.username, program=config.program, tags=tags
        )
        result = back_up_guest(self._served.repository, guest, self._cluster.nodes, options, notes, cancelled)
        return backup_view(result, notes.problems)

    def place(
        self, snapshot: str, guest_id: int | None, node: str | None, storage: str | None, overwrite: bool
    ) -> GuestPlace:
        """What a restore is about, if it can be done. Raises TargetError, ObjectNotFound."""
        identifier, _ = self._served.find(snapshot)
        stored = find_stored_guest(self._served.repository, identifier.hex(), SnapshotFilter(), Notes())
        options = GuestRestoreOptions(
            node=node or stored.about.node,
            guest_id=guest_id or stored.about.id,
            storage=storage,
            overwrite=overwrite,
        )
        refuse_impossible(self._api, stored, options)
        there = next((each for each in list_guests(self._api) if each.id == options.guest_id), None)
        return GuestPlace(stored, options, there.shown if there is not None else "")

    def restore(self, place: GuestPlace, start: bool, notes: Notes, cancelled: Cancelled) -> GuestRestoreView:
        """Restore a guest. Raises TargetError if the ID was taken since it was looked at."""
        options = place.options
        refuse_impossible(self._api, place.guest, options)
        there = next((each for each in list_guests(self._api) if each.id == options.guest_id), None)
        if (there.shown if there is not None else "") != place.replaces:
            raise TargetError(f"another guest has the ID {options.guest_id} by now", hint="ask again")
        restore_guest(self._served.repository, place.guest, self._cluster.nodes, options, notes, cancelled)
        if start:
            start_guest(self._api, place.guest.kind, options, lambda line: None, cancelled)
        return GuestRestoreView(
            snapshot_id=place.guest.snapshot_id.hex(),
            id=options.guest_id,
            node=options.node,
            started=start,
            problems=notes.problems,
        )

    def _find(self, name: str) -> Guest:
        return find_guest(name, list_guests(self._api))


def _view(guest: Guest) -> GuestView:
    return GuestView(
        id=guest.id,
        kind="machine" if guest.kind == "qemu" else "container",
        name=cut(guest.name),
        node=cut(guest.node),
        status=cut(guest.status),
        lock=cut(guest.lock),
        tags=[cut(tag) for tag in guest.tags[:20]],
        pool=cut(guest.pool),
        disk=guest.disk,
        memory=guest.memory,
    )
