"""Compression of frames: zstd (levels 1 to 22), lz4 or none, chosen when a repository is made and free to change later.

Each frame records the codec that made it, so a repository may mix them. What does not shrink is stored as it is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import lz4.block
import zstandard

from bfrepo.core.errors import DamagedObject, InvalidValue
from bfrepo.core.protocols import Buffer

DEFAULT_ZSTD_LEVEL = 3
_SMALL_TABLES = zstandard.ZstdCompressionParameters.from_level(3, window_log=21, hash_log=15, chain_log=15)
"""Level 3 with search tables of 256 KiB instead of 768, which fit a core's second-level cache beside the frame: a sixth
less time for one per cent more bytes (docs/decisions/0014-level-3.md).
"""

_SAMPLES = 4
_SAMPLE_SIZE = 4096
"""Bytes at so many places of a frame tell whether to compress it, after one that did not shrink."""

_MAX_WINDOW = 128 << 20
"""Largest zstd window a reader accepts: level 22's; a frame that asks for more is hostile."""


class Codec(enum.IntEnum):
    """How a frame's plaintext was made smaller. The numbers are part of the format."""

    NONE = 0
    ZSTD = 1
    LZ4 = 2


@dataclass(frozen=True, slots=True)
class Compression:
    """A codec and, for zstd, its level."""

    codec: Codec = Codec.ZSTD
    level: int = DEFAULT_ZSTD_LEVEL

    @classmethod
    def parse(cls, text: str) -> Compression:
        """From "zstd", "zstd:1" to "zstd:22", "lz4" or "none". Raises InvalidValue."""
        name, _, level = text.partition(":")
        try:
            if name == "zstd" and 1 <= (number := int(level or DEFAULT_ZSTD_LEVEL)) <= 22:
                return cls(Codec.ZSTD, number)
            if name in ("lz4", "none") and not level:
                return cls(Codec[name.upper()], 0)
        except ValueError:
            pass  # a level that is no number: the one message below says what is allowed
        raise InvalidValue(f"{text!r} is not a compression", hint="choose zstd:1 to zstd:22, lz4 or none")

    def __str__(self) -> str:
        return f"zstd:{self.level}" if self.codec is Codec.ZSTD else self.codec.name.lower()


class Compressor:
    """Compresses and expands frames, reusing its contexts. One object per thread.

    What cannot be made smaller (video, archives, what is encrypted already) comes in long runs: within one, zstd is
    asked about samples of a frame first, which takes a tenth of the time.
    """

    def __init__(self, compression: Compression) -> None:
        self._codec = compression.codec
        self._zstd = _zstd(max(compression.level, 1))
        self._expander = Expander()
        self._shrunk = True

    def compress(self, plain: memoryview) -> tuple[Codec, Buffer]:
        """The codec that was used and the bytes to store: `plain` itself where compression gains nothing."""
        if self._codec is Codec.NONE or not (self._shrunk or self._samples_shrink(plain)):
            return Codec.NONE, plain
        packed = self._pack(plain)
        self._shrunk = len(packed) < len(plain)
        return (self._codec, packed) if self._shrunk else (Codec.NONE, plain)

    def _pack(self, plain: Buffer) -> bytes:
        if self._codec is Codec.ZSTD:
            return self._zstd.compress(plain)
        packed: bytes = lz4.block.compress(plain, store_size=False)
        return packed

    def _samples_shrink(self, plain: memoryview) -> bool:
        step = len(plain) // _SAMPLES
        if step < 4 * _SAMPLE_SIZE:
            return True  # no smaller than the frame by much
        samples = b"".join(plain[start : start + _SAMPLE_SIZE] for start in range(0, _SAMPLES * step, step))
        return len(self._pack(samples)) < len(samples)

    def expand_into(self, codec: Codec, packed: Buffer, out: memoryview) -> None:
        """See Expander."""
        self._expander.expand_into(codec, packed, out)


def _zstd(level: int) -> zstandard.ZstdCompressor:
    """A context for a level; what it makes tells its length, and every reader of zstd reads it."""
    if level == 3:
        return zstandard.ZstdCompressor(compression_params=_SMALL_TABLES)
    return zstandard.ZstdCompressor(level=level)


class Expander:
    """Undoes compression, never beyond the length that is expected. One object per thread."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)

    def expand_into(self, codec: Codec, packed: Buffer, out: memoryview) -> None:
        """Fill `out` exactly. Raises DamagedObject when `packed` does not decode to that many bytes."""
        try:
            if codec is Codec.ZSTD:
                self._expand_zstd(packed, out)
            elif codec is Codec.LZ4:
                plain = lz4.block.decompress(packed, uncompressed_size=len(out))
                out[:] = plain
            else:
                out[:] = packed
        except (zstandard.ZstdError, lz4.block.LZ4BlockError, ValueError) as error:
            raise DamagedObject(f"does not decompress: {error}") from error

    def _expand_zstd(self, packed: Buffer, out: memoryview) -> None:
        with self._zstd.stream_reader(packed) as reader:
            filled = 0
            while filled < len(out) and (read := reader.readinto(out[filled:])):
                filled += read
            if filled != len(out) or reader.read(1):
                raise DamagedObject(f"decompresses to another length than the {len(out)} bytes that were expected")
