"""Writes a VMA archive to a stream: header, then one disk after the other, nothing of which is read that is a hole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from bfrepo.core.protocols import Buffer
from bfrepo.formats.vma import BLOCK, BLOCKS, CLUSTER, FULL, VmaDevice, VmaHeader, encode_extent, encode_header

_CLUSTERS: Final = 58
"""As many as Proxmox puts in an extent."""

_STRETCH: Final = _CLUSTERS * CLUSTER
_ZEROS: Final = bytes(BLOCK)


class ByteSink(Protocol):
    """Where an archive goes."""

    def write(self, data: Buffer, /) -> object:
        """The next bytes, all of them."""

    def flush(self) -> object:
        """Be done with what was written: its memory is used again."""


class Disk(Protocol):
    """What a disk holds. Used by one thread."""

    def extents(self) -> Iterator[tuple[int, int]]:
        """(offset, length) of what may be other than zeros, in order."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on. Raises where the disk ends before."""


class VmaWriter:
    """An archive that is being written. Used by one thread; raises what the sink and the disks raise."""

    def __init__(self, sink: ByteSink, header: VmaHeader) -> None:
        """Writes the header. Raises ValueError for what the format cannot hold."""
        self._sink = sink
        self._uuid = header.uuid
        self._buffer = memoryview(bytearray(_STRETCH))
        sink.write(encode_header(header))

    def write(self, device: VmaDevice, disk: Disk) -> None:
        """Write all of a disk. Each device of the header must be written once; in any order."""
        data = _Extents(disk.extents())
        for start in range(0, device.size, _STRETCH):
            size = min(_STRETCH, device.size - start)
            view = self._buffer[: size + -size % CLUSTER]
            masks = [0] * (len(view) // CLUSTER)
            if data.touch(start, start + size):
                disk.read_into(view[:size], start)
                view[size:] = bytes(len(view) - size)
                masks = [_mask(view[at : at + CLUSTER]) for at in range(0, len(view), CLUSTER)]
            self._sink.write(encode_extent(self._uuid, device.id, start // CLUSTER, masks))
            for begin, end in _stored(masks):
                self._sink.write(view[begin:end])
            self._sink.flush()


class _Extents:
    """Where the data of a disk is, asked for from front to back."""

    def __init__(self, extents: Iterator[tuple[int, int]]) -> None:
        self._rest = extents
        self._start, self._end = 0, 0

    def touch(self, start: int, end: int) -> bool:
        """Whether there may be data in [start, end)."""
        while self._end <= start:
            offset, length = next(self._rest, (-1, 0))
            if offset < 0:
                return False
            self._start, self._end = offset, offset + length
        return self._start < end


def _mask(cluster: memoryview) -> int:
    """A bit for each block that is not all zeros."""
    mask = 0
    for block in range(BLOCKS):
        at = block * BLOCK
        if cluster[at] or not _ZEROS.startswith(cluster[at : at + BLOCK]):
            mask |= 1 << block
    return mask


def _stored(masks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, end) of the blocks that have a bit; those that lie together are one."""
    begin = end = 0
    for cluster, mask in enumerate(masks):
        step = BLOCKS if mask == FULL else 1
        for block in range(0, BLOCKS, step):
            if not mask >> block & 1:
                continue
            at = cluster * CLUSTER + block * BLOCK
            if at != end:
                if begin < end:
                    yield begin, end
                begin = at
            end = at + step * BLOCK
    if begin < end:
        yield begin, end
