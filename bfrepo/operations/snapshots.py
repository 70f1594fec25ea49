"""Reading the snapshots of a repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from bfrepo.core.errors import BackupForgeError, StorageObjectMissing
from bfrepo.data.snapshot import Snapshot, decode_snapshot
from bfrepo.repository.repository import Repository
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
