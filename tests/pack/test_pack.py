"""Packs: what a writer makes a reader understands, without any index; nothing can be moved in or between them."""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Callable
from random import Random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.compression import Codec, Compression, Compressor, Expander
from bfrepo.core.errors import DamagedObject, UnsupportedFormat
from bfrepo.core.ids import BlobKind
from bfrepo.crypto.hashing import object_name
from bfrepo.pack.format import (
    HEAD_SIZE,
    MAGIC,
    MAX_FRAME,
    SALT_SIZE,
    TAIL_SIZE,
    PackCipher,
    PackDirectory,
    decode_directory,
    expand_bounded,
    parse_head,
    parse_tail,
)
from bfrepo.pack.reader import read_directory
from bfrepo.pack.writer import FinishedPack, FrameSealer, PackWriter
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible

KEY = b"k" * 32
HERE = b"r" * 32
FRAMES = [[b"one", b"two" * 100], [incompressible(1, 3000)], [b"x" * 5000, b"", b"y"]]


def write_pack(
    backend: MemoryBackend, *, key: bytes | None = KEY, kind: BlobKind = BlobKind.DATA, repository_id: bytes = HERE
) -> FinishedPack:
    """A pack with FRAMES, whose blobs are numbered."""
    writer = PackWriter(backend.upload(ObjectKind.PACK), key, repository_id, kind)
    sealer = FrameSealer(Compressor(Compression()), verify=True)
    number = 0
    for frame in FRAMES:
        ids = b"".join((number + at).to_bytes(32, "little") for at in range(len(frame)))
        number += len(frame)
        sealer.add(writer, sealer.compress(memoryview(b"".join(frame))), ids, array("I", map(len, frame)))
    return writer.finish()


def open_frames(data: bytes, cipher: PackCipher, directory: PackDirectory) -> list[bytes]:
    """The plaintext of every frame."""
    found, at = [], HEAD_SIZE
    for number, stored in enumerate(directory.stored_sizes):
        packed = memoryview(bytearray(stored))
        size = cipher.open_frame(data[at : at + stored], directory.kind, number, packed)
        plain = bytearray(directory.plain_sizes[number])
        Expander().expand_into(Codec(directory.codecs[number]), packed[:size], memoryview(plain))
        found.append(bytes(plain))
        at += stored
    return found


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "plain"])
@pytest.mark.parametrize("kind", list(BlobKind))
def test_round_trip(key: bytes | None, kind: BlobKind) -> None:
    """A pack is named by the hash of its bytes, and tells from its end alone what it holds (INV-6)."""
    backend = MemoryBackend()
    pack = write_pack(backend, key=key, kind=kind)
    data = backend.load(ObjectKind.PACK, pack.name)
    assert (object_name(data), len(data)) == (pack.name, pack.size)
    cipher, directory = read_directory(backend, pack.name, pack.size, key, HERE)
    assert directory == pack.directory
    assert (directory.kind, list(directory.blob_counts)) == (kind, [2, 1, 3])
    assert open_frames(data, cipher, directory) == [b"".join(frame) for frame in FRAMES]


def test_nothing_in_the_clear() -> None:
    """INV-5: neither content, blob ID nor length of a blob or frame can be read in a sealed pack."""
    backend = MemoryBackend()
    pack = write_pack(backend)
    data = backend.load(ObjectKind.PACK, pack.name)
    assert FRAMES[1][0][:50] not in data
    assert (1).to_bytes(32, "little") not in data
    assert data[:HEAD_SIZE] == MAGIC + b"\0" + data[9:HEAD_SIZE]
    assert write_pack(backend).name != pack.name


@pytest.mark.parametrize(
    ("number", "kind", "cipher_of"),
    [
        (1, BlobKind.DATA, lambda salt: PackCipher(KEY, salt, HERE)),
        (0, BlobKind.TREE, lambda salt: PackCipher(KEY, salt, HERE)),
        (0, BlobKind.DATA, lambda salt: PackCipher(KEY, bytes(SALT_SIZE), HERE)),
        (0, BlobKind.DATA, lambda salt: PackCipher(KEY, salt, b"s" * 32)),
        (0, BlobKind.DATA, lambda salt: PackCipher(b"K" * 32, salt, HERE)),
    ],
    ids=["position", "kind", "pack", "repository", "key"],
)
def test_moved_frame_does_not_open(number: int, kind: BlobKind, cipher_of: Callable[[bytes], PackCipher]) -> None:
    """A frame opens only in its place, in its pack, in its repository, as its kind."""
    backend = MemoryBackend()
    pack = write_pack(backend)
    data = backend.load(ObjectKind.PACK, pack.name)
    frame = data[HEAD_SIZE : HEAD_SIZE + pack.directory.stored_sizes[0]]
    salt = parse_head(data[:HEAD_SIZE], pack="p", encrypted=True)
    out = memoryview(bytearray(len(frame)))
    assert PackCipher(KEY, salt, HERE).open_frame(frame, BlobKind.DATA, 0, out)
    with pytest.raises(DamagedObject, match="does not authenticate"):
        cipher_of(salt).open_frame(frame, kind, number, out)


