"""The byte layout of a pack, and the only code that knows it.

    offset  size  what
    0       8     magic "BFPACK" and the format version as 2 bytes, big-endian (1)
    8       1     key scheme: 0 = AES-256-GCM under BLAKE3 keyed with the pack key over the salt; 1 = nothing sealed
    9       32    salt, random (it also makes the names of equal packs differ)
    41      ...   frames, one after the other, each sealed on its own
    ...     n     directory, compressed with zstd, sealed
    -8      4     n, little-endian
    -4      4     magic "BFPE"

The directory, columnar, little-endian; offsets are sums and never stored:

    1 version (1) | 1 kind (0 data, 1 trees) | 4 number of frames F | 4 number of blobs B
    4*F stored length of each frame | 4*F plain length | F codec | 4*F number of blobs
    32*B blob IDs | 4*B blob lengths

A frame is sealed with its kind and number as associated data, the directory with neither: a
frame moved within its pack, or to another, does not open. A pack is valid when its directory opens and its lengths add
up to the pack's size; it is intact when, besides, the BLAKE3 hash of all its bytes is its name. A crash leaves no
partial pack: a pack gets its name when it is whole (see storage/base.py). Without any index a pack can be read from its
last bytes alone (INV-6).
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from typing import Final

import zstandard

from bfrepo.compression import Codec
from bfrepo.core.errors import DamagedObject, UnsupportedFormat
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.protocols import Buffer
from bfrepo.crypto.hashing import keyed_hash
from bfrepo.crypto.seal import AesGcm, Plain, Sealer, associated_data, unseal

MAGIC: Final = b"BFPACK\x00\x01"
END_MAGIC: Final = b"BFPE"
SALT_SIZE: Final = 32
HEAD_SIZE: Final = len(MAGIC) + 1 + SALT_SIZE
TAIL_SIZE: Final = 4 + len(END_MAGIC)

FRAME_SIZE: Final = 1 << 20
"""Plaintext bytes after which a frame of small blobs is closed (measured: docs/format.md)."""
MAX_FRAME: Final = 64 << 20
"""Most plaintext bytes a reader accepts in one frame."""
MAX_DIRECTORY: Final = 256 << 20
MAX_PACK: Final = 4 << 30

_MOST_EXPANSION: Final = 1 << 15
"""No zstd frame expands to more than so many times its size: a block holds 128 KiB and takes 4 bytes (RFC 8878)."""

_COUNTS = struct.Struct("<BBII")
_SCHEME_SEALED: Final = 0
_SCHEME_PLAIN: Final = 1


@dataclass(slots=True)
class PackDirectory:
    """What is in a pack: parallel arrays over frames and over blobs, in the order they were written."""

    kind: BlobKind
    stored_sizes: array[int]
    plain_sizes: array[int]
    codecs: bytearray
    blob_counts: array[int]
    blob_ids: bytearray
    blob_sizes: array[int]

    @classmethod
    def empty(cls, kind: BlobKind) -> PackDirectory:
        """A directory to add frames to."""
        return cls(kind, array("I"), array("I"), bytearray(), array("I"), bytearray(), array("I"))

    def add_frame(self, stored: int, plain: int, codec: Codec, blob_ids: Buffer, blob_sizes: array[int]) -> None:
        """Record one more frame and the blobs in it."""
        self.stored_sizes.append(stored)
        self.plain_sizes.append(plain)
        self.codecs.append(codec)
        self.blob_counts.append(len(blob_sizes))
        self.blob_ids += blob_ids
        self.blob_sizes.extend(blob_sizes)

    def encode(self) -> bytes:
        """The directory's plaintext, before compression."""
        head = _COUNTS.pack(1, self.kind, len(self.stored_sizes), len(self.blob_sizes))
        columns = (self.stored_sizes, self.plain_sizes, self.codecs, self.blob_counts, self.blob_ids, self.blob_sizes)
        return b"".join((head, *(_little(column) for column in columns)))


def decode_directory(data: bytes, *, pack: str) -> PackDirectory:
    """The directory in `data`, with every length checked. `pack` names it in messages."""
    if len(data) < _COUNTS.size:
        raise DamagedObject(f"pack {pack}: its directory is cut short")
    version, kind, frames, blobs = _COUNTS.unpack_from(data)
    if version != 1:
        raise UnsupportedFormat(f"pack {pack}: directory version {version} is not known to this program")
    if kind not in (0, 1) or len(data) != _COUNTS.size + 13 * frames + (ID_SIZE + 4) * blobs:
        raise DamagedObject(f"pack {pack}: its directory has the wrong size")
    view, at = memoryview(data), _COUNTS.size

    def column(size: int) -> memoryview:
        nonlocal at
        at += size
        return view[at - size : at]

    directory = PackDirectory(
        BlobKind(kind),
        _array(column(4 * frames)),
        _array(column(4 * frames)),
        bytearray(column(frames)),
        _array(column(4 * frames)),
        bytearray(column(ID_SIZE * blobs)),
        _array(column(4 * blobs)),
    )
    _check_sums(directory, pack)
    return directory


