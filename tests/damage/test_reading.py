"""How a check reads: which packs, with how many threads, in how much memory, and that it ends when it should."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest

from bfrepo.checker.findings import AffectedSnapshot
from bfrepo.checker.sampling import Amount, Part
from bfrepo.core.errors import Interrupted, RepositoryNotFound, StorageError
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.core.units import MIB
from bfrepo.operations.check import CheckOptions, check, check_without_key
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.damage import (
    EVERYTHING,
    SmallRepository,
    copy_of,
    only_error,
    reopen_unread,
    replace_object,
    run_check,
)
from tests.support.faulty import FaultyBackend
from tests.support.repositories import FakeClock, make_repository


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_any_number_of_threads_finds_the_same(small: SmallRepository, workers: int) -> None:
    """More threads than packs help each other, and a pack is judged once."""
    faulty = FaultyBackend(small.backend)
    first, *_, last = small.packs(BlobKind.DATA)
    for pack in (first, last):
        faulty.flip_byte(ObjectKind.PACK, pack.hex(), -100)

    result = check(reopen_unread(faulty), CheckOptions(read=EVERYTHING, workers=workers), Quiet(), never)

    assert sorted(finding.object_ids for finding in result.findings) == sorted([(first,), (last,)])


def test_every_byte_is_read_once(small: SmallRepository) -> None:
    """Reading everything asks the storage for each pack's frames once, in large pieces."""
    faulty = FaultyBackend(small.backend)

    run_check(faulty, EVERYTHING)

    data_packs = {pack.hex() for pack in small.packs(BlobKind.DATA)}
    pieces = Counter(call.name for call in faulty.calls if call.method == "read_into" and call.name in data_packs)
    assert pieces.keys() == data_packs
    assert max(pieces.values()) <= 4


def test_a_part_reads_its_packs_only(small: SmallRepository) -> None:
    """What is not in the part is left alone, and the result says which packs were read."""
    faulty = FaultyBackend(small.backend)
    packs = {pack: 1 for kind in BlobKind for pack in small.packs(kind)}
    parts = [set(Part(number, 3).choose(packs)) for number in (1, 2, 3)]
    damaged = small.packs(BlobKind.DATA)[0]
    faulty.flip_byte(ObjectKind.PACK, damaged.hex(), 5000)

    results = [run_check(faulty, Part(number, 3)) for number in (1, 2, 3)]

    assert [set(result.packs_read) for result in results] == parts
    assert [bool(result.findings) for result in results] == [damaged in part for part in parts]


def test_an_amount_reads_so_much(small: SmallRepository) -> None:
    """A random sample by size has that size, and the packs it read are named."""
    result = run_check(small.backend, Amount(1))

    assert len(result.packs_read) == 1
    assert result.bytes_read == small.backend.size(ObjectKind.PACK, result.packs_read[0].hex())


def test_progress_counts_every_byte(small: SmallRepository) -> None:
    """When all is read, the counters have reached their totals."""
    quiet = Quiet()

    result = check(reopen_unread(small.backend), CheckOptions(read=EVERYTHING), quiet, never)

    assert quiet.progress.bytes_done == quiet.progress.bytes_total == result.bytes_read
    assert quiet.progress.files_done > 0


def test_memory_does_not_grow_with_packs() -> None:
    """A pack is never in memory as a whole."""
    repository = make_repository(compression="none")
    run_backup(repository, {f"/data/{number}": incompressible(number, MIB) for number in range(40)})
    tracemalloc.start()
    try:
        result = run_check(repository.backend, EVERYTHING)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert result.bytes_read > 40 * MIB
    assert peak < 24 * MIB


def test_a_check_stops_when_asked(small: SmallRepository) -> None:
    """Interrupted is raised once threads have ended, whether they or the walk notice first."""
    for moment in (0, 1, 3, 5, 9):
        calls = iter(range(10**6))
        with pytest.raises(Interrupted):
            check(
                reopen_unread(small.backend),
                CheckOptions(read=EVERYTHING),
                Quiet(),
                lambda moment=moment, calls=calls: next(calls) >= moment,  # type: ignore[misc]
            )


@pytest.mark.parametrize("kind", [ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.SNAPSHOT, ObjectKind.CLAIM])
def test_a_listing_that_fails_ends_the_check(small: SmallRepository, kind: ObjectKind) -> None:
    """Without a listing nothing can be said to be there: that is an error, never a clean result."""
    faulty = FaultyBackend(small.backend)
    faulty.fail("list", kind=kind, forever=True)

    with pytest.raises(StorageError):
        run_check(faulty, EVERYTHING)


def test_a_mistake_in_a_thread_is_not_swallowed(small: SmallRepository) -> None:
    """What is no error of ours comes out of the check."""
    faulty = FaultyBackend(small.backend)
    name = small.packs(BlobKind.DATA)[0].hex()
    faulty.fail("read_into", kind=ObjectKind.PACK, name=name, forever=True, error=ZeroDivisionError("a mistake"))

    with pytest.raises(ZeroDivisionError):
        run_check(faulty, EVERYTHING)


# --- without a key


def test_without_a_key_nothing_is_said_of_a_whole_repository(small: SmallRepository) -> None:
    """Every object is counted and read."""
    quiet = Quiet()

    result = check_without_key(small.backend, FakeClock(), quiet, never)

    assert (result.findings, result.snapshots, result.packs, len(result.packs_read)) == ((), 2, 5, 5)
    assert quiet.progress.bytes_done == quiet.progress.bytes_total


def test_without_a_key_a_damaged_snapshot_is_its_own_dependent(small: SmallRepository) -> None:
    """Hashes tell what is damaged; what depends on it only as far as that needs no key."""
    faulty = FaultyBackend(small.backend)
    faulty.truncate(ObjectKind.SNAPSHOT, small.old.hex(), 10)

    finding = only_error(check_without_key(faulty, FakeClock(), Quiet(), never))

    assert (finding.kind, finding.object_ids) == ("snapshot-damaged", (small.old,))
    assert finding.snapshots == (AffectedSnapshot(small.old, ""),)


def test_without_a_key_an_object_that_cannot_be_read(small: SmallRepository) -> None:
    """A failing disk is told from damage."""
    faulty = FaultyBackend(small.backend)
    name = small.packs(BlobKind.TREE)[0].hex()
    faulty.fail("read_into", kind=ObjectKind.PACK, name=name, forever=True)

    finding = only_error(check_without_key(faulty, FakeClock(), Quiet(), never))

    assert (finding.kind, finding.object_ids) == ("unreadable", (bytes.fromhex(name),))


def test_without_a_key_a_newer_config_is_unknown(small: SmallRepository) -> None:
    """A repository of a later version is no damaged one."""
    backend = copy_of(small.backend)
    config = backend.load(ObjectKind.CONFIG, "config")
    replace_object(backend, ObjectKind.CONFIG, "config", config.replace(b'"format": 1', b'"format": 2'))

    finding = only_error(check_without_key(backend, FakeClock(), Quiet(), never))

    assert (finding.kind, finding.object_kind) == ("unknown-version", "config")


def test_without_a_key_and_without_a_repository() -> None:
    """Nothing is no repository."""
    with pytest.raises(RepositoryNotFound):
        check_without_key(MemoryBackend(), FakeClock(), Quiet(), never)