def test_directory_is_no_frame() -> None:
    """A directory does not open as a frame, nor a frame as a directory."""
    cipher = PackCipher(KEY, bytes(SALT_SIZE), HERE)
    sealed = cipher.seal_directory(PackDirectory.empty(BlobKind.DATA))[:-TAIL_SIZE]
    with pytest.raises(DamagedObject):
        cipher.open_frame(sealed, BlobKind.DATA, 0, memoryview(bytearray(len(sealed))))
    out = memoryview(bytearray(100))
    size = cipher.seal_frame(b"frame", BlobKind.DATA, 0, out)
    with pytest.raises(DamagedObject, match="pack p: its directory"):
        cipher.open_directory(out[:size], pack="p")


@pytest.mark.parametrize("key", [KEY, None], ids=["sealed", "plain"])
def test_cut_or_changed_pack(key: bytes | None) -> None:
    """A pack that is cut anywhere, or whose head or end is changed, is refused with an error of ours."""
    backend = MemoryBackend()
    pack = write_pack(backend, key=key)
    data = backend.load(ObjectKind.PACK, pack.name)
    for size in range(0, len(data), 13):
        refused(data[:size], key)
    frames = HEAD_SIZE + sum(pack.directory.stored_sizes)
    if key:
        for at in [*range(HEAD_SIZE), *range(frames, len(data))]:
            refused(data[:at] + bytes([data[at] ^ 0x04]) + data[at + 1 :], key)


def refused(data: bytes, key: bytes | None) -> None:
    """The bytes are no pack."""
    backend = MemoryBackend()
    backend.save(ObjectKind.PACK, "0" * 64, data)
    with pytest.raises((DamagedObject, UnsupportedFormat), match="pack 00000000"):
        read_directory(backend, "0" * 64, len(data), key, HERE)


@pytest.mark.parametrize(
    ("head", "error"),
    [
        (b"", DamagedObject),
        (bytes(HEAD_SIZE), DamagedObject),
        (MAGIC + b"\0" + bytes(31), DamagedObject),
        (b"BFPACK\x00\x02\0" + bytes(32), UnsupportedFormat),
        (MAGIC + b"\x02" + bytes(32), UnsupportedFormat),
        (MAGIC + b"\x01" + bytes(32), DamagedObject),
    ],
    ids=["empty", "zeros", "short", "newer", "unknown scheme", "plain in an encrypted repository"],
)
def test_heads(head: bytes, error: type[Exception]) -> None:
    """A newer version or key scheme is unknown; what is no head, or not this repository's, is damage."""
    with pytest.raises(error):
        parse_head(head, pack="p", encrypted=True)


@pytest.mark.parametrize("length", [0, 100, 0xFFFF_FFFF])
def test_length_of_the_directory(length: int) -> None:
    """A directory that cannot fit into its pack is refused before memory is taken for it."""
    with pytest.raises(DamagedObject, match="does not end like a pack"):
        parse_tail(struct.pack("<I", length) + b"BFPE", pack="p", size=HEAD_SIZE + TAIL_SIZE + 99)


directories = st.lists(
    st.tuples(st.sampled_from(list(Codec)), st.lists(st.integers(0, 100_000), max_size=6), st.integers(0, 28)),
    max_size=8,
)


@given(frames=directories, kind=st.sampled_from(list(BlobKind)))
def test_directory_round_trip(frames: list[tuple[Codec, list[int], int]], kind: BlobKind) -> None:
    """Every directory that a writer can make reads back as it was."""
    directory, chance = PackDirectory.empty(kind), random.Random(1)
    for codec, sizes, more in frames:
        ids = chance.randbytes(32 * len(sizes))
        directory.add_frame(min(sum(sizes), 500) + more, sum(sizes), codec, ids, array("I", sizes))
    assert decode_directory(directory.encode(), pack="p") == directory


