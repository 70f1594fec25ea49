"""A pack is damaged, removed or replaced: one finding says so, with what depends on it."""

from __future__ import annotations

from array import array

import pytest

from bfrepo.compression import Codec, Compression, Compressor
from bfrepo.core.errors import StorageError
from bfrepo.core.ids import BlobKind
from bfrepo.crypto.hashing import object_name
from bfrepo.data.node import Node
from bfrepo.index.format import IndexContent, PackEntry, encode_index
from bfrepo.pack.writer import FrameSealer, PackWriter
from bfrepo.storage.base import ObjectKind
from tests.support.damage import (
    EARLY,
    EVERYTHING,
    LATE,
    LEAF,
    OLD_FILES,
    SmallRepository,
    affected,
    make_small_repository,
    only_error,
    reopen_unread,
    replace_object,
    run_check,
    save_snapshot_of,
)
from tests.support.faulty import FaultyBackend

ROOT = b"/"


@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_a_whole_repository_has_no_findings(encryption: str, small: SmallRepository) -> None:
    """Of a repository at rest a check says nothing, and counts what it looked at."""
    repository = small if encryption != "none" else make_small_repository("none")

    result = run_check(repository.backend, EVERYTHING)

    stored = sum(info.size for info in repository.backend.list(ObjectKind.PACK))
    assert result.findings == ()
    assert (result.errors, result.snapshots, result.packs, len(result.packs_read)) == (0, 2, 5, 5)
    assert (result.bytes_read, result.trees, result.blobs) == (stored, 10, len(repository.open().index.table))


def test_a_check_writes_nothing(small: SmallRepository) -> None:
    """Whatever it finds, a check only reads (INV-3)."""
    faulty = FaultyBackend(small.backend)
    faulty.flip_byte(ObjectKind.PACK, small.frame_of(EARLY).pack, 5000)
    faulty.drop(ObjectKind.PACK, small.packs(BlobKind.TREE)[0].hex())

    run_check(faulty, EVERYTHING)

    assert {call.method for call in faulty.calls} <= {"list", "size", "load", "read", "read_into"}


def test_a_missing_data_pack(small: SmallRepository) -> None:
    """A data pack that is gone is one finding, which names it, the snapshots and the files."""
    faulty = FaultyBackend(small.backend)
    pack = small.packs(BlobKind.DATA)[-1]
    faulty.drop(ObjectKind.PACK, pack.hex())

    finding = only_error(run_check(faulty))

    assert (finding.kind, finding.object_kind, finding.object_ids) == ("pack-missing", "pack", (pack,))
    assert affected(finding) == {small.new}
    assert (finding.files, finding.files_count) == ((b"/data/deep/down/leaf", b"/data/new"), 2)