def _check_sums(directory: PackDirectory, pack: str) -> None:
    if sum(directory.blob_counts) != len(directory.blob_sizes):
        raise DamagedObject(f"pack {pack}: its directory counts its blobs wrongly")
    if any(codec not in (0, 1, 2) for codec in set(directory.codecs)):
        raise UnsupportedFormat(f"pack {pack}: a frame uses a codec this program does not know")
    first = 0
    frames = zip(directory.stored_sizes, directory.plain_sizes, directory.blob_counts, strict=True)
    for stored, plain, count in frames:
        if plain > MAX_FRAME or sum(directory.blob_sizes[first : first + count]) != plain:
            raise DamagedObject(f"pack {pack}: the blobs of a frame do not add up to its length")
        if stored > plain + AesGcm.overhead:  # what does not shrink is stored as it is
            raise DamagedObject(f"pack {pack}: a frame claims to be stored in more bytes than it holds")
        first += count
    if sum(directory.stored_sizes) > MAX_PACK:
        raise DamagedObject(f"pack {pack}: its frames claim more than a pack can hold")


@dataclass(frozen=True, slots=True)
class PackedFrame:
    """A frame's plaintext, and the bytes that `codec` made of it: the plaintext itself where it made none."""

    plain: memoryview
    packed: memoryview
    codec: Codec


class PackCipher:
    """Seals and opens the frames and the directory of one pack. Thread-safe."""

    def __init__(self, pack_key: bytes | None, salt: bytes, repository_id: bytes) -> None:
        self._sealer: Sealer = Plain() if pack_key is None else AesGcm(keyed_hash(pack_key, salt))
        self._repository_id = repository_id
        self.overhead = self._sealer.overhead
        self.head = MAGIC + bytes([_SCHEME_PLAIN if pack_key is None else _SCHEME_SEALED]) + salt

    def seal_frame(self, plain: Buffer, kind: BlobKind, number: int, out: memoryview) -> int:
        """Write the sealed frame to `out`; its length."""
        return self._sealer.seal_into(plain, associated_data(self._repository_id, "frame", kind, number), out)

    def open_frame(self, sealed: Buffer, kind: BlobKind, number: int, out: memoryview) -> int:
        """Write what was sealed to `out`; its length. Raises DamagedObject."""
        return self._sealer.open_into(sealed, associated_data(self._repository_id, "frame", kind, number), out)

    def seal_directory(self, directory: PackDirectory) -> bytes:
        """Directory, its length and the end magic: all that follows the last frame."""
        packed = zstandard.ZstdCompressor(level=3).compress(directory.encode())
        out = bytearray(len(packed) + self.overhead)
        self._sealer.seal_into(packed, self._directory_data(), memoryview(out))
        return bytes(out) + struct.pack("<I", len(out)) + END_MAGIC

    def open_directory(self, sealed: Buffer, *, pack: str) -> PackDirectory:
        """The directory out of its sealed bytes. Raises DamagedObject or UnsupportedFormat."""
        try:
            packed = unseal(self._sealer, sealed, self._directory_data())
            plain = expand_bounded(packed, MAX_DIRECTORY)
        except DamagedObject as error:
            raise DamagedObject(f"pack {pack}: its directory {error}") from error
        return decode_directory(plain, pack=pack)

    def _directory_data(self) -> bytes:
        return associated_data(self._repository_id, "directory")


def parse_head(head: bytes, *, pack: str, encrypted: bool) -> bytes:
    """The salt out of a pack's first HEAD_SIZE bytes. Raises DamagedObject or UnsupportedFormat."""
    if len(head) != HEAD_SIZE or head[:6] != MAGIC[:6]:
        raise DamagedObject(f"pack {pack}: does not start like a pack")
    if head[:8] != MAGIC or head[8] not in (_SCHEME_SEALED, _SCHEME_PLAIN):
        raise UnsupportedFormat(f"pack {pack}: its version or key scheme is not known to this program")
    if (head[8] == _SCHEME_SEALED) != encrypted:
        raise DamagedObject(f"pack {pack}: its key scheme is not this repository's")
    return head[9:]


def parse_tail(tail: Buffer, *, pack: str, size: int) -> int:
    """The length of the sealed directory, from a pack's last TAIL_SIZE bytes."""
    length: int = struct.unpack_from("<I", tail)[0]
    if bytes(tail[4:]) != END_MAGIC or not 0 < length <= min(MAX_DIRECTORY, size - HEAD_SIZE - TAIL_SIZE):
        raise DamagedObject(f"pack {pack}: does not end like a pack")
    return length


def at_least(buffer: bytearray, size: int) -> bytearray:
    """Scratch memory of `size` bytes or more: `buffer` itself if it is large enough, else new and a quarter larger."""
    return buffer if len(buffer) >= size else bytearray(size + size // 4)


def expand_bounded(packed: Buffer, limit: int) -> bytes:
    """A zstd frame's content, at most `limit` bytes of it. Raises DamagedObject."""
    try:
        claimed = zstandard.frame_content_size(packed)
        if not 0 <= claimed <= min(limit, len(packed) * _MOST_EXPANSION):
            raise DamagedObject(f"claims {claimed} bytes, more than it can hold or than the {limit} allowed")
        return zstandard.ZstdDecompressor(max_window_size=128 << 20).decompress(packed, max_output_size=limit)
    except zstandard.ZstdError as error:
        raise DamagedObject(f"does not decompress: {error}") from error


def _little(column: array[int] | bytearray) -> bytes:
    if isinstance(column, array) and sys.byteorder == "big":
        column = array(column.typecode, column)
        column.byteswap()
    return bytes(column)


def _array(view: memoryview) -> array[int]:
    result = array("I")
    result.frombytes(view)
    if sys.byteorder == "big":
        result.byteswap()
    return result
