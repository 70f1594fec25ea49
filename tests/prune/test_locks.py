"""Storages that delete many packs at a time, and storages that lock what they keep for a time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from bfrepo.core.errors import StorageObjectMissing
from bfrepo.operations.locking import extend_locks
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.real_pruning import run_prune
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import expected, restored_snapshots
from tests.support.sources import Item

PACK_SIZE = 20_000
FORGOTTEN = 7
NEW: dict[str, Item | bytes] = {"data/new": incompressible(100, 30_000)}


class Batches(MemoryBackend):
    """Removes three objects with one request."""

    delete_limit = 3

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[list[str]] = []

    def delete_many(self, kind: ObjectKind, names: Sequence[str]) -> None:
        self.requests.append(list(names))
        for name in names:
            super().delete(kind, name)


class Vault(MemoryBackend):
    """Locks what it keeps, and notes what is locked anew."""

    locks = True

    def __init__(self) -> None:
        super().__init__()
        self.extended: list[tuple[ObjectKind, str]] = []

    def extend_lock(self, kind: ObjectKind, name: str) -> None:
        if name not in names(self, kind):
            raise StorageObjectMissing(f"{name} is gone")
        self.extended.append((kind, name))


def fill(backend: MemoryBackend) -> None:
    """Backups of different things, with packs of their own, all but the last of which are forgotten."""
    repository = make_repository(backend, encryption="aes-256-gcm", pack_size=PACK_SIZE)
    for number in range(FORGOTTEN):
        run_backup(repository, {f"data/{number}": incompressible(number, 30_000)})
    for name in names(backend, ObjectKind.SNAPSHOT):
        backend.delete(ObjectKind.SNAPSHOT, name)
    run_backup(repository, NEW)


def test_packs_are_deleted_in_batches() -> None:
    """As many packs go with one request as the storage takes, each once, and what is needed stays."""
    backend = Batches()
    fill(backend)
    before = names(backend, ObjectKind.PACK)
    result = run_prune(backend, pack_size=PACK_SIZE)
    gone = [name for request in backend.requests for name in request]
    assert result.deleted == len(gone) >= FORGOTTEN
    assert {*gone} == before - names(backend, ObjectKind.PACK)
    assert all(len(request) <= 3 for request in backend.requests)
    assert len(backend.requests) < len(gone)
    assert list(restored_snapshots(reopen(backend)).values()) == [expected(NEW)]


def test_locks_of_what_stays_begin_again() -> None:
    """A prune locks anew the packs that stay and all it takes to read them; what is to go is left to its lock."""
    backend = Vault()
    fill(backend)
    result = run_prune(backend, pack_size=PACK_SIZE, grace_h=24)
    extended = {kind: {name for each, name in backend.extended if each is kind} for kind in ObjectKind}
    for kind in (ObjectKind.CONFIG, ObjectKind.KEY, ObjectKind.SNAPSHOT, ObjectKind.INDEX):
        assert extended[kind] == names(backend, kind)
    assert result.condemned >= FORGOTTEN
    assert extended[ObjectKind.PACK] <= names(backend, ObjectKind.PACK)
    assert len(extended[ObjectKind.PACK]) == len(names(backend, ObjectKind.PACK)) - result.condemned
    assert result.locked == len(backend.extended) == len(set(backend.extended))

    later = FakeClock()
    later.advance(timedelta(hours=25).total_seconds())
    backend.extended.clear()
    again = run_prune(backend, pack_size=PACK_SIZE, grace_h=24, clock=later)
    assert again.deleted == result.condemned
    assert {name for kind, name in backend.extended if kind is ObjectKind.PACK} == names(backend, ObjectKind.PACK)


def test_what_somebody_deletes_meanwhile() -> None:
    """A pack that is gone when its lock is to begin again is no error, and does not count."""
    backend = Vault()
    fill(backend)
    gone = bytes(32)
    with reopen(backend) as repository:
        kept = bytes.fromhex(min(names(backend, ObjectKind.PACK)))
        count = extend_locks(repository, [gone, kept], never)
    assert (ObjectKind.PACK, kept.hex()) in backend.extended
    assert count == len(backend.extended)


def test_storages_without_locks() -> None:
    """Nothing is asked of a storage that has no locks."""
    backend = MemoryBackend()
    fill(backend)
    assert run_prune(backend, pack_size=PACK_SIZE).locked == 0
