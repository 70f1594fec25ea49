"""Repairing in tests, and what must not change by it: all that could be read before can be read after."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.progress import Quiet
from bfrepo.data.tree import load_tree
from bfrepo.operations.repair_index import IndexRepairPlan, plan_index_repair, repair_index
from bfrepo.operations.repair_packs import PackRepairPlan, plan_pack_repair, repair_packs
from bfrepo.operations.repair_snapshots import SnapshotRepairPlan, plan_snapshot_repair, repair_snapshots
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.quarantine import Quarantine
from bfrepo.repository.repository import Repository
from bfrepo.repository.salvage import refresh_for_reading
from bfrepo.storage.base import Backend
from tests.support.backups import never
from tests.support.damage import reopen_unread
from tests.support.restoring import file_content

Readable = dict[bytes, dict[str, bytes]]
"""By snapshot, the content of every file that can be read."""


def mend_index(backend: Backend, folder: Path, *, read_all: bool = False) -> IndexRepairPlan:
    """Plan and execute a repair of the index."""
    repository = reopen_unread(backend)
    plan = plan_index_repair(repository, Quiet(), never, read_all=read_all)
    repair_index(repository, plan, Quarantine(folder))
    return plan


def mend_packs(backend: Backend, folder: Path, chosen: Sequence[str] = ()) -> PackRepairPlan:
    """Plan and execute a repair of packs."""
    repository = reopen_unread(backend)
    plan = plan_pack_repair(repository, chosen, Quiet(), never)
    repair_packs(repository, plan, Quarantine(folder), Quiet(), never, workers=1)
    return plan


def mend_snapshots(
    backend: Backend, folder: Path, chosen: Sequence[str] = (), *, forget: bool = False
) -> tuple[SnapshotRepairPlan, dict[bytes, bytes]]:
    """Plan and execute a repair of snapshots; the plan, and the new snapshots by their originals."""
    repository = reopen_unread(backend)
    plan = plan_snapshot_repair(repository, chosen, Quiet(), never, forget=forget)
    return plan, repair_snapshots(repository, plan, Quarantine(folder), Quiet())


def mend_all(backend: Backend, folder: Path, *, read_all: bool = False) -> None:
    """All repairs, in the order in which they are meant to be done."""
    mend_index(backend, folder, read_all=read_all)
    mend_packs(backend, folder)
    mend_snapshots(backend, folder)


def readable(backend: Backend) -> Readable:
    """What every snapshot gives, as a restore that leaves out what is damaged finds it."""
    repository = reopen_unread(backend)
    refresh_for_reading(repository, lambda warning: None)
    snapshots = load_snapshots(repository, on_error=lambda name, error: None)
    return {identifier: _readable_files(repository, snapshot.tree) for identifier, snapshot in snapshots.items()}


def assert_nothing_whole_is_lost(before: Readable, backend: Backend) -> Readable:
    """Everything that could be read before a repair can be read now, and is the same. What can be read now."""
    after = readable(backend)
    for snapshot, files in before.items():
        assert files.items() <= after[snapshot].items()
    return after


def _readable_files(repository: Repository, tree: bytes) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    todo = [("", tree)]
    while todo:
        above, tree_id = todo.pop()
        with suppress(BackupForgeError):
            for node in load_tree(repository.loader, tree_id):
                path = f"{above}/{node.name.decode()}"
                if node.type == "dir":
                    todo.append((path, node.subtree))
                with suppress(BackupForgeError):
                    if node.type == "file":
                        found[path] = file_content(repository.loader, node)
    return found
