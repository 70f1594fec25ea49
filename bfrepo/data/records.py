"""Long lists of fixed-size records, moved out of the node that holds them.

A node's blob IDs (32 bytes each) and holes (16 bytes each) stay in the node while they are few. A longer list is cut
into parts at places that its own content decides, each part becomes a blob of kind TREE, and the node holds the IDs of
the parts: a list of IDs again, so the same rule applies to it. `depth` says how often. A 1 TiB disk image has a million
chunks, a list of 32 MiB; as cuts depend on content, changing one chunk stores one part of about 16 KiB again, not the
list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from zlib import crc32

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.protocols import BlobLoader, BlobSaver

INLINE_LIMIT: Final = 8192
"""Bytes a list may have and stay in its node: 256 IDs, a file of about 300 MiB."""

_MEAN_RECORDS: Final = 512
_LEAST_PART: Final = 4 * 1024
"""No part is smaller, whatever its records: a list of equal records (a file of zeros) must become shorter, too."""
_LARGEST_PART: Final = 64 * 1024
_MAX_DEPTH: Final = 4
_MAX_LIST: Final = 1 << 30
"""Most bytes a list may have when it is whole: the blobs of a file of about 35 TiB."""


def save_records(saver: BlobSaver, records: bytes, record_size: int) -> tuple[bytes, int]:
    """What the node stores for `records`, and its depth: the records themselves and 0 while they are few."""
    depth = 0
    while len(records) > INLINE_LIMIT:
        records = b"".join(saver.save(BlobKind.TREE, part) for part in _parts(records, record_size))
        record_size = ID_SIZE
        depth += 1
    return records, depth


def load_records(loader: BlobLoader, packed: bytes, depth: int) -> bytes:
    """The list that `save_records` stored. Raises DamagedObject when the depth or a length makes no sense."""
    if not 0 <= depth <= _MAX_DEPTH:
        raise DamagedObject(f"a list of records claims {depth} levels of indirection, at most {_MAX_DEPTH} exist")
    for _ in range(depth):
        packed = _load_level(loader, split_ids(packed))
    return packed


def record_blobs(loader: BlobLoader, packed: bytes, depth: int) -> Iterator[bytes]:
    """The IDs of all blobs that hold parts of the list, level by level: what a check or a prune must count as used."""
    for _ in range(depth):
        part_ids = split_ids(packed)
        yield from part_ids
        packed = _load_level(loader, part_ids)


def _load_level(loader: BlobLoader, part_ids: list[bytes]) -> bytes:
    """The parts joined. Bounded, as a hostile list may name one part again and again, on every level."""
    level = bytearray()
    for part_id in part_ids:
        level += loader.load(BlobKind.TREE, part_id)
        if len(level) > _MAX_LIST:
            raise DamagedObject(f"a list of records has more than the {_MAX_LIST} bytes that are allowed")
    return bytes(level)


def split_ids(packed: bytes) -> list[bytes]:
    """A concatenation of IDs as a list. Raises DamagedObject when its length is no multiple of 32."""
    if len(packed) % ID_SIZE:
        raise DamagedObject(f"a list of IDs has {len(packed)} bytes, which is no multiple of {ID_SIZE}")
    return [packed[at : at + ID_SIZE] for at in range(0, len(packed), ID_SIZE)]


def _parts(records: bytes, record_size: int) -> Iterator[bytes]:
    """Cut after records whose checksum has nine zero bits, so that a change moves only the cuts beside it."""
    start = 0
    for end in range(record_size, len(records) + 1, record_size):
        size = end - start
        at_cut = size >= _LEAST_PART and crc32(records[end - record_size : end]) % _MEAN_RECORDS == 0
        if at_cut or size >= _LARGEST_PART:
            yield records[start:end]
            start = end
    if start < len(records):
        yield records[start:]
