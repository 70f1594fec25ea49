"""How fast a frame is sealed and opened, and how fast the index answers.

pytest benchmarks/micro --benchmark-only
"""

from __future__ import annotations

import os
from array import array
from random import Random
from typing import TYPE_CHECKING

import pytest

from bfrepo.compression import Codec, Compression, Compressor, Expander
from bfrepo.core.ids import BlobKind
from bfrepo.core.units import MIB
from bfrepo.crypto.hashing import make_blob_hasher
from bfrepo.index.table import BlobTable
from bfrepo.pack.format import PackCipher, PackDirectory
from bfrepo.pack.writer import FrameSealer, PackWriter

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

KEY = bytes(32)


class Nowhere:
    """An upload that keeps nothing, so that only our own work is timed."""

    def write(self, data: object) -> None:
        """Drops it."""

    def commit(self, name: str) -> None:
        """Drops it."""

    def abort(self) -> None:
        """Drops it."""


def text(size: int) -> bytes:
    """Words in random order: about as compressible as source code."""
    words = [bytes(Random(number).choices(b"abcdefghijklmnop_ ", k=3 + number % 9)) for number in range(800)]
    chosen = Random(1).choices(words, k=size // 5)
    return b" ".join(chosen)[:size]


@pytest.mark.parametrize("verify", [True, False])
def test_seal_a_frame(benchmark: BenchmarkFixture, *, verify: bool) -> None:
    """1 MiB of text: compressed, sealed, and read back where that is asked for."""
    plain = memoryview(text(MIB))
    sealer = FrameSealer(Compressor(Compression()), verify=verify)
    pack = PackWriter(Nowhere(), KEY, KEY, BlobKind.DATA)
    benchmark(lambda: sealer.add(pack, sealer.compress(plain), KEY, array("I", [MIB])))


def test_open_a_frame(benchmark: BenchmarkFixture) -> None:
    """The same frame opened and expanded into memory that is used again."""
    cipher = PackCipher(KEY, KEY, KEY)
    codec, packed = Compressor(Compression()).compress(memoryview(text(MIB)))
    sealed = bytearray(len(packed) + cipher.overhead)
    cipher.seal_frame(packed, BlobKind.DATA, 0, memoryview(sealed))
    opened, expanded, expander = memoryview(bytearray(MIB)), memoryview(bytearray(MIB)), Expander()

    def open_frame() -> None:
        length = cipher.open_frame(sealed, BlobKind.DATA, 0, opened)
        expander.expand_into(codec, opened[:length], expanded)

    benchmark(open_frame)


@pytest.mark.parametrize("size", [4 << 10, 16 << 10, MIB])
def test_hash_a_blob(benchmark: BenchmarkFixture, size: int) -> None:
    """The keyed ID of one blob."""
    blob_hash, blob = make_blob_hasher(KEY), os.urandom(size)
    benchmark(lambda: blob_hash(blob))


def test_take_in_a_pack(benchmark: BenchmarkFixture) -> None:
    """20,000 blobs of one pack into an empty table."""
    directory = PackDirectory.empty(BlobKind.DATA)
    for _ in range(200):
        directory.add_frame(100, 100 * 50, Codec.ZSTD, os.urandom(32 * 100), array("I", [50] * 100))
    benchmark(lambda: BlobTable().add_pack(KEY, 1, directory))


def test_ask_the_index(benchmark: BenchmarkFixture) -> None:
    """Is this blob stored: 1,000 questions to a table of 100,000."""
    directory = PackDirectory.empty(BlobKind.DATA)
    ids = os.urandom(32 * 100_000)
    directory.add_frame(100, 100_000 * 50, Codec.ZSTD, ids, array("I", [50] * 100_000))
    table = BlobTable()
    table.add_pack(KEY, 1, directory)
    asked = [ids[at : at + 32] for at in range(0, 32 * 1000, 32)]
    benchmark(lambda: [table.holds(blob_id) for blob_id in asked])
