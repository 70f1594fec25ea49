"""Reading the snapshots of a repository."""

from __future__ import annotations

from collections.abc import Callable

from bfrepo.core.errors import BackupForgeError, StorageObjectMissing
from bfrepo.data.snapshot import Snapshot, decode_snapshot
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind


def load_snapshots(
    repository: Repository, on_error: Callable[[str, BackupForgeError], None] | None = None
) -> dict[bytes, Snapshot]:
    """All snapshots by ID, oldest first.

    Where one cannot be read, `on_error` is told its name and why; without it the first error is raised.
    """
    found: dict[bytes, Snapshot] = {}
    names = [info.name for info in repository.backend.list(ObjectKind.SNAPSHOT)]
    for name, content in repository.objects.load_many(ObjectKind.SNAPSHOT, names):
        if isinstance(content, StorageObjectMissing):
            continue  # forgotten by somebody since it was listed
        try:
            if isinstance(content, BackupForgeError):
                raise content
            found[bytes.fromhex(name)] = decode_snapshot(content, name=name)
        except BackupForgeError as error:
            if on_error is None:
                raise
            on_error(name, error)
    return dict(sorted(found.items(), key=lambda item: (item[1].when, item[0])))
