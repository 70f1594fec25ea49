"""Reading the snapshots of a repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from bfrepo.core.errors import BackupForgeError, StorageObjectMissing
from bfrepo.core.progress import Reporter
from bfrepo.data.selection import SnapshotFilter, find_snapshot
from bfrepo.data.snapshot import Snapshot, decode_snapshot
from bfrepo.repository.repository import Repository
from bfrepo.repository.salvage import refresh_for_reading
from bfrepo.storage.base import ObjectKind


def load_snapshots(
    repository: Repository,
    on_error: Callable[[str, BackupForgeError], None] | None = None,
    *,
    held: Mapping[bytes, Snapshot] = MappingProxyType({}),
) -> dict[bytes, Snapshot]:
    """All snapshots by ID, oldest first.

    Where one cannot be read, `on_error` is told its name and why; without it the first error is raised. Those that the
    caller holds already are not read again, and left out if they are gone.
    """
    listed = {info.name: bytes.fromhex(info.name) for info in repository.backend.list(ObjectKind.SNAPSHOT)}
    found = {identifier: held[identifier] for identifier in listed.values() if identifier in held}
    names = [name for name, identifier in listed.items() if identifier not in held]
    for name, content in repository.objects.load_many(ObjectKind.SNAPSHOT, names):
        if isinstance(content, StorageObjectMissing):
            continue  # forgotten by somebody since it was listed
        try:
            if isinstance(content, BackupForgeError):
                raise content
            found[listed[name]] = decode_snapshot(content, name=name)
        except BackupForgeError as error:
            if on_error is None:
                raise
            on_error(name, error)
    return dict(sorted(found.items(), key=lambda item: (item[1].when, item[0])))


def open_snapshot(
    repository: Repository, name: str, chosen: SnapshotFilter, reporter: Reporter
) -> tuple[bytes, Snapshot]:
    """The snapshot that a name means, with the index at hand for reading it; damage beside it is a warning.

    `chosen` narrows down what "latest" means. Raises ObjectNotFound or AmbiguousPrefix, and what reading raises.
    """
    snapshots = load_snapshots(repository, on_error=lambda damaged, error: reporter.warn(b"", str(error)))
    snapshot_id = find_snapshot(name, snapshots, chosen)
    refresh_for_reading(repository, lambda message: reporter.warn(b"", message))
    return snapshot_id, snapshots[snapshot_id]