def hostile(**changes: object) -> bytes:
    """A directory of one frame with one blob, with other columns."""
    directory = PackDirectory.empty(BlobKind.DATA)
    directory.add_frame(50, 100, Codec.ZSTD, bytes(32), array("I", [100]))
    for name, value in changes.items():
        setattr(directory, name, value)
    return directory.encode()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", DamagedObject, "cut short"),
        (hostile()[:-1], DamagedObject, "wrong size"),
        (hostile() + b"x", DamagedObject, "wrong size"),
        (b"\x02" + hostile()[1:], UnsupportedFormat, "version 2"),
        (b"\x01\x07" + hostile()[2:], DamagedObject, "wrong size"),
        (struct.pack("<BBII", 1, 0, 0xFFFFFFFF, 0xFFFFFFFF), DamagedObject, "wrong size"),
        (hostile(blob_sizes=array("I", [99])), DamagedObject, "do not add up"),
        (hostile(blob_counts=array("I", [2])), DamagedObject, "counts its blobs wrongly"),
        (hostile(codecs=bytearray([9])), UnsupportedFormat, "codec"),
        (hostile(stored_sizes=array("I", [129])), DamagedObject, "more bytes than it holds"),
        (hostile(stored_sizes=array("I", [0xFFFFFFFF])), DamagedObject, "pack p"),
        (
            hostile(plain_sizes=array("I", [MAX_FRAME + 1]), blob_sizes=array("I", [MAX_FRAME + 1])),
            DamagedObject,
            "do not add up",
        ),
    ],
    ids=[
        "empty", "short", "long", "newer", "kind", "huge counts", "blob sizes", "blob counts", "codec", "stored size",
        "huge stored size", "huge frame",
    ],
)  # fmt: skip
def test_hostile_directories(data: bytes, error: type[Exception], words: str) -> None:
    """A directory that contradicts itself or claims too much is refused before memory is taken."""
    with pytest.raises(error, match=words):
        decode_directory(data, pack="p")


def test_bombs() -> None:
    """What claims to expand beyond the limit, or does not say how far, is refused unexpanded."""
    bomb = zstandard.ZstdCompressor().compress(bytes(10_000))
    assert expand_bounded(bomb, 10_000) == bytes(10_000)
    with pytest.raises(DamagedObject, match="claims 10000 bytes, more than"):
        expand_bounded(bomb, 9_999)
    unsaid = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10_000))
    with pytest.raises(DamagedObject):
        expand_bounded(unsaid, 1 << 30)


def test_given_up_pack() -> None:
    """A pack that is given up was never there."""
    backend = MemoryBackend()
    PackWriter(backend.upload(ObjectKind.PACK), KEY, HERE, BlobKind.DATA).abort()
    assert list(backend.list(ObjectKind.PACK)) == []


@pytest.mark.parametrize("compression", ["zstd:1", "zstd:19", "lz4", "none"])
@given(plain=st.binary(max_size=20_000))
def test_compression_round_trip(compression: str, plain: bytes) -> None:
    """What was compressed expands to what it was, and to no other length."""
    codec, packed = Compressor(Compression.parse(compression)).compress(memoryview(plain))
    out = bytearray(len(plain))
    Expander().expand_into(codec, packed, memoryview(out))
    assert out == plain
    assert len(packed) <= len(plain)
    for wrong in (len(plain) + 1, len(plain) - 1):
        if wrong >= 0:
            with pytest.raises(DamagedObject):
                Expander().expand_into(codec, packed, memoryview(bytearray(wrong)))


@pytest.mark.parametrize("compression", ["zstd:3", "lz4"])
def test_a_run_of_what_does_not_shrink(compression: str) -> None:
    """Within a run of frames that do not shrink, those are stored as they are, and one that shrinks is compressed."""
    compressor = Compressor(Compression.parse(compression))
    noise = Random(1).randbytes(1 << 20)
    text = b"the quick brown fox\n" * (len(noise) // 40)
    kept = [compressor.compress(memoryview(frame)) for frame in (noise, noise, noise[: len(noise) // 2] + text, noise)]
    assert [codec is Codec.NONE for codec, _ in kept] == [True, True, False, True]
    assert [packed for codec, packed in kept if codec is Codec.NONE] == [noise] * 3
    assert compressor.compress(memoryview(text))[0] is not Codec.NONE


@pytest.mark.parametrize("text", ["", "zstd:0", "zstd:23", "zstd:x", "zstd:-1", "lz4:1", "none:1", "gzip", "ZSTD"])
def test_no_compression(text: str) -> None:
    """What is no compression is refused with those that are."""
    from bfrepo.core.errors import InvalidValue

    with pytest.raises(InvalidValue) as caught:
        Compression.parse(text)
    assert caught.value.hint == "choose zstd:1 to zstd:22, lz4 or none"


@pytest.mark.parametrize("text", ["zstd:1", "zstd:22", "lz4", "none"])
def test_compression_as_text(text: str) -> None:
    """A compression is written as it is read."""
    assert str(Compression.parse(text)) == text
