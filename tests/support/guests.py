"""Guests of a simulated cluster, backed up and restored by the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bfrepo.data.selection import SnapshotFilter
from bfrepo.operations.backup import BackupResult
from bfrepo.operations.proxmox import GuestBackupOptions, back_up_guest
from bfrepo.operations.proxmox_restore import GuestRestoreOptions, find_stored_guest, restore_guest
from bfrepo.repository.repository import Repository
from bfrepo.sources.proxmox.inventory import find_guest, list_guests
from tests.support.backups import never
from tests.support.directories import Problems
from tests.support.proxmox import Cluster
from tests.support.proxmox_node import NODE


def back_up(
    repository: Repository, cluster: Cluster, name: str, *, cancelled: Callable[[], bool] = never, **options: Any
) -> BackupResult:
    """Back up a guest, of which all can be kept."""
    problems = Problems()
    chosen = GuestBackupOptions(**{"hostname": "cluster", "username": "me", "program": "tests", **options})
    guest = find_guest(name, list_guests(cluster.api))
    result = back_up_guest(repository, guest, cluster.access, chosen, problems, cancelled)
    assert problems.found == []
    return result


def restore(repository: Repository, cluster: Cluster, snapshot: bytes | None, vmid: int, **options: Any) -> None:
    """Restore a guest of a snapshot under an ID."""
    assert snapshot is not None
    problems = Problems()
    guest = find_stored_guest(repository, snapshot.hex(), SnapshotFilter(), problems)
    chosen = GuestRestoreOptions(**{"node": NODE, "guest_id": vmid, **options})
    restore_guest(repository, guest, cluster.access, chosen, problems, never)
    assert problems.found == []
