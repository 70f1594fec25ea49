"""Repairs beside backups and prunes, with no locks: whoever relied on what is given up finds out, and nothing that is
whole is lost (INV-8)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.operations.backup import backup
from bfrepo.operations.prune import CannotPrune, PruneOptions, prune
from bfrepo.repository.index_edit import entries_of
from bfrepo.repository.prune import UnusedLimit
from bfrepo.repository.remains import PackRemains
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import backup_options, never, run_backup
from tests.support.damage import (
    EARLY,
    EVERYTHING,
    NEW_FILES,
    OLD_FILES,
    SmallRepository,
    flipped,
    index_of,
    reopen_unread,
    replace_object,
    run_check,
)
from tests.support.faulty import Call, FaultyBackend, copy_of
from tests.support.pruning import Prune
from tests.support.repairing import assert_nothing_whole_is_lost, mend_index, mend_packs, readable
from tests.support.repositories import names, reopen, saver_options
from tests.support.restoring import expected, restored
from tests.support.sources import DictSource

CHANGES = frozenset({"save", "commit", "delete"})


class Interrupting(FaultyBackend):
    """Something else happens just before the change with that number, counted from 1."""

    def __init__(self, inner: Backend, number: int, otherwise: Callable[[], object]) -> None:
        super().__init__(inner)
        self.left = number
        self._otherwise = otherwise

    def enter(self, call: Call) -> None:
        if call.method in CHANGES:
            self.left -= 1
            if not self.left:
                self._otherwise()
        super().enter(call)


def flip_frame_of(backend: MemoryBackend, small: SmallRepository, content: bytes) -> bytes:
    """Damage the frame that holds a blob; the pack."""
    place = small.frame_of(content)
    data = flipped(backend.load(ObjectKind.PACK, place.pack), place.offset + place.stored_size // 2)
    replace_object(backend, ObjectKind.PACK, place.pack, data)
    return bytes.fromhex(place.pack)


def test_a_backup_that_relied_on_what_is_given_up(small: SmallRepository, quarantine: Path) -> None:
    """A backup that began before the repair stores again what it took for held; its snapshot is whole (INV-1)."""
    backend = small.copy()
    flip_frame_of(backend, small, EARLY)
    repairs = [lambda: mend_packs(backend, quarantine)]

    def open_source() -> DictSource:
        while repairs:
            repairs.pop()()  # the backup has read the index by now
        return DictSource(NEW_FILES)

    result = backup(reopen_unread(backend), open_source, backup_options(), Quiet(), never)

    assert not repairs
    assert restored(reopen(backend).loader, result.snapshot.tree) == expected(NEW_FILES)


def model_prune(backend: Backend) -> None:
    """What the design says a prune does, without grace. It stops when what is needed is lost, as it must."""
    with suppress(DamagedObject):
        Prune(backend, "model").run()


def real_prune(backend: Backend) -> None:
    """The prune of the program, without grace, which leaves nothing unused."""
    options = PruneOptions(grace=timedelta(0), max_unused=UnusedLimit(percent=0), workers=1)
    with suppress(DamagedObject, CannotPrune):
        prune(reopen_unread(backend), options, Quiet(), never)


any_prune = pytest.mark.parametrize("prunes", [model_prune, real_prune])


@pytest.fixture(params=["flipped, one copy", "flipped, two copies", "cut, one copy", "cut, two copies"])
def damaged(small: SmallRepository, request: pytest.FixtureRequest) -> MemoryBackend:
    """A damaged pack: a frame is lost, or nothing but its directory.

    With a second copy of what is intact in it, prune and repair could each count on the other's.
    """
    backend = small.copy()
    pack = bytes.fromhex(small.frame_of(EARLY).pack)
    if "flipped" in request.param:
        flip_frame_of(backend, small, EARLY)
    else:
        replace_object(backend, ObjectKind.PACK, pack.hex(), backend.load(ObjectKind.PACK, pack.hex())[:-9])
    if "two" in request.param:
        repository, copy = reopen(backend), reopen_unread(backend)
        saver = copy.make_saver(saver_options(copy))  # it knows of nothing, so it stores what is there
        size = backend.size(ObjectKind.PACK, pack.hex())
        for _, _, blob in PackRemains(repository, pack, size, entries_of(copy, {pack})[pack]).blobs():
            saver.save(BlobKind.DATA, blob)
        saver.flush()
        saver.close()
    return backend


@any_prune
def test_a_prune_at_any_moment(damaged: MemoryBackend, quarantine: Path, prunes: Callable[[Backend], None]) -> None:
    """INV-8: a prune without grace that runs in the middle of a repair takes away nothing that is whole."""
    before = readable(damaged)
    for number in count(1):
        backend = copy_of(damaged)
        between = Interrupting(backend, number, partial(prunes, backend))
        mend_packs(between, quarantine)
        if between.left > 0:
            break
        assert_nothing_whole_is_lost(before, backend)
        prunes(backend)
        assert_nothing_whole_is_lost(before, backend)
    assert number > 3


@any_prune
def test_a_repair_at_any_moment_of_a_prune(
    damaged: MemoryBackend, small: SmallRepository, quarantine: Path, prunes: Callable[[Backend], None]
) -> None:
    """INV-8: the same, with the repair in the middle of the prune."""
    damaged.delete(ObjectKind.SNAPSHOT, small.new.hex())
    before = readable(damaged)
    for number in count(1):
        backend = copy_of(damaged)
        between = Interrupting(backend, number, partial(mend_packs, backend, quarantine))
        prunes(between)
        if between.left > 0:
            break
        assert_nothing_whole_is_lost(before, backend)
    assert number > 3


@any_prune
def test_a_prune_removes_what_was_given_up(
    small: SmallRepository, quarantine: Path, prunes: Callable[[Backend], None]
) -> None:
    """The next prune after the healing deletes the damaged pack, and what is left of it is in the new ones."""
    backend = small.copy()
    pack = flip_frame_of(backend, small, EARLY)
    mend_packs(backend, quarantine)
    for tree in (OLD_FILES, NEW_FILES):
        run_backup(reopen(backend), tree)
    before = readable(backend)

    prunes(backend)

    assert pack.hex() not in names(backend, ObjectKind.PACK)
    assert_nothing_whole_is_lost(before, backend)
    assert run_check(backend, EVERYTHING).findings == ()


def test_two_repairs_at_once(damaged: MemoryBackend, quarantine: Path) -> None:
    """Two repairs of one pack at the same time give it up once or twice, and lose nothing."""
    before = readable(damaged)
    for number in count(1):
        backend = copy_of(damaged)
        between = Interrupting(backend, number, partial(mend_packs, backend, quarantine))
        mend_packs(between, quarantine)
        if between.left > 0:
            break
        assert_nothing_whole_is_lost(before, backend)
        assert mend_packs(backend, quarantine).does_nothing
    assert number > 3


@pytest.fixture(params=["lost", "damaged"])
def without_index(small: SmallRepository, request: pytest.FixtureRequest) -> MemoryBackend:
    """An index object is lost or damaged, and there is something for a prune to do."""
    backend = small.copy()
    backend.delete(ObjectKind.SNAPSHOT, small.new.hex())
    name = index_of(small, small.packs(BlobKind.DATA)[0])
    data = backend.load(ObjectKind.INDEX, name)
    backend.delete(ObjectKind.INDEX, name)
    if request.param == "damaged":
        backend.save(ObjectKind.INDEX, name, flipped(data, 60))
    return backend


@any_prune
def test_a_prune_at_any_moment_of_an_index_repair(
    without_index: MemoryBackend, quarantine: Path, prunes: Callable[[Backend], None]
) -> None:
    """INV-8: while the index is made again a prune deletes nothing that is needed."""
    before = readable(without_index)
    for number in count(1):
        backend = copy_of(without_index)
        between = Interrupting(backend, number, partial(prunes, backend))
        mend_index(between, quarantine)
        if between.left > 0:
            break
        assert_nothing_whole_is_lost(before, backend)
        prunes(backend)
        assert_nothing_whole_is_lost(before, backend)
        assert not run_check(backend, EVERYTHING).errors
    assert number > 1


def test_an_index_repair_at_any_moment_of_a_prune(small: SmallRepository, quarantine: Path) -> None:
    """INV-8: what a prune is about to delete may be named again meanwhile; whatever is needed stays."""
    backend = small.copy()
    backend.delete(ObjectKind.SNAPSHOT, small.new.hex())
    backend.delete(ObjectKind.INDEX, index_of(small, small.packs(BlobKind.DATA)[-1]))  # so its packs are garbage
    before = readable(backend)
    for number in count(1):
        disk = copy_of(backend)
        between = Interrupting(disk, number, partial(mend_index, disk, quarantine))
        real_prune(between)
        if between.left > 0:
            break
        assert_nothing_whole_is_lost(before, disk)
        run_backup(reopen(disk), NEW_FILES)
        mend_index(disk, quarantine)
        assert not run_check(disk, EVERYTHING).errors
    assert number > 3
