"""Repairing the index: what it says afterwards is what the packs say, and no flag is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from bfrepo.core.errors import BackupForgeError, DamagedObject, StorageDenied, StorageError, UnsupportedFormat
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.index.format import IndexContent, PackEntry, PackFlag, PackState, encode_index
from bfrepo.operations.repair_index import plan_index_repair, repair_index
from bfrepo.repository.quarantine import Quarantine
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never, run_backup
from tests.support.damage import (
    EVERYTHING,
    NEW_FILES,
    SmallRepository,
    flipped,
    index_of,
    indexes,
    reopen_unread,
    replace_object,
    rewrite_index,
    run_check,
    save_flag,
    swap_blob_sizes,
)
from tests.support.faulty import FaultyBackend
from tests.support.repairing import mend_index
from tests.support.repositories import START, names, reopen


def damage_object(backend: MemoryBackend, kind: ObjectKind, name: str) -> bytes:
    """Change a byte of an object; the bytes it has then."""
    data = flipped(backend.load(kind, name), 60)
    replace_object(backend, kind, name, data)
    return data


def test_a_whole_index_is_left_as_it_is(small: SmallRepository, quarantine: Path) -> None:
    """Where nothing is wrong nothing is written, and nothing taken out."""
    faulty = FaultyBackend(small.copy())

    plan = mend_index(faulty, quarantine, read_all=True)

    assert plan.does_nothing
    assert {call.method for call in faulty.calls} <= {"list", "size", "load", "read", "read_into"}
    assert not quarantine.exists()


@pytest.mark.parametrize("read_all", [False, True])
def test_an_index_that_describes_packs_wrongly(small: SmallRepository, quarantine: Path, read_all: bool) -> None:
    """A wrong directory in the index is only seen by whoever reads those of the packs; a wrong size always."""
    backend = small.copy()
    moved, resized = small.packs(BlobKind.DATA)[0], small.packs(BlobKind.TREE)[-1]
    rewrite_index(small, backend, moved, swap_blob_sizes)
    rewrite_index(small, backend, resized, lambda entry: msgspec.structs.replace(entry, size=entry.size + 1))

    plan = mend_index(backend, quarantine, read_all=read_all)

    assert set(plan.corrected) == ({moved, resized} if read_all else {resized})
    assert [finding.object_ids for finding in run_check(backend, EVERYTHING).findings] == (
        [] if read_all else [(moved,)]
    )


def test_contradictions(small: SmallRepository, quarantine: Path) -> None:
    """Of two index objects that contradict each other the pack itself is asked who is right."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[-1]
    entry = next(each for content in indexes(small.open()).values() for each in content.packs if each.id == pack)
    wrong = encode_index(IndexContent(packs=[swap_blob_sizes(entry)]))
    reopen_unread(backend).objects.save(ObjectKind.INDEX, wrong)

    plan = mend_index(backend, quarantine)

    assert plan.corrected == (pack,)
    assert run_check(backend, EVERYTHING).findings == ()


