"""The index is damaged, gone, unknown or wrong: one finding says so, with what depends on it."""

from __future__ import annotations

import msgspec
import pytest

from bfrepo.core.ids import BlobKind
from bfrepo.index.format import IndexContent, encode_index
from bfrepo.storage.base import ObjectKind
from tests.support.damage import (
    EVERYTHING,
    SmallRepository,
    affected,
    index_of,
    indexes,
    only_error,
    reopen_unread,
    rewrite_index,
    run_check,
    swap_blob_sizes,
)
from tests.support.faulty import FaultyBackend
from tests.support.repositories import names

ROOT = b"/"


def test_a_damaged_index_object(small: SmallRepository) -> None:
    """What only a damaged index object names is put down to it, and its packs are not called garbage."""
    faulty = FaultyBackend(small.backend)
    name = index_of(small, small.packs(BlobKind.DATA)[-1])
    faulty.flip_byte(ObjectKind.INDEX, name, 50)

    finding = only_error(run_check(faulty, EVERYTHING))

    assert (finding.kind, finding.object_kind, finding.object_ids) == ("index-damaged", "index", (bytes.fromhex(name),))
    assert (affected(finding), finding.files) == ({small.new}, (ROOT,))


def test_an_index_of_a_newer_version(small: SmallRepository) -> None:
    """What is not known is said to be unknown, never damaged."""
    backend = small.copy()
    content = msgspec.msgpack.encode({"version": 2, "packs": []})
    name = small.open().objects.encode(ObjectKind.INDEX, content)
    backend.save(ObjectKind.INDEX, *name)

    finding = only_error(run_check(backend, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("unknown-version", (bytes.fromhex(name[0]),))
    assert "version 2" in finding.message


def test_no_index_at_all(small: SmallRepository) -> None:
    """Without any index everything is missing: that is one finding, and no pack has an owner (INV-6)."""
    backend = small.copy()
    for name in names(backend, ObjectKind.INDEX):
        backend.delete(ObjectKind.INDEX, name)

    missing, garbage = run_check(backend, EVERYTHING).findings

    assert (missing.kind, missing.object_kind, affected(missing)) == ("blob-missing", "blob", {small.old, small.new})
    assert set(missing.object_ids) == {small.tree_of(small.old), small.tree_of(small.new)}
    assert missing.files == (ROOT,)
    assert (garbage.kind, len(garbage.object_ids)) == ("garbage", 5)


def test_a_missing_index_object(small: SmallRepository) -> None:
    """An index object that was deleted leaves no trace but what is missing."""
    faulty = FaultyBackend(small.backend)
    faulty.drop(ObjectKind.INDEX, index_of(small, small.packs(BlobKind.DATA)[-1]))

    missing, garbage = run_check(faulty).findings

    assert (missing.kind, affected(missing)) == ("blob-missing", {small.new})
    assert garbage.kind == "garbage"
    assert set(garbage.object_ids) == {small.packs(kind)[-1] for kind in BlobKind}


@pytest.mark.parametrize("read", [None, EVERYTHING])
@pytest.mark.parametrize("kind", list(BlobKind))
def test_an_index_with_wrong_offsets(small: SmallRepository, kind: BlobKind, read: object) -> None:
    """An index that describes a pack wrongly is to blame, not the pack, even when only structure is looked at."""
    backend = small.copy()
    pack = small.packs(kind)[0]
    rewrite_index(small, backend, pack, swap_blob_sizes)

    finding = only_error(run_check(backend, EVERYTHING if read else None))

    assert (finding.kind, finding.object_ids) == ("index-wrong", (pack,))
    assert small.old in affected(finding)
    assert finding.files


def test_an_index_with_a_wrong_size(small: SmallRepository) -> None:
    """A size that is wrong in the index is not taken for a truncated pack."""
    backend = small.copy()
    pack = small.packs(BlobKind.DATA)[0]
    rewrite_index(small, backend, pack, lambda entry: msgspec.structs.replace(entry, size=entry.size + 1))

    finding = only_error(run_check(backend))

    assert (finding.kind, finding.object_ids, finding.files_count) == ("index-wrong", (pack,), 0)


def test_index_objects_that_contradict_each_other(small: SmallRepository) -> None:
    """Two index objects may name the same pack, but not describe it differently."""
    backend = small.copy()
    repository, pack = small.open(), small.packs(BlobKind.DATA)[-1]
    entry = next(entry for content in indexes(repository).values() for entry in content.packs if entry.id == pack)
    repository = reopen_unread(backend)
    contradiction = IndexContent(packs=[swap_blob_sizes(entry)])
    repository.objects.save(ObjectKind.INDEX, encode_index(contradiction))

    finding = only_error(run_check(backend, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("index-wrong", (pack,))
