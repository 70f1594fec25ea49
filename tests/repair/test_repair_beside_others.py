"""Repairs beside backups and prunes, with no locks: whoever relied on what is given up finds out, and nothing that is
whole is lost (INV-8)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.operations.backup import backup
from bfrepo.repository.index_edit import entries_of
from bfrepo.repository.remains import PackRemains
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import backup_options, never
from tests.support.damage import (
    EARLY,
    NEW_FILES,
    SmallRepository,
    flipped,
    reopen_unread,
    replace_object,
)
from tests.support.faulty import Call, FaultyBackend, copy_of
from tests.support.pruning import Prune
from tests.support.repairing import assert_nothing_whole_is_lost, mend_packs, readable
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


def prune(backend: Backend, name: str) -> None:
    """A prune without grace. It stops when what is needed is lost, as it must."""
    with suppress(DamagedObject):
        Prune(backend, name).run()


@pytest.fixture(params=["one copy", "two copies"])
def damaged(small: SmallRepository, request: pytest.FixtureRequest) -> MemoryBackend:
    """A damaged pack. With a second copy of what is intact in it, prune and repair could each count on the other's."""
    backend = small.copy()
    pack = flip_frame_of(backend, small, EARLY)
    if request.param == "two copies":
        repository, copy = reopen(backend), reopen_unread(backend)
        saver = copy.make_saver(saver_options(copy))  # it knows of nothing, so it stores what is there
        for _, _, blob in PackRemains(
            repository, pack, backend.size(ObjectKind.PACK, pack.hex()), entries_of(copy, {pack})[pack]
        ).blobs():
            saver.save(BlobKind.DATA, blob)
        saver.flush()
        saver.close()
    return backend


def test_a_prune_at_any_moment(damaged: MemoryBackend, quarantine: Path) -> None:
    """INV-8: a prune without grace that runs in the middle of a repair takes away nothing that is whole."""
    before = readable(damaged)
    for number in count(1):
        backend = copy_of(damaged)
        between = Interrupting(backend, number, partial(prune, backend, "other"))
        mend_packs(between, quarantine)
        if between.left > 0:
            break
        assert_nothing_whole_is_lost(before, backend)
        prune(backend, "last")
        assert_nothing_whole_is_lost(before, backend)
    assert number > 3


def test_a_repair_at_any_moment_of_a_prune(damaged: MemoryBackend, small: SmallRepository, quarantine: Path) -> None:
    """INV-8: the same, with the repair in the middle of the prune."""
    damaged.delete(ObjectKind.SNAPSHOT, small.new.hex())
    before = readable(damaged)
    for number in count(1):
        backend = copy_of(damaged)
        between = Interrupting(backend, number, partial(mend_packs, backend, quarantine))
        prune(between, "slow")
        if between.left > 0:
            break
        assert_nothing_whole_is_lost(before, backend)
    assert number > 3


def test_a_prune_removes_what_was_given_up(small: SmallRepository, quarantine: Path) -> None:
    """The next prune deletes the damaged pack, and what is left of it is in the new ones."""
    backend = small.copy()
    pack = flip_frame_of(backend, small, EARLY)
    before = readable(backend)
    mend_packs(backend, quarantine)

    Prune(backend, "later").run()

    assert pack.hex() not in names(backend, ObjectKind.PACK)
    assert_nothing_whole_is_lost(before, backend)


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