def test_a_pack_that_is_gone(small: SmallRepository, quarantine: Path) -> None:
    """The index no longer counts on a pack that is gone; when it is back, it is named again."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[-1]
    data = backend.load(ObjectKind.PACK, pack.hex())
    backend.delete(ObjectKind.PACK, pack.hex())

    assert mend_index(backend, quarantine).gone == (pack,)

    assert reopen(backend).index.table.pack(pack) is None
    backend.save(ObjectKind.PACK, pack.hex(), data)
    assert mend_index(backend, quarantine).named_again == (pack,)
    assert run_check(backend, EVERYTHING).findings == ()


def test_a_pack_that_a_listing_leaves_out(small: SmallRepository, quarantine: Path) -> None:
    """A pack that is not listed and can be read all the same is not gone: the listing is wrong."""
    faulty = FaultyBackend(small.copy())
    faulty.hide(ObjectKind.PACK, small.packs(BlobKind.DATA)[-1].hex())

    assert mend_index(faulty, quarantine).does_nothing


def test_flags_are_kept(small: SmallRepository, quarantine: Path) -> None:
    """Flags, and what is taken back, survive that their index object is replaced; those of others are left alone."""
    backend = small.copy()
    first, second = small.packs(BlobKind.DATA)[:2]
    repository = reopen_unread(backend)
    name = index_of(small, first)
    content = indexes(repository)[name]
    wanted: list[tuple[bytes, Literal["condemned", "doomed"]]] = [
        (first, "condemned"), (second, "doomed"), (second, "condemned"),
    ]  # fmt: skip
    content.flags = [
        PackFlag(id=bytes([number]) * 16, state=state, pack=pack, time=START.isoformat())
        for number, (pack, state) in enumerate(wanted)
    ]
    content.revoked = [content.flags[1].id]
    content.packs = [msgspec.structs.replace(each, size=each.size + (each.id == first)) for each in content.packs]
    backend.delete(ObjectKind.INDEX, name)
    repository.objects.save(ObjectKind.INDEX, encode_index(content))
    save_flag(repository, small.packs(BlobKind.DATA)[-1], "doomed")

    mend_index(backend, quarantine)

    states = {pack.id: pack.state for pack in reopen(backend).index.table.packs()}
    assert [states[pack] for pack in small.packs(BlobKind.DATA)] == [
        PackState.CONDEMNED, PackState.CONDEMNED, PackState.DOOMED,
    ]  # fmt: skip
    assert reopen(backend).index.revoked == set(content.revoked)


def test_the_doom_of_a_pack_that_is_there_is_not_moved(small: SmallRepository, quarantine: Path) -> None:
    """INV-8: who lists while objects are replaced may see neither; no doom may be missed while its pack is there."""
    backend = small.copy()
    wrong, doomed = small.packs(BlobKind.DATA)[:2]
    rewrite_index(small, backend, wrong, lambda entry: msgspec.structs.replace(entry, size=entry.size + 1))
    repository = reopen_unread(backend)
    [(name, content)] = [
        (name, content) for name, content in indexes(repository).items() if wrong in {each.id for each in content.packs}
    ]
    content.flags = [PackFlag(id=b"f" * 16, state="doomed", pack=doomed, time=START.isoformat())]
    backend.delete(ObjectKind.INDEX, name)
    repository.objects.save(ObjectKind.INDEX, encode_index(content))
    before = names(backend, ObjectKind.INDEX)

    with pytest.raises(BackupForgeError, match="is about to be deleted") as caught:
        mend_index(backend, quarantine)

    assert "backupforge prune" in (caught.value.hint or "")
    assert names(backend, ObjectKind.INDEX) == before
    backend.delete(ObjectKind.PACK, doomed.hex())
    assert mend_index(backend, quarantine).corrected
    flags = [flag for content in indexes(repository).values() for flag in content.flags]
    assert [flag.id for flag in flags] == [b"f" * 16]


def test_an_entry_that_makes_no_sense(small: SmallRepository, quarantine: Path) -> None:
    """One entry that does not decode takes nothing along: the others of its index object, and its flags, are kept."""
    backend = small.copy()
    packs = small.packs(BlobKind.DATA)
    repository = reopen_unread(backend)
    name = index_of(small, packs[0])
    content = indexes(repository)[name]
    content.flags = [PackFlag(id=b"f" * 16, state="condemned", pack=packs[1], time=START.isoformat())]
    content.packs = [PackEntry(id=packs[0], size=1, directory=b"nonsense"), *content.packs[1:]]
    backend.delete(ObjectKind.INDEX, name)
    damaged = repository.objects.save(ObjectKind.INDEX, encode_index(content))
    with pytest.raises(DamagedObject) as caught:
        run_backup(reopen_unread(backend), NEW_FILES)
    assert "repair index" in str(caught.value.hint)

    plan = mend_index(backend, quarantine)

    assert list(plan.damaged) == [damaged]
    assert reopen(backend).index.table.pack(packs[1]).state is PackState.CONDEMNED  # type: ignore[union-attr]
    assert not run_check(backend, EVERYTHING).errors


def test_what_is_taken_out_is_kept(small: SmallRepository, quarantine: Path) -> None:
    """A damaged index object lies in the quarantine, byte for byte, before it leaves the repository."""
    backend = small.copy()
    name = index_of(small, small.packs(BlobKind.DATA)[0])
    data = damage_object(backend, ObjectKind.INDEX, name)

    mend_index(backend, quarantine)

    assert (quarantine / f"index-{name}").read_bytes() == data
    assert name not in names(backend, ObjectKind.INDEX)


def test_no_quarantine_no_removal(small: SmallRepository, tmp_path: Path) -> None:
    """Where no copy can be kept, nothing is taken out, and the new index is there all the same."""
    backend = small.copy()
    name = index_of(small, small.packs(BlobKind.DATA)[0])
    damage_object(backend, ObjectKind.INDEX, name)
    (tmp_path / "file").touch()

    with pytest.raises(BackupForgeError, match="so it stays"):
        mend_index(backend, tmp_path / "file")

    assert name in names(backend, ObjectKind.INDEX)
    backend.delete(ObjectKind.INDEX, name)
    assert run_check(backend, EVERYTHING).findings == ()


def test_the_same_name_twice_in_the_quarantine(small: SmallRepository, quarantine: Path) -> None:
    """What lies in the quarantine is never overwritten by other bytes."""
    backend = small.copy()
    name = index_of(small, small.packs(BlobKind.DATA)[0])
    quarantine.mkdir(parents=True)
    (quarantine / f"index-{name}").write_bytes(b"an earlier one")
    data = damage_object(backend, ObjectKind.INDEX, name)

    mend_index(backend, quarantine)

    assert (quarantine / f"index-{name}").read_bytes() == b"an earlier one"
    assert (quarantine / f"index-{name}.2").read_bytes() == data


def test_an_unknown_version_stops_everything(small: SmallRepository, quarantine: Path) -> None:
    """What is of a newer version is not damaged: nothing is done while it is there, not even to what is damaged."""
    faulty = FaultyBackend(small.copy())
    newer = msgspec.msgpack.encode({"version": 2, "packs": []})
    reopen_unread(faulty).objects.save(ObjectKind.INDEX, newer)
    faulty.flip_byte(ObjectKind.INDEX, index_of(small, small.packs(BlobKind.DATA)[0]), 60)
    before = len(faulty.calls)

    with pytest.raises(UnsupportedFormat):
        mend_index(faulty, quarantine)

    assert {call.method for call in faulty.calls[before:]} <= {"list", "load"}


@pytest.mark.parametrize("method", ["list", "load"])
def test_a_storage_that_fails_is_no_damage(small: SmallRepository, quarantine: Path, method: str) -> None:
    """A listing or an index object that the storage does not give ends the repair before anything is done."""
    faulty = FaultyBackend(small.copy())
    faulty.fail(method, kind=ObjectKind.INDEX)  # type: ignore[arg-type]

    with pytest.raises(StorageError):
        mend_index(faulty, quarantine)

    assert not quarantine.exists()


def test_a_store_that_forbids_deletion(small: SmallRepository, quarantine: Path) -> None:
    """Without permission to delete the repair says so, and has added what was missing."""
    backend = small.copy()
    faulty = FaultyBackend(backend)
    name = index_of(small, small.packs(BlobKind.DATA)[0])
    faulty.flip_byte(ObjectKind.INDEX, name, 60)
    faulty.fail("delete", forever=True, error=StorageDenied("no deletion here"))

    with pytest.raises(StorageDenied):
        mend_index(faulty, quarantine)

    backend.delete(ObjectKind.INDEX, name)
    assert run_check(backend, EVERYTHING).findings == ()


def test_a_damaged_pack_keeps_its_entry(small: SmallRepository, quarantine: Path) -> None:
    """A pack that is damaged itself is left alone, as its entry is needed to save what is in it."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[0]
    data = backend.load(ObjectKind.PACK, pack.hex())
    replace_object(backend, ObjectKind.PACK, pack.hex(), data[:-100])

    plan = mend_index(backend, quarantine)

    assert plan.does_nothing
    assert [each.id for each in plan.left] == [pack]
    assert reopen(backend).index.table.pack(pack) is not None


