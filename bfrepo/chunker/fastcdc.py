"""Content-defined chunks: FastCDC with normalised chunking over a secret gear table.

The algorithm is that of W. Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data
Deduplication", USENIX ATC 2016, and of the journal version, "The Design of Fast Content-Defined Chunking for Data
Deduplication Based Storage Systems", IEEE TPDS 31(9), 2020. The head of _gear.c says what exactly decides a cut.

The gear table is drawn from the repository's secret seed, so that whoever sees the lengths of stored chunks cannot tell
from them whether a known file is inside: two repositories cut the same file in different places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blake3 import blake3

from bfrepo.chunker import _gear

if TYPE_CHECKING:
    from typing_extensions import Buffer

WINDOW = 64
"""Bytes that decide whether there is a cut behind them: a bit of the hash is shifted out after 64 more."""

NORMALISATION = 2
"""How many bits more (below the average) and fewer (above it) must be zero: level 2, which the papers recommend."""

TABLE_SIZE = 256 * 8
"""Bytes of a gear table: a little-endian 64-bit number for each value of a byte."""

_TABLE_LABEL = b"backupforge 1 gear table"


def gear_table(seed: bytes) -> bytes:
    """The table for a 32-byte seed: the first 2048 bytes of BLAKE3's extended output, keyed with the seed.

    Part of the format: another table cuts elsewhere, and nothing old would deduplicate against anything new. Raises
    ValueError for a seed of another length.
    """
    return blake3(_TABLE_LABEL, key=seed).digest(length=TABLE_SIZE)


class FastCdc:
    """A `Chunker` that cuts where the content says so. Any thread may use it; the GIL is released while it scans.

    Sizes are bytes, 64 <= minimum < average < maximum <= 1 GiB, the average a power of two. With the default sizes the
    chunks of random data are about a seventh longer than `average` in the mean, because nothing is cut below the
    minimum. Raises ValueError for other sizes, or a seed that is not 32 bytes.
    """

    __slots__ = ("_average", "_maximum", "_minimum", "_table")

    def __init__(self, seed: bytes, *, minimum: int, average: int, maximum: int) -> None:
        self._table = gear_table(seed)
        self._minimum = minimum
        self._average = average
        self._maximum = maximum
        self.cut(b"", 0, 0, final=True)  # the kernel checks the sizes: let it do so now and not in the first backup

    @property
    def name(self) -> str:
        """As in the configuration of a repository."""
        return "fastcdc"

    @property
    def minimum(self) -> int:
        """Bytes that every chunk has but the last of a file."""
        return self._minimum

    @property
    def maximum(self) -> int:
        """Bytes that no chunk exceeds."""
        return self._maximum

    def cut(self, data: Buffer, start: int, end: int, *, final: bool) -> Sequence[int]:
        """The end offsets of the chunks in `data[start:end]`; see `Chunker.cut`."""
        return _gear.cut(data, start, end, final, self._table, self._minimum, self._average, self._maximum)


def cut_reference(
    data: bytes, start: int, end: int, final: bool, table: bytes, minimum: int, average: int, maximum: int
) -> list[int]:
    """What `_gear.cut` must return, in plain Python: the oracle of the tests, some hundred times slower."""
    entries = [int.from_bytes(table[at : at + 8], "little") for at in range(0, TABLE_SIZE, 8)]
    ends: list[int] = []
    while start < end:
        piece = data[start : min(end, start + maximum)]
        length = _first_hit(piece, entries, minimum, average, maximum)
        if length is None:
            if len(piece) < maximum and not final:
                break
            length = len(piece)
        start += length
        ends.append(start)
    return ends


def _first_hit(piece: bytes, entries: Sequence[int], minimum: int, average: int, maximum: int) -> int | None:
    """The least length from `minimum` on, below `maximum`, at which the content asks for a cut."""
    bits = average.bit_length() - 1
    value = 0
    for length in range(minimum - WINDOW + 1, min(maximum, len(piece) + 1)):
        value = ((value << 1) + entries[piece[length - 1]]) & 0xFFFF_FFFF_FFFF_FFFF
        zeros = bits + NORMALISATION if length < average else bits - NORMALISATION
        if length >= minimum and value < 1 << (64 - zeros):
            return length
    return None
