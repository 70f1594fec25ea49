"""Reads a VMA archive from a stream, from front to back, in memory that its extents bound."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from bfrepo.formats.vma import (
    BLOCK,
    BLOCKS,
    CLUSTER,
    ENTRIES,
    ENTRY,
    EXTENT,
    EXTENT_HEADER,
    EXTENT_MAGIC,
    FIXED_HEADER,
    FULL,
    MalformedVma,
    VmaDevice,
    VmaHeader,
    decode_header,
    extent_checksum,
    header_size,
)


class ByteStream(Protocol):
    """What an archive is read from: a file, a pipe, a channel."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the beginning of `buffer`; 0 at the end."""


class Run(NamedTuple):
    """Bytes of a disk. `data` is valid until the next run is asked for."""

    device: VmaDevice
    offset: int
    data: memoryview


class Extent(NamedTuple):
    """A piece of an archive. When `runs` has ended, all of `clusters`, (device, number) each, has been given."""

    clusters: list[tuple[VmaDevice, int]]
    runs: Iterator[Run]


class VmaReader:
    """An archive that is being read. Used by one thread; raises MalformedVma, and what the stream raises.

    `seen` and `stored` count the bytes of disks that were passed, and those of them that were in the archive.
    """

    def __init__(self, stream: ByteStream) -> None:
        """Reads the header."""
        self._stream = stream
        start = bytearray(FIXED_HEADER)
        self._fill(memoryview(start), "its header")
        rest = bytearray(header_size(start) - FIXED_HEADER)
        self._fill(memoryview(rest), "its header")
        self.header: VmaHeader = decode_header(start + rest)
        self.seen = 0
        self.stored = 0
        self._seen = {device.id: _Seen(device) for device in self.header.devices}
        self._extent = memoryview(bytearray(EXTENT_HEADER))
        self._buffer = memoryview(bytearray(ENTRIES * CLUSTER))

    def runs(self) -> Iterator[Run]:
        """What the disks hold, in the order of the archive; what never comes is zeros. Called once.

        When it ends without an error, every cluster of every disk was in the archive once.
        """
        for extent in self.extents():
            yield from extent.runs

    def extents(self) -> Iterator[Extent]:
        """The same, with what each piece of the archive tells all of. The runs of one are read before the next."""
        while self._at_extent():
            yield self._read_extent()
        for seen in self._seen.values():
            seen.refuse_gaps()

    def _read_extent(self) -> Extent:
        magic, _, blocks, uuid, checksum = EXTENT.unpack_from(self._extent)
        if magic != EXTENT_MAGIC or uuid != self.header.uuid or checksum != extent_checksum(self._extent):
            raise MalformedVma("the VMA archive is damaged: an extent does not begin as it should")
        entries = [
            (mask, self._take(device_id, cluster, mask), cluster)
            for mask, _, device_id, cluster in ENTRY.iter_unpack(self._extent[EXTENT.size :])
            if mask or device_id or cluster
        ]
        if sum(mask.bit_count() for mask, _, _ in entries) != blocks:
            raise MalformedVma("the VMA archive is damaged: an extent has another number of blocks than it says")
        data = self._buffer[: blocks * BLOCK]
        self._fill(data, "an extent")
        self.stored += len(data)
        return Extent([(device, cluster) for _, device, cluster in entries], _joined(_pieces(entries), data))

    def _take(self, device_id: int, cluster: int, mask: int) -> VmaDevice:
        """The device of a cluster that has come."""
        seen = self._seen.get(device_id)
        if seen is None:
            raise MalformedVma(f"the VMA archive has blocks of a disk {device_id} that it does not have")
        self.seen += seen.take(cluster, mask)
        return seen.device

    def _at_extent(self) -> bool:
        """Whether another extent follows, of which the header is read."""
        first = self._stream.readinto(self._extent)
        if not first:
            return False
        self._fill(self._extent[first:], "an extent")
        return True

    def _fill(self, buffer: memoryview, what: str) -> None:
        while buffer:
            count = self._stream.readinto(buffer)
            if not count:
                raise MalformedVma(f"the VMA archive is truncated: it ends within {what}")
            buffer = buffer[count:]


class _Seen:
    """Which clusters of a disk have come: a bit each, in memory that the system gives page by page as it is needed."""

    def __init__(self, device: VmaDevice) -> None:
        self.device = device
        self._count = 0
        self._clusters = device.clusters
        self._bits = mmap.mmap(-1, self._clusters // 8 + 1)

    def take(self, cluster: int, mask: int) -> int:
        """Note a cluster; how many bytes it has."""
        at, bit = cluster >> 3, 1 << (cluster & 7)
        if cluster >= self._clusters:
            raise MalformedVma(f"the VMA archive has a cluster behind the end of {self.device.name}")
        if self._bits[at] & bit:
            raise MalformedVma(f"the VMA archive has cluster {cluster} of {self.device.name} twice")
        self._bits[at] |= bit
        self._count += 1
        if cluster + 1 < self._clusters:
            return CLUSTER
        size = self.device.size - cluster * CLUSTER
        if mask >> -(-size // BLOCK):
            raise MalformedVma(f"the VMA archive has blocks behind the end of {self.device.name}")
        return size

    def refuse_gaps(self) -> None:
        missing = self._clusters - self._count
        if missing:
            raise MalformedVma(
                f"the VMA archive is truncated: {missing} of {self._clusters} clusters "
                f"of {self.device.name} are missing"
            )


def _pieces(entries: list[tuple[int, VmaDevice, int]]) -> Iterator[tuple[VmaDevice, int, int]]:
    """(device, offset, length) of what is stored, in its order."""
    for mask, device, cluster in entries:
        start = cluster * CLUSTER
        if mask == FULL:
            yield device, start, CLUSTER
            continue
        for block in range(BLOCKS):
            if mask >> block & 1:
                yield device, start + block * BLOCK, BLOCK


def _joined(pieces: Iterator[tuple[VmaDevice, int, int]], data: memoryview) -> Iterator[Run]:
    """Pieces with their data; those that lie together are one. The end of a disk may be within a block."""
    begin = at = 0
    current: VmaDevice | None = None
    offset = 0
    for device, start, length in pieces:
        if device is not current or start != offset + at - begin:
            if current is not None:
                yield _run(current, offset, data[begin:at])
            current, offset, begin = device, start, at
        at += length
    if current is not None:
        yield _run(current, offset, data[begin:at])


def _run(device: VmaDevice, offset: int, data: memoryview) -> Run:
    return Run(device, offset, data[: device.size - offset])
