"""The power fails after every single change that a repair makes: nothing that is whole is lost (INV-1, INV-2), and the
next repair ends what was begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bfrepo.core.ids import BlobKind
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import run_backup
from tests.support.damage import (
    EARLY,
    EVERYTHING,
    NEW_FILES,
    OLD_FILES,
    SmallRepository,
    flipped,
    index_of,
    replace_object,
    rewrite_index,
    run_check,
    swap_blob_sizes,
)
from tests.support.faulty import crash_points
from tests.support.repairing import (
    Readable,
    assert_nothing_whole_is_lost,
    mend_all,
    mend_index,
    mend_packs,
    mend_snapshots,
    readable,
)
from tests.support.repositories import reopen
from tests.support.restoring import misnamed, restored


def assert_safe_after_crashes(
    disk: MemoryBackend, run: Callable[[Backend], object], quarantine: Path, *, least: int
) -> None:
    """Whatever the moment, all that was readable is, the same repairs then succeed, and a backup heals the rest."""
    before, damaged = readable(disk), set(misnamed(disk))
    points = list(crash_points(run, disk=disk))
    assert len(points) >= least
    for point in points:
        assert set(misnamed(point.disk)) <= damaged, point
        after = assert_nothing_whole_is_lost(before, point.disk)
        assert_new_snapshots_are_whole(point.disk, before, after)
        mend_all(point.disk, quarantine, read_all=True)
        assert_nothing_whole_is_lost(before, point.disk)
        for tree in (OLD_FILES, NEW_FILES):
            run_backup(reopen(point.disk), tree)
        assert not run_check(point.disk, EVERYTHING).errors, point


def assert_new_snapshots_are_whole(disk: MemoryBackend, before: Readable, after: Readable) -> None:
    """INV-1: a snapshot that a repair has made restores in full, as soon as it is there."""
    new = after.keys() - before.keys()
    if new:
        repository = reopen(disk)
        for snapshot in new:
            restored(repository.loader, load_snapshots(repository)[snapshot].tree)


def test_repairing_the_index(small: SmallRepository, quarantine: Path) -> None:
    """A damaged index object, and another that is wrong, are replaced."""
    disk = small.copy()
    rewrite_index(small, disk, small.packs(BlobKind.DATA)[0], swap_blob_sizes)
    name = index_of(small, small.packs(BlobKind.DATA)[-1])
    replace_object(disk, ObjectKind.INDEX, name, flipped(disk.load(ObjectKind.INDEX, name), 60))

    assert_safe_after_crashes(disk, lambda backend: mend_index(backend, quarantine, read_all=True), quarantine, least=6)


def test_repairing_packs(small: SmallRepository, quarantine: Path) -> None:
    """A damaged pack is given up after what is intact in it was copied; another is gone."""
    disk = small.copy()
    place = small.frame_of(EARLY)
    replace_object(disk, ObjectKind.PACK, place.pack, flipped(disk.load(ObjectKind.PACK, place.pack), place.offset + 9))
    disk.delete(ObjectKind.PACK, small.packs(BlobKind.DATA)[-1].hex())

    assert_safe_after_crashes(disk, lambda backend: mend_packs(backend, quarantine), quarantine, least=10)


@pytest.mark.parametrize("forget", [False, True])
def test_repairing_snapshots(small: SmallRepository, quarantine: Path, forget: bool) -> None:
    """Both snapshots lack files; new ones are made, and the originals may go when those are there."""
    disk = small.copy()
    disk.delete(ObjectKind.PACK, small.packs(BlobKind.DATA)[0].hex())
    mend_packs(disk, quarantine)
    before = readable(disk)

    points = list(crash_points(lambda backend: mend_snapshots(backend, quarantine, forget=forget), disk=disk))

    assert len(points) >= (16 if forget else 12)
    for point in points:
        after = readable(point.disk)
        for snapshot, files in before.items():  # itself, or its successor
            assert files in after.values(), (point, snapshot)
        assert_new_snapshots_are_whole(point.disk, before, after)
        mend_snapshots(point.disk, quarantine, forget=True)
        assert not run_check(point.disk, EVERYTHING).errors, point
        assert sorted(map(len, readable(point.disk).values())) == sorted(map(len, before.values())), point


def test_a_second_crash(small: SmallRepository, quarantine: Path) -> None:
    """INV-2: the repair that follows a crash may crash as well."""
    disk = small.copy()
    place = small.frame_of(EARLY)
    replace_object(disk, ObjectKind.PACK, place.pack, flipped(disk.load(ObjectKind.PACK, place.pack), place.offset + 9))
    before = readable(disk)

    def run(backend: Backend) -> object:
        return mend_packs(backend, quarantine)

    for first in [point for point in crash_points(run, disk=disk) if point.when == "after"]:
        for second in crash_points(run, disk=first.disk):
            assert_nothing_whole_is_lost(before, second.disk)