def test_another_merge_brings_back_what_is_wrong(small: SmallRepository, quarantine: Path) -> None:
    """What another program's merge writes again while the repair runs is found, and replaced as well."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[0]
    rewrite_index(small, backend, pack, lambda entry: msgspec.structs.replace(entry, size=entry.size + 1))
    repository = reopen_unread(backend)
    content = indexes(repository)
    merged = encode_index(IndexContent(packs=[entry for each in content.values() for entry in each.packs]))
    other = _Merging(backend, lambda: repository.objects.save(ObjectKind.INDEX, merged), content.keys())

    plan = plan_index_repair(reopen_unread(other), Quiet(), never)
    repair_index(reopen_unread(other), plan, Quarantine(quarantine))

    assert other.has_merged
    assert run_check(backend, EVERYTHING).findings == ()


class _Merging(FaultyBackend):
    """Before the first deletion another program merges what the index was."""

    def __init__(self, inner: MemoryBackend, save: Callable[[], object], old: Iterable[str]) -> None:
        super().__init__(inner)
        self.has_merged = False
        self._save = save
        self._old = list(old)

    def delete(self, kind: ObjectKind, name: str) -> None:
        if not self.has_merged:
            self.has_merged = True
            self._save()
            for each in self._old:
                super().delete(ObjectKind.INDEX, each)
        super().delete(kind, name)
