"""Storing blobs that were read from another repository: hashed by the caller, their frame compressed already."""

from __future__ import annotations

from typing import NoReturn

import pytest
import zstandard

from bfrepo.compression import Codec, Compressor
from bfrepo.core.errors import DamagedObject, StorageFull
from bfrepo.core.ids import BlobKind
from bfrepo.core.units import KIB, MIB
from bfrepo.pack.format import PackCipher, PackedFrame
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import LARGE_BLOB, Saver
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible
from tests.support.faulty import FaultyBackend
from tests.support.repositories import make_repository, names, reopen, saver_options

DATA = BlobKind.DATA
BLOBS = [bytes([number]) * (1000 + number) for number in range(50)]


def a_saver(repository: Repository) -> Saver:
    """A saver as a copy makes one."""
    return repository.make_saver(saver_options(repository))


def packed(blobs: list[bytes]) -> PackedFrame:
    """The frame that another repository has made of these blobs."""
    plain = b"".join(blobs)
    return PackedFrame(memoryview(plain), memoryview(zstandard.compress(plain)), Codec.ZSTD)


def hashes(repository: Repository, blobs: list[bytes]) -> list[bytes]:
    """What the blobs are called in a repository."""
    return [repository.blob_hash(blob) for blob in blobs]


def save_frame(repository: Repository, frame: PackedFrame, blobs: list[bytes]) -> Saver:
    """Store a frame and make it durable."""
    saver = a_saver(repository)
    try:
        saver.save_frame(DATA, frame, hashes(repository, blobs), [len(blob) for blob in blobs])
        saver.flush()
    finally:
        saver.close()
    return saver


def check_all(repository: Repository, blobs: list[bytes]) -> Repository:
    """Every blob comes back, and each is stored once; the repository, opened anew."""
    opened = reopen(repository.backend)
    assert [opened.loader.load(DATA, blob_id) for blob_id in hashes(opened, blobs)] == blobs
    assert sum(pack.blobs for pack in opened.index.table.packs()) == len(opened.index.table)
    return opened


@pytest.fixture
def repository() -> Repository:
    """An encrypted repository in memory."""
    return make_repository(encryption="aes-256-gcm")


def test_a_new_frame_stays_compressed(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of which nothing is known is sealed as it is, with the key of its pack, and not compressed again."""
    frame = packed(BLOBS)

    def compress(self: Compressor, plain: memoryview) -> NoReturn:
        raise AssertionError("it was compressed again")

    monkeypatch.setattr(Compressor, "compress", compress)
    saver = save_frame(repository, frame, BLOBS)
    table = check_all(repository, BLOBS).index.table
    assert [table.frame(0).plain_size, table.frame(0).stored_size] == [len(frame.plain), len(frame.packed) + 28]
    assert (saver.stats.blobs_new, saver.stats.bytes_new) == (len(BLOBS), len(frame.plain))
    assert saver.stats.bytes_stored == len(frame.packed) + 28


@pytest.mark.parametrize("known", [[0], [49], [7, 8, 30]], ids=str)
def test_what_is_known_is_left_out(repository: Repository, known: list[int]) -> None:
    """Of a frame that the repository has a part of, the rest is stored."""
    before = a_saver(repository)
    for number in known:
        before.save(DATA, BLOBS[number])
    before.flush()
    before.close()
    saver = save_frame(reopen(repository.backend), packed(BLOBS), BLOBS)
    check_all(repository, BLOBS)
    assert (saver.stats.blobs_new, saver.stats.blobs_known) == (len(BLOBS) - len(known), len(known))
    assert saver.stats.bytes_known == sum(len(BLOBS[number]) for number in known)


def test_a_blob_twice_in_one_frame(repository: Repository) -> None:
    """A frame that holds a blob twice leaves one of them."""
    blobs = [*BLOBS, BLOBS[3]]
    assert save_frame(repository, packed(blobs), blobs).stats.blobs_known == 1
    check_all(repository, BLOBS)


def test_blobs_of_any_size(repository: Repository) -> None:
    """Blobs that the caller has hashed join frames when they are small, and are alone when they are large."""
    sizes = [10, LARGE_BLOB, LARGE_BLOB - 1, 5 * MIB, 20, 900 * KIB, 200 * KIB, 30]
    blobs = [incompressible(number, size) for number, size in enumerate(sizes)]
    saver = a_saver(repository)
    saver.save(DATA, blobs[6])
    saver.save_hashed(DATA, memoryview(b"".join(blobs)), hashes(repository, blobs), sizes)
    saver.flush()
    saver.close()
    table = check_all(repository, blobs).index.table
    found = sorted(table.frame(number).plain_size for number in range(table.frames))
    small = 200 * KIB + 10 + LARGE_BLOB - 1 + 20 + 30
    assert found == sorted([LARGE_BLOB, 5 * MIB, 900 * KIB, small])
    assert (saver.stats.blobs_known, saver.stats.bytes_known) == (1, 200 * KIB)


def test_a_seal_that_does_not_open_is_caught(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not read back as it was is not stored, though it was compressed elsewhere."""
    opens = PackCipher.open_frame

    def open_wrongly(self: PackCipher, sealed: memoryview, kind: BlobKind, number: int, out: memoryview) -> int:
        length = opens(self, sealed, kind, number, out)
        out[length - 1] ^= 1
        return length

    monkeypatch.setattr(PackCipher, "open_frame", open_wrongly)
    with pytest.raises(DamagedObject, match="did not read back"):
        save_frame(repository, packed(BLOBS), BLOBS)
    assert names(repository.backend, ObjectKind.INDEX) == set()


def test_a_frame_that_cannot_be_stored() -> None:
    """After a failure nothing is flushed: others may rely on blobs that were not stored (INV-1)."""
    faulty = FaultyBackend(MemoryBackend())
    repository = make_repository(faulty)
    saver = a_saver(repository)
    faulty.fail("write", kind=ObjectKind.PACK, error=StorageFull("full"))
    with pytest.raises(StorageFull):
        saver.save_frame(DATA, packed(BLOBS), hashes(repository, BLOBS), [len(blob) for blob in BLOBS])
    for call in (saver.flush, lambda: saver.save(DATA, b"other")):
        with pytest.raises(StorageFull):
            call()
    saver.close()
    assert names(faulty, ObjectKind.PACK) == names(faulty, ObjectKind.INDEX) == set()


@pytest.mark.parametrize("compression", ["zstd:3", "lz4", "none"])
@pytest.mark.parametrize("encryption", ["aes-256-gcm", "none"])
def test_a_frame_with_its_compressed_bytes(encryption: str, compression: str) -> None:
    """A loader gives a frame as it was compressed, so that it can go on from there to another repository."""
    repository = make_repository(encryption=encryption, compression=compression)  # type: ignore[arg-type]
    saver = a_saver(repository)
    saver.save_many(DATA, memoryview(b"".join(BLOBS)), [len(blob) for blob in BLOBS])
    saver.save(DATA, noise := incompressible(1, 300 * KIB))
    saver.flush()
    saver.close()
    opened, other = reopen(repository.backend), make_repository()
    for number in range(opened.index.table.frames):
        frame = opened.loader.open_packed(number)
        blobs = [noise] if len(frame.plain) == len(noise) else BLOBS
        save_frame(other, frame, blobs)
        place = opened.index.table.frame(number)
        assert frame.codec is place.codec
        assert len(frame.packed) == place.stored_size - (28 if encryption != "none" else 0)
    check_all(other, [*BLOBS, noise])
