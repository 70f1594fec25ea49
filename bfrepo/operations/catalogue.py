"""Bringing the catalogue of a repository up to date: snapshots that are new are taken in, those that are gone are
dropped.

Nothing depends on it. A snapshot that cannot be taken in, because a directory of it cannot be read or somebody else
writes to the catalogue, is looked into where it lies.
"""

from __future__ import annotations

from collections.abc import Callable

from bfrepo.catalogue.catalogue import Catalogue, open_catalogue
from bfrepo.core.errors import BackupForgeError
from bfrepo.core.progress import Reporter
from bfrepo.data.snapshot import Snapshot, decode_snapshot, encode_snapshot
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository


def open_repository_catalogue(repository: Repository, *, make: bool) -> Catalogue | None:
    """The catalogue of a repository on this machine, which has to be closed; None where there is none.

    Only with `make` is one made where there was none: it has the names of all files, readable without a password.
    """
    folder = repository.cache_folder
    return open_catalogue(folder, make=make) if folder is not None else None


def update_catalogue(
    repository: Repository,
    catalogue: Catalogue,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    on_error: Callable[[str, BackupForgeError], None] | None = None,
) -> dict[bytes, Snapshot]:
    """Take in what is new and drop what is gone. All snapshots by ID as `load_snapshots` gives them.

    Only those that are not in the catalogue are read. Raises Interrupted, and the error of a storage that fails.
    """
    held = _held(catalogue)
    snapshots = load_snapshots(repository, on_error, held=held)
    gone = held.keys() - snapshots.keys()
    if gone:
        catalogue.drop(gone)
    new = {
        identifier: (snapshot.tree, encode_snapshot(snapshot))
        for identifier, snapshot in snapshots.items()
        if identifier not in held
    }
    if new:
        repository.refresh_index()
        catalogue.add(new, repository.loader, reporter.progress, cancelled)
    return snapshots


def _held(catalogue: Catalogue) -> dict[bytes, Snapshot]:
    """The snapshots that the catalogue has. What it has of one must make sense, or it has nothing."""
    try:
        return {
            identifier: decode_snapshot(body, name=identifier.hex())
            for identifier, body in catalogue.snapshots().items()
        }
    except BackupForgeError:
        catalogue.discard()
        return {}
