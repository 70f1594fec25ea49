"""Locking anew what a repository needs, where the storage locks objects against deletion for a time (S3 object lock).

An object is locked when it is stored, for as many days as the options say. What is in use longer than that would be
free to go one day: so each prune begins the time again for the packs that stay, and for all that is needed to read
them. Whoever prunes at least once in those days has, at any time, all that snapshots use under lock. What is no longer
used is left to its lock: its deletion hides it, and the bucket's own rules remove it when the time is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from bfrepo.core.concurrency import map_at_once
from bfrepo.core.errors import StorageObjectMissing
from bfrepo.repository.repository import Repository
from bfrepo.storage.abilities import extend_lock, locks
from bfrepo.storage.base import ObjectKind

_KEPT_KINDS: Final = (ObjectKind.CONFIG, ObjectKind.KEY, ObjectKind.SNAPSHOT, ObjectKind.INDEX)
"""What has to be there to read packs. Claims live for a moment."""


def extend_locks(repository: Repository, packs: Iterable[bytes], cancelled: Callable[[], bool]) -> int:
    """Lock some packs and everything but packs and claims for the whole time again; how many objects there were.

    Nothing is done, nor asked for, where the storage has no locks. Objects that somebody deletes meanwhile do not
    count. Raises StorageDenied where the keys are not good for it, StorageError.
    """
    backend = repository.backend
    if not locks(backend):
        return 0

    def extend(thing: tuple[ObjectKind, str]) -> int:
        if cancelled():
            return 0
        with suppress(StorageObjectMissing):
            extend_lock(backend, *thing)
            return 1
        return 0

    def everything() -> Iterator[tuple[ObjectKind, str]]:
        for kind in _KEPT_KINDS:
            yield from ((kind, info.name) for info in backend.list(kind))
        yield from ((ObjectKind.PACK, pack.hex()) for pack in packs)

    return sum(map_at_once(extend, list(everything()), threads=backend.connections, name="lock"))