def test_a_missing_tree_pack(small: SmallRepository) -> None:
    """What is below a directory that is lost goes with it: the directory stands for all."""
    faulty = FaultyBackend(small.backend)
    pack = small.packs(BlobKind.TREE)[-1]
    faulty.drop(ObjectKind.PACK, pack.hex())

    finding = only_error(run_check(faulty, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("pack-missing", (pack,))
    assert affected(finding) == {small.new}
    assert finding.files == (ROOT,)


def test_a_flipped_byte_in_a_frame(small: SmallRepository) -> None:
    """Only what is in the damaged frame is named, each file once however many blobs it lost."""
    faulty = FaultyBackend(small.backend)
    place = small.frame_of(LATE)
    others = {path for path, item in OLD_FILES.items() if isinstance(item, bytes) and item in (EARLY, LEAF)}
    faulty.flip_byte(ObjectKind.PACK, place.pack, place.offset + place.stored_size // 2)

    finding = only_error(run_check(faulty, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("pack-damaged", (bytes.fromhex(place.pack),))
    assert affected(finding) == {small.old, small.new}
    assert b"/data/last/late" in finding.files
    assert not others & {path.decode() for path in finding.files}
    assert finding.files_count == len(finding.files)


def test_content_is_not_read_unless_asked(small: SmallRepository) -> None:
    """Without --read-data a changed byte in a data pack stays unseen: structure is all that is looked at."""
    faulty = FaultyBackend(small.backend)
    faulty.flip_byte(ObjectKind.PACK, small.frame_of(LATE).pack, 5000)

    assert run_check(faulty).findings == ()


def test_a_flipped_byte_in_a_tree_pack(small: SmallRepository) -> None:
    """Trees are always read, so damage to them is found without --read-data."""
    faulty = FaultyBackend(small.backend)
    pack = small.packs(BlobKind.TREE)[0]
    faulty.flip_byte(ObjectKind.PACK, pack.hex(), 100)

    finding = only_error(run_check(faulty))

    assert (finding.kind, finding.object_ids) == ("pack-damaged", (pack,))
    assert affected(finding) == {small.old, small.new}
    assert set(finding.files) == {ROOT, b"/data/filler", b"/data/last"}


@pytest.mark.parametrize("position", [0, 7, 8, 20, -1, -6, -30])
def test_a_flipped_byte_in_head_or_directory(small: SmallRepository, position: int) -> None:
    """Magic, version, key scheme, salt, directory, its length and the end magic are read as well as the frames."""
    faulty = FaultyBackend(small.backend)
    pack = small.packs(BlobKind.DATA)[0]
    faulty.flip_byte(ObjectKind.PACK, pack.hex(), position)

    finding = only_error(run_check(faulty, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("pack-damaged", (pack,))
    assert bool(finding.snapshots) == (position >= 0)  # behind the frames nothing depends on it: the index has it all


@pytest.mark.parametrize("read", [None, EVERYTHING])
def test_a_truncated_pack(small: SmallRepository, read: object) -> None:
    """A pack that lost its end is found by its size; only what was in the lost frames depends on it."""
    faulty = FaultyBackend(small.backend)
    place = small.frame_of(EARLY)
    size = small.backend.size(ObjectKind.PACK, place.pack)
    faulty.truncate(ObjectKind.PACK, place.pack, size - 100_000)

    finding = only_error(run_check(faulty, EVERYTHING if read else None))

    assert (finding.kind, finding.object_ids) == ("pack-damaged", (bytes.fromhex(place.pack),))
    assert f"{size - 100_000:,} bytes, and should have {size:,}" in finding.message
    assert b"/data/early" not in finding.files
    assert affected(finding) == {small.old, small.new}


def test_an_empty_pack(small: SmallRepository) -> None:
    """A pack of no bytes is damaged, not a crash."""
    faulty = FaultyBackend(small.backend)
    pack = small.packs(BlobKind.DATA)[-1]
    faulty.truncate(ObjectKind.PACK, pack.hex(), 0)

    finding = only_error(run_check(faulty, EVERYTHING))

    assert (finding.kind, finding.object_ids, finding.files_count) == ("pack-damaged", (pack,), 2)


def test_a_pack_that_the_storage_does_not_give_out(small: SmallRepository) -> None:
    """A failing disk is no damage that was proved: it is a finding of its own."""
    faulty = FaultyBackend(small.backend)
    pack = small.packs(BlobKind.DATA)[-1]
    for method in ("read", "read_into"):
        faulty.fail(
            method, kind=ObjectKind.PACK, name=pack.hex(), forever=True, error=StorageError("input/output error")
        )

    finding = only_error(run_check(faulty, EVERYTHING))

    assert (finding.kind, finding.object_ids, finding.files_count) == ("unreadable", (pack,), 2)


def test_packs_that_changed_places(small: SmallRepository) -> None:
    """Two packs under each other's name are two findings, as two objects are wrong."""
    backend = small.copy()
    first, second = (pack.hex() for pack in small.packs(BlobKind.DATA)[:2])
    one, other = (small.backend.load(ObjectKind.PACK, name) for name in (first, second))
    replace_object(backend, ObjectKind.PACK, first, other)
    replace_object(backend, ObjectKind.PACK, second, one)

    result = run_check(backend, EVERYTHING)

    assert sorted((each.kind, each.object_ids[0].hex()) for each in result.findings) == sorted(
        ("pack-damaged", name) for name in (first, second)
    )


def test_frames_that_changed_places(small: SmallRepository) -> None:
    """A frame sealed for one place does not open in another, though both belong to the same pack."""
    backend = small.copy()
    repository, pack = small.open(), small.packs(BlobKind.DATA)[0]
    frames = [repository.index.table.frame(number) for number in repository.index.table.pack(pack).frames]  # type: ignore[union-attr]
    data = bytearray(small.backend.load(ObjectKind.PACK, pack.hex()))
    size = min(frame.stored_size for frame in frames)
    first, second = (slice(frame.offset, frame.offset + size) for frame in frames[:2])
    data[first], data[second] = data[second], data[first]
    replace_object(backend, ObjectKind.PACK, pack.hex(), bytes(data))

    finding = only_error(run_check(backend, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("pack-damaged", (pack,))
    assert "none" not in finding.message
    assert b"/data/early" in finding.files


def test_a_directory_from_another_pack(small: SmallRepository) -> None:
    """Another pack's directory does not open, as each pack has its own key; frames are still found by the index."""
    backend = small.copy()
    first, second = (pack.hex() for pack in small.packs(BlobKind.DATA)[:2])
    one, other = (small.backend.load(ObjectKind.PACK, name) for name in (first, second))
    foreign = other[-int.from_bytes(other[-8:-4], "little") - 8 :]
    own = int.from_bytes(one[-8:-4], "little") + 8
    replace_object(backend, ObjectKind.PACK, first, one[:-own] + foreign)

    finding = only_error(run_check(backend, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("pack-damaged", (bytes.fromhex(first),))
    assert (finding.snapshots, "every blob in it can still be read" in finding.message) == ((), True)


def test_a_pack_from_another_repository(small: SmallRepository) -> None:
    """A pack of another repository, under the name of one of ours, does not pass for it."""
    backend, stranger = small.copy(), make_small_repository()
    pack = small.packs(BlobKind.DATA)[-1]
    foreign = stranger.backend.load(ObjectKind.PACK, stranger.packs(BlobKind.DATA)[-1].hex())
    replace_object(backend, ObjectKind.PACK, pack.hex(), foreign)

    finding = only_error(run_check(backend, EVERYTHING))

    assert (finding.kind, finding.object_ids, finding.files_count) == ("pack-damaged", (pack,), 2)


def test_a_pack_that_no_index_names(small: SmallRepository) -> None:
    """What an interrupted backup left is a note, and no error."""
    backend, data = small.copy(), b"left by a crash"
    backend.save(ObjectKind.PACK, object_name(data), data)

    (finding,) = run_check(backend).findings

    assert (finding.kind, finding.severity, finding.object_kind) == ("garbage", "note", "pack")
    assert finding.object_ids == (bytes.fromhex(object_name(data)),)


def test_a_blob_that_was_damaged_before_it_was_stored(small: SmallRepository) -> None:
    """A pack may be just as it was written, and yet hold a blob that does not hash to its ID (INV-4)."""
    backend = small.copy()
    repository = reopen_unread(backend)
    content = b"what the machine made of it"
    wrong_id = repository.blob_hash(b"what was read")
    writer = PackWriter(backend.upload(ObjectKind.PACK), repository.keys.pack_key, repository.id, BlobKind.DATA)
    sealer = FrameSealer(Compressor(Compression(Codec.NONE, 0)), verify=True)
    sealer.add(writer, sealer.compress(memoryview(content)), wrong_id, array("I", [len(content)]))
    finished = writer.finish()
    pack = bytes.fromhex(finished.name)
    entry = PackEntry(id=pack, size=finished.size, directory=finished.directory.encode())
    repository.objects.save(ObjectKind.INDEX, encode_index(IndexContent(packs=[entry])))
    node = Node(name=b"file", type="file", content=wrong_id, size=len(content))
    snapshot = save_snapshot_of(repository, [node])

    finding = only_error(run_check(backend, EVERYTHING))

    assert (finding.kind, finding.object_ids) == ("blob-damaged", (pack,))
    assert (affected(finding), finding.files) == ({snapshot}, (b"/file",))
