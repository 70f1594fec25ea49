"""A virtual machine: its configuration, and each disk as a raw image, out of the VMA archive that vzdump writes.

    qemu/100/backup.json               what the cluster says of it
    qemu/100/qemu-server.conf          its configuration, as vzdump has it; qemu-server.fw if there is a firewall
    qemu/100/disk-drive-scsi0.raw      a disk; "drive-scsi0" is its name in the archive

The archive is taken apart as it arrives and never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from bfrepo.core.errors import SourceError
from bfrepo.data.node import Node
from bfrepo.formats.vma import CLUSTER, VmaDevice
from bfrepo.formats.vma_reader import Extent, VmaReader
from bfrepo.sources.base import ImagePart, ImageSource, Member
from bfrepo.sources.proxmox.dump import ABOUT, Dump, about, directory_member, file_member
from bfrepo.sources.proxmox.inventory import Guest

_SECOND: Final = 1_000_000_000
_PREFIX: Final = b"disk-"
_SUFFIX: Final = b".raw"


def image_name(device: str) -> bytes:
    """What the image of a disk is called in a snapshot."""
    return _PREFIX + device.encode() + _SUFFIX


def device_name(name: bytes) -> str | None:
    """The disk of which this is the image; None for other files."""
    if not name.startswith(_PREFIX) or not name.endswith(_SUFFIX):
        return None
    return name.removeprefix(_PREFIX).removesuffix(_SUFFIX).decode("ascii", "replace")


class MachineSource(ImageSource):
    """A machine, as it comes. Used by one thread."""

    def __init__(self, dump: Dump, guest: Guest) -> None:
        self._dump = dump
        self._guest = guest
        self._reader: VmaReader | None = None

    def members(self) -> Iterator[Member]:
        """See MemberSource.members."""
        if self._reader is not None:
            raise SourceError("the archive has been read already", hint="run the backup again")
        self._reader = VmaReader(self._dump)
        header = self._reader.header
        time_ns = header.created_s * _SECOND
        yield directory_member(self._guest, time_ns)
        for name, content in header.configs:
            yield file_member(self._guest, name.encode(), content, time_ns)
        yield file_member(self._guest, ABOUT, about(self._guest), time_ns)

    def images(self) -> Sequence[Member]:
        """See ImageSource.images."""
        header = self._begun().header
        return [self._image(device, header.created_s * _SECOND) for device in header.devices]

    def parts(self) -> Iterator[ImagePart]:
        """See ImageSource.parts."""
        reader = self._begun()
        numbers = {device.id: number for number, device in enumerate(reader.header.devices)}
        for extent in reader.extents():
            yield ImagePart(_ranges(extent, numbers), _pieces(extent, numbers))
        self._dump.expect_end()

    def _begun(self) -> VmaReader:
        if self._reader is None:
            raise SourceError("nothing of the archive was read")
        return self._reader

    def _image(self, device: VmaDevice, time_ns: int) -> Member:
        name = image_name(device.name)
        node = Node(name=name, mode=0o600, user="root", group="root", size=device.size)
        node.mtime_ns = node.ctime_ns = time_ns
        return Member((*self._guest.path, name), node)


def _ranges(extent: Extent, numbers: dict[int, int]) -> list[tuple[int, int, int]]:
    """What an extent tells all of; clusters that lie together are one."""
    ranges: list[tuple[int, int, int]] = []
    for device, cluster in extent.clusters:
        image, start = numbers[device.id], cluster * CLUSTER
        end = min(start + CLUSTER, device.size)
        if ranges and ranges[-1][0] == image and ranges[-1][2] == start:
            ranges[-1] = image, ranges[-1][1], end
        else:
            ranges.append((image, start, end))
    return ranges


def _pieces(extent: Extent, numbers: dict[int, int]) -> Iterator[tuple[int, int, memoryview]]:
    for run in extent.runs:
        yield numbers[run.device.id], run.offset, run.data
