"""Repairing packs: every blob that can be proved is kept, and what is lost is no longer held."""

from __future__ import annotations

from pathlib import Path

import pytest

from bfrepo.core.errors import DamagedObject, Interrupted, InvalidValue, ObjectNotFound, StorageError
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.index.format import PackState
from bfrepo.operations.repair_packs import plan_pack_repair, repair_packs
from bfrepo.pack.format import HEAD_SIZE
from bfrepo.repository.quarantine import Quarantine
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.damage import (
    EARLY,
    EVERYTHING,
    LATE,
    NEW_FILES,
    OLD_FILES,
    SmallRepository,
    flipped,
    index_of,
    make_small_repository,
    reopen_unread,
    replace_object,
    run_check,
    save_blob,
)
from tests.support.faulty import FaultyBackend
from tests.support.repairing import assert_nothing_whole_is_lost, mend_index, mend_packs, readable
from tests.support.repositories import names, reopen
from tests.support.restoring import expected, restored


def flip_frame_of(backend: MemoryBackend, small: SmallRepository, content: bytes) -> bytes:
    """Damage the frame that holds a blob; the pack."""
    place = small.frame_of(content)
    data = backend.load(ObjectKind.PACK, place.pack)
    replace_object(backend, ObjectKind.PACK, place.pack, flipped(data, place.offset + place.stored_size // 2))
    return bytes.fromhex(place.pack)


def blobs_in(small: SmallRepository, pack: bytes) -> set[bytes]:
    """The blobs of a pack by the index."""
    table = small.open().index.table
    return {blob_id for blob_id, place in table.blobs() if table.pack_of(place.frame) == pack}


def test_whole_packs_are_left_as_they_are(small: SmallRepository, quarantine: Path) -> None:
    """Where no pack is damaged nothing is written."""
    faulty = FaultyBackend(small.copy())

    plan = mend_packs(faulty, quarantine, [pack.hex()[:10] for pack in small.packs(BlobKind.DATA)])

    assert plan.does_nothing
    assert plan.proved == set(small.packs(BlobKind.DATA))


@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_a_flipped_byte(encryption: str, small: SmallRepository, quarantine: Path) -> None:
    """What shares the pack but not the frame is saved; the frame is lost, and a backup of the files heals it."""
    repository = small if encryption != "none" else make_small_repository("none")
    backend = repository.copy()
    pack = flip_frame_of(backend, repository, EARLY)
    before = readable(backend)

    plan = mend_packs(backend, quarantine)

    (damage,) = plan.damaged
    assert damage.id == pack
    assert damage.saved | damage.lost == blobs_in(repository, pack)
    assert not damage.saved & damage.lost
    assert damage.saved
    assert damage.lost
    assert_nothing_whole_is_lost(before, backend)
    table = reopen(backend).index.table
    assert not any(map(table.holds, damage.lost))
    assert all(map(table.holds, damage.saved))
    for tree in (OLD_FILES, NEW_FILES):
        run_backup(reopen(backend), tree)
    assert run_check(backend, EVERYTHING).findings == ()
    assert restored(reopen(backend).loader, repository.tree_of(repository.old)) == expected(OLD_FILES)


@pytest.mark.parametrize("cut", [1, 5000, 900_000])
@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_a_pack_that_is_cut(encryption: str, small: SmallRepository, quarantine: Path, cut: int) -> None:
    """The index knows what was in a pack that lost its directory: the frames that are left are saved."""
    repository = small if encryption != "none" else make_small_repository("none")
    backend = repository.copy()
    pack = repository.packs(BlobKind.DATA)[0]
    replace_object(backend, ObjectKind.PACK, pack.hex(), backend.load(ObjectKind.PACK, pack.hex())[:-cut])
    before = readable(backend)

    plan = mend_packs(backend, quarantine, [pack.hex()])

    assert bool(plan.lost) == (cut == 900_000)
    assert_nothing_whole_is_lost(before, backend)


def test_a_damaged_head(small: SmallRepository, quarantine: Path) -> None:
    """Of the head only the salt is needed to open the frames."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[0].hex()
    data = backend.load(ObjectKind.PACK, pack)
    replace_object(backend, ObjectKind.PACK, pack, b"x" * 9 + data[9:])

    plan = mend_packs(backend, quarantine)

    assert not plan.lost
    assert run_check(backend, EVERYTHING).findings == ()


@pytest.mark.parametrize("size", [0, 10, HEAD_SIZE])
def test_hardly_anything_is_left(small: SmallRepository, quarantine: Path, size: int) -> None:
    """A pack that is hardly more than a name is given up altogether, and a backup stores all of it again."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[0]
    replace_object(backend, ObjectKind.PACK, pack.hex(), backend.load(ObjectKind.PACK, pack.hex())[:size])

    plan = mend_packs(backend, quarantine)

    assert plan.lost == blobs_in(small, pack)
    for tree in (OLD_FILES, NEW_FILES):
        run_backup(reopen(backend), tree)
    assert not run_check(backend, EVERYTHING).errors


def test_a_newer_pack_is_not_damaged(small: SmallRepository, quarantine: Path) -> None:
    """A head of a newer version, in a pack of which nothing opens, is left alone whatever its bytes hash to."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[-1]
    data = backend.load(ObjectKind.PACK, pack.hex())
    newer = data[:6] + b"\0\2" + incompressible(77, len(data) - 8)
    replace_object(backend, ObjectKind.PACK, pack.hex(), newer)

    plan = mend_packs(backend, quarantine)

    assert plan.does_nothing
    assert [each.id for each in plan.left] == [pack]
    assert "not known to this program" in plan.left[0].reason


def test_another_copy_is_no_loss(small: SmallRepository, quarantine: Path) -> None:
    """A blob that a whole pack holds as well is not lost, and not copied."""
    backend = small.copy()
    pack = flip_frame_of(backend, small, LATE)
    other = reopen_unread(backend)
    save_blob(other, BlobKind.DATA, LATE)  # its index is empty, so it stores what is there already

    plan = mend_packs(backend, quarantine, [pack.hex()])

    assert other.blob_hash(LATE) not in plan.lost
    repository = reopen(backend)
    assert repository.loader.load(BlobKind.DATA, repository.blob_hash(LATE)) == LATE


def test_a_backup_heals_a_lost_pack_without_repair(small: SmallRepository, quarantine: Path) -> None:
    """A backup relies on nothing that a missing pack held; what the index still says of that pack, a repair drops."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[0]
    backend.delete(ObjectKind.PACK, pack.hex())
    for tree in (OLD_FILES, NEW_FILES):
        run_backup(reopen(backend), tree)

    (finding,) = run_check(backend, EVERYTHING).findings

    assert (finding.kind, finding.snapshots) == ("pack-missing", ())
    assert "none of which a snapshot lacks" in finding.message
    assert f"repair packs {pack.hex()[:8]}" in str(finding.hint)
    assert not mend_packs(backend, quarantine, [pack.hex()]).lost
    assert run_check(backend, EVERYTHING).findings == ()


def test_two_damaged_packs_with_one_blob(small: SmallRepository, quarantine: Path) -> None:
    """A blob that is intact in one damaged pack and lost in another is saved."""
    backend = small.copy()
    flip_frame_of(backend, small, LATE)
    known = names(backend, ObjectKind.PACK)
    other = reopen_unread(backend)
    save_blob(other, BlobKind.DATA, LATE)
    (second,) = names(backend, ObjectKind.PACK) - known
    replace_object(backend, ObjectKind.PACK, second, backend.load(ObjectKind.PACK, second)[:-20])

    plan = mend_packs(backend, quarantine)

    assert len(plan.damaged) == 2
    assert other.blob_hash(LATE) not in plan.lost
    repository = reopen(backend)
    assert repository.loader.load(BlobKind.DATA, repository.blob_hash(LATE)) == LATE


def test_a_copy_that_nobody_has_read_is_not_relied_on(small: SmallRepository, quarantine: Path) -> None:
    """What is intact in a damaged pack is copied although the index names it elsewhere, as that may be damaged, too."""
    backend = small.copy()
    pack = flip_frame_of(backend, small, EARLY)
    known = names(backend, ObjectKind.PACK)
    saved = plan_pack_repair(reopen_unread(backend), [], Quiet(), never).damaged[0].saved
    repository = reopen(backend)
    blob_id = min(saved)
    content = repository.loader.load(BlobKind.DATA, blob_id)
    save_blob(reopen_unread(backend), BlobKind.DATA, content)
    (copy,) = names(backend, ObjectKind.PACK) - known
    data = backend.load(ObjectKind.PACK, copy)
    replace_object(backend, ObjectKind.PACK, copy, flipped(data, HEAD_SIZE + 5))

    mend_packs(backend, quarantine, [pack.hex()])

    repository = reopen(backend)
    assert repository.loader.load(BlobKind.DATA, blob_id) == content


def test_the_damaged_pack_waits_for_a_prune(small: SmallRepository, quarantine: Path) -> None:
    """A damaged pack stays where it is, named as one that holds nothing, and is not repaired again."""
    backend = small.copy()
    pack = flip_frame_of(backend, small, EARLY)

    mend_packs(backend, quarantine)

    named = reopen(backend).index.table.pack(pack)
    assert named is not None
    assert (named.blobs, named.state) == (0, PackState.DOOMED)
    assert pack.hex() in names(backend, ObjectKind.PACK)
    assert mend_packs(backend, quarantine).does_nothing
    assert mend_index(backend, quarantine, read_all=True).does_nothing


def test_packs_by_their_ids(small: SmallRepository, quarantine: Path) -> None:
    """Only the packs that are named are read and repaired; what names none is refused."""
    backend = small.copy()
    first = flip_frame_of(backend, small, EARLY)
    gone = small.packs(BlobKind.DATA)[-1]
    backend.delete(ObjectKind.PACK, gone.hex())

    assert [damage.id for damage in mend_packs(backend, quarantine, [gone.hex()[:12]]).damaged] == [gone]
    assert [
        finding.object_ids for finding in run_check(backend, EVERYTHING).findings if finding.object_kind == "pack"
    ] == [(first,)]
    with pytest.raises(ObjectNotFound):
        mend_packs(backend, quarantine, ["0123456789"])
    with pytest.raises(InvalidValue):
        mend_packs(backend, quarantine, ["xyz"])


def test_a_damaged_index_comes_first(small: SmallRepository, quarantine: Path) -> None:
    """Without a sound index nobody knows what a pack should hold: the repair says what to do first."""
    faulty = FaultyBackend(small.copy())
    faulty.flip_byte(ObjectKind.INDEX, index_of(small, small.packs(BlobKind.DATA)[0]), 60)

    with pytest.raises(DamagedObject) as caught:
        mend_packs(faulty, quarantine)

    assert "repair index" in str(caught.value.hint)


def test_a_pack_that_the_storage_does_not_give(small: SmallRepository, quarantine: Path) -> None:
    """A pack that cannot be read may be whole: it is left alone, and the others are repaired."""
    faulty = FaultyBackend(small.copy())
    unreadable, cut = small.packs(BlobKind.DATA)[0], small.packs(BlobKind.DATA)[1]
    for method in ("read", "read_into"):
        faulty.fail(method, kind=ObjectKind.PACK, name=unreadable.hex(), forever=True)
    faulty.truncate(ObjectKind.PACK, cut.hex(), 100)

    plan = mend_packs(faulty, quarantine)

    assert [each.id for each in plan.left] == [unreadable]
    assert [each.id for each in plan.damaged] == [cut]
    faulty.heal()
    assert reopen(faulty).index.table.pack(unreadable).blobs  # type: ignore[union-attr]


def test_an_interruption(small: SmallRepository, quarantine: Path) -> None:
    """Whoever stops a repair while it copies finds the damaged pack as it was."""
    backend = small.copy()
    pack = flip_frame_of(backend, small, EARLY)
    repository = reopen_unread(backend)
    plan = plan_pack_repair(repository, [], Quiet(), never)
    before = readable(backend)

    with pytest.raises(Interrupted, match="copying"):
        repair_packs(repository, plan, Quarantine(quarantine), Quiet(), lambda: True, workers=1)

    assert_nothing_whole_is_lost(before, backend)
    assert reopen(backend).index.table.pack(pack).blobs  # type: ignore[union-attr]


def test_a_full_disk(small: SmallRepository, quarantine: Path) -> None:
    """Where what is intact cannot be copied, nothing is given up."""
    faulty = FaultyBackend(small.copy())
    place = small.frame_of(EARLY)
    faulty.flip_byte(ObjectKind.PACK, place.pack, place.offset + 1000)
    before = readable(faulty)
    faulty.fail("commit", kind=ObjectKind.PACK)

    with pytest.raises(StorageError):
        mend_packs(faulty, quarantine)

    assert_nothing_whole_is_lost(before, faulty)
    assert not quarantine.exists()
