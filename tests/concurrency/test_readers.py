"""Who reads while a prune moves what is read: the blob is found where it is now."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.operations.forget import remove_snapshots
from bfrepo.operations.prune import PruneResult, UnusedLimit, prune
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.faulty import FaultyBackend
from tests.support.programs import AT_ONCE
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import expected, restored
from tests.support.sources import Item

TREES: list[Mapping[str, Item | bytes]] = [
    {f"data/{number}": incompressible(number, 9_000) for number in range(count)} for count in (6, 4, 2)
]
"""Each is a part of the one before."""


def repack(backend: MemoryBackend | FaultyBackend) -> PruneResult:
    """Forget the oldest snapshot; delete at once what it alone needs, down to the last byte."""
    repository = reopen(backend)
    remove_snapshots(repository, [next(iter(load_snapshots(repository)))], Quiet())
    options = type(AT_ONCE)(grace=AT_ONCE.grace, max_unused=UnusedLimit.parse("0%"), workers=1)
    return prune(repository, options, Quiet(), never)


@pytest.fixture
def backend() -> MemoryBackend:
    """Storage with three snapshots, all of them in the packs of the first."""
    backend = MemoryBackend()
    clock = FakeClock()
    repository = make_repository(backend, clock=clock)
    for tree in TREES:
        run_backup(repository, tree)
        clock.advance(1)
    return backend


def root_of_latest(repository: Repository) -> bytes:
    """The tree of the snapshot that stays."""
    return list(load_snapshots(repository).values())[-1].tree


def test_what_was_moved_is_found(backend: MemoryBackend) -> None:
    """A reader that has the index of before reads all that its snapshot needs after one prune, and after another."""
    reader = reopen(backend)
    root = root_of_latest(reader)
    for _ in range(2):
        before = names(backend, ObjectKind.PACK)
        assert repack(backend).repacked
        assert before - names(backend, ObjectKind.PACK)
        assert restored(reader.loader, root) == expected(TREES[-1])
    assert restored(reopen(backend).loader, root) == expected(TREES[-1])


def test_what_is_gone_for_good_hides_nothing(backend: MemoryBackend) -> None:
    """Who first asks for a blob that nothing needs any more is told so, and finds others of its pack all the same."""
    reader = reopen(backend)
    root = root_of_latest(reader)
    repack(backend)
    needed = {blob_id for blob_id, _ in reopen(backend).index.table.blobs()}
    for unneeded in {blob_id for blob_id, _ in reader.index.table.blobs()} - needed:
        with pytest.raises(DamagedObject, match="missing"):
            reader.loader.load(BlobKind.DATA, unneeded)
    assert restored(reader.loader, root) == expected(TREES[-1])


def test_who_has_to_know_what_an_index_says_is_not_helped(backend: MemoryBackend) -> None:
    """A prune or a check reads by one index alone, and is told what is gone by that."""
    reader = reopen(backend)
    root = root_of_latest(reader)
    repack(backend)
    with pytest.raises(DamagedObject, match="missing"):
        restored(reader.make_loader(reader.index), root)


def test_a_lost_pack_is_looked_for_once(backend: MemoryBackend) -> None:
    """A pack that is lost is not moved: nothing is read of an index that has not changed, nor again for each blob."""
    faulty = FaultyBackend(backend)
    reader = reopen(faulty)
    root = root_of_latest(reader)
    for name in names(backend, ObjectKind.PACK):
        backend.delete(ObjectKind.PACK, name)
    faulty.calls.clear()
    for _ in range(3):
        with pytest.raises(DamagedObject, match="missing"):
            restored(reader.loader, root)
    assert [call.kind for call in faulty.calls if call.method == "list"] == [ObjectKind.INDEX]
    assert [call for call in faulty.calls if call.method == "load"] == []
