"""Putting a changed snapshot in the place of another: the new one is there before the old one goes (INV-1, INV-2).

    index       read it, then look that the old snapshot is still there: so all it needs is in packs of this index
    publish     claim, look, mend, snapshot, unclaim (publish.py)
    remove      the old one, if it is to go

Whoever sees both, because they look in between or because the program died there, sees two snapshots of the same time
with the same `original`. Rules of retention count them as one (bfrepo/data/retention.py), so nothing is lost by that.
"""

from __future__ import annotations

from typing import Any

import msgspec

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import BackupForgeError, StorageError, StorageObjectMissing
from bfrepo.core.ids import short_id
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.publish import ContentLost, publish
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import SaverOptions
from bfrepo.storage.base import ObjectKind


def successor(identifier: bytes, snapshot: Snapshot, **changes: Any) -> Snapshot:
    """The snapshot with changes, which names the first of its series as its original."""
    return msgspec.structs.replace(snapshot, original=snapshot.original or identifier, **changes)


def is_there(repository: Repository, identifier: bytes) -> bool:
    """Whether nobody has removed the snapshot."""
    try:
        repository.backend.size(ObjectKind.SNAPSHOT, identifier.hex())
    except StorageObjectMissing:
        return False
    return True


def storing(repository: Repository) -> SaverOptions:
    """How the repository wants blobs stored."""
    return SaverOptions(repository.config.compression, repository.config.pack_size, native_threads())


def publish_successor(repository: Repository, identifier: bytes, snapshot: Snapshot, known_index: set[str]) -> bytes:
    """Store what follows snapshot `identifier`; its ID. See `publish` for `known_index`."""
    try:
        return publish(repository, snapshot, known_index, storing(repository), reused=True)
    except ContentLost as error:
        raise BackupForgeError(
            f"snapshot {short_id(identifier)} was left as it is: somebody deletes what it needs while it is changed",
            hint="see with 'backupforge list' whether it is still there, then with 'backupforge check' what it lacks",
        ) from error


def remove_predecessor(repository: Repository, identifier: bytes, new_id: bytes) -> None:
    """Remove a snapshot in favour of another. The storage's error says that there are both."""
    if new_id == identifier:
        return
    try:
        repository.backend.delete(ObjectKind.SNAPSHOT, identifier.hex())
    except StorageError as error:
        raise type(error)(
            f"snapshot {short_id(new_id)} was made of {short_id(identifier)}, which cannot be removed: {error}",
            hint=f"there are both now; remove one with 'backupforge forget {short_id(identifier)}' when the storage "
            "allows it",
        ) from error
