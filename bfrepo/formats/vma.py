"""VMA, the archive of a virtual machine that Proxmox VE writes: configuration files and disk images in one stream.

All integers are big-endian, but for the length of a blob. A block is 4096 bytes, a cluster 16 blocks.

    Header                                                               header_size bytes, a multiple of 512
        0     4   magic "VMA\\0"
        4     4   version = 1
        8    16   UUID, repeated in each extent
       24     8   time of creation, seconds since 1970
       32    16   MD5 of the whole header, with these 16 bytes as zeros
       48     4   where the blobs begin: 12288
       52     4   how many bytes they are
       56     4   header_size: 12288 and the blobs, at most 524288
     2044  1024   256 times: where the blob with the name of a configuration file is; 0 for none
     3068  1024   256 times: where the blob with its content is
     4096  8192   256 times, the index is the ID of a device (0 and 255 are not used):
                  u32 where the blob with its name is, u32 0, u64 size in bytes, u64 0, u64 0
    12288         blobs: one byte, then (u16 length, LITTLE-endian; content) each; places count from 12288, names
                  end in NUL

    Extent       one after the other to the end of the stream            512 + 4096 * blocks bytes
        0     4   magic "VMAE"
        4     2   0
        6     2   number of blocks that follow the 512 bytes
        8    16   UUID
       24    16   MD5 of the 512 bytes, with these 16 as zeros
       40   472   59 times: u16 mask, u8 0, u8 ID of the device, u32 number of the cluster; all zero: not used
      512         blocks: bit 0 of a mask is the first block of the cluster, and whatever has no bit is zeros

Validity: each cluster of each device is in exactly one extent, those that are all zeros too; no bit is set behind the
end of the device; the bits of an extent add up to its number of blocks. There is no checksum of the blocks. A stream
that ends before every cluster was there is truncated, whatever its last extent looks like.

Proxmox puts 58 clusters in an extent, although there is room for 59, and disks side by side in any order.

Source: vma_spec.txt and the behaviour of vma in pve-qemu 11, and archives it wrote.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from bfrepo.core.errors import SourceError
from bfrepo.core.protocols import Buffer

BLOCK: Final = 4096
BLOCKS: Final = 16
CLUSTER: Final = BLOCK * BLOCKS
FULL: Final = 0xFFFF
ENTRIES: Final = 59
EXTENT_HEADER: Final = 512
SECTOR: Final = 512
"""The size of a disk is a multiple of this."""

FIXED_HEADER: Final = 12288
MOST_HEADER: Final = 512 * 1024
MOST_SIZE: Final = 1 << 47
"""Bytes that all disks together may claim, 128 TiB: what is kept of each cluster is bounded by it."""

EXTENT: Final = struct.Struct(">4sHH16s16s")
ENTRY: Final = struct.Struct(">HBBI")
EXTENT_MAGIC: Final = b"VMAE"

_HEADER: Final = struct.Struct(">4sI16sQ16sIII")
_MAGIC: Final = b"VMA\0"
_VERSION: Final = 1
_MD5_AT: Final = 32
_EXTENT_MD5_AT: Final = 24
_TABLE: Final = struct.Struct(">256I")
_NAMES_AT: Final = 2044
_DATA_AT: Final = 3068
_DEVICE: Final = struct.Struct(">IIQQQ")
_DEVICES_AT: Final = 4096
_LAST_DEVICE: Final = 254
_MOST_CONFIGS: Final = 256
_MOST_BLOB: Final = 0xFFFF
_MOST_NAME: Final = 200
_LAST_TIME: Final = 253_402_300_799
"""The end of the year 9999."""


class MalformedVma(SourceError):
    """What was to be a VMA archive is none, is damaged, or ends too early."""

    code = "malformed-vma"


@dataclass(frozen=True, slots=True)
class VmaDevice:
    """A disk. `name` is as Proxmox has it, such as "drive-scsi0"; `size` is bytes."""

    id: int
    name: str
    size: int

    @property
    def clusters(self) -> int:
        """How many clusters it has, the last of which may be short."""
        return -(-self.size // CLUSTER)


@dataclass(frozen=True, slots=True)
class VmaHeader:
    """What an archive begins with. `created_s` is seconds since 1970; configuration files are (name, content)."""

    uuid: bytes
    created_s: int
    configs: tuple[tuple[str, bytes], ...]
    devices: tuple[VmaDevice, ...]


def header_size(start: Buffer) -> int:
    """How long the header is that begins with these FIXED_HEADER bytes. Raises MalformedVma."""
    magic, version, _, _, _, blobs_at, blobs_size, size = _HEADER.unpack_from(start)
    if magic != _MAGIC:
        raise MalformedVma(
            "this is no VMA archive: it does not begin as one",
            hint="decompress it first: zstd -dc, gzip -dc or lzop -dc",
        )
    if version != _VERSION:
        raise MalformedVma(f"this VMA archive is of version {version}, and only version {_VERSION} is known")
    if blobs_at != FIXED_HEADER or not FIXED_HEADER < size <= MOST_HEADER or size % 512 or blobs_at + blobs_size > size:
        raise MalformedVma("the header of the VMA archive has impossible sizes")
    return int(size)


def decode_header(data: Buffer) -> VmaHeader:
    """The header in `data`, which is all of it. Raises MalformedVma."""
    _, _, uuid, created_s, checksum, blobs_at, blobs_size, _ = _HEADER.unpack_from(data)
    if checksum != _md5(data, _MD5_AT):
        raise MalformedVma("the header of the VMA archive is damaged: its checksum is wrong")
    if created_s > _LAST_TIME:
        raise MalformedVma("the header of the VMA archive has an impossible time")
    blobs = _Blobs(bytes(data[blobs_at : blobs_at + blobs_size]))
    configs = tuple(_configs(data, blobs))
    devices = tuple(_devices(data, blobs))
    _refuse_doubles([name for name, _ in configs] + [device.name for device in devices])
    if sum(device.size for device in devices) > MOST_SIZE:
        raise MalformedVma(f"the disks of the VMA archive claim to have more than {MOST_SIZE} bytes")
    return VmaHeader(uuid, created_s, configs, devices)


def encode_header(header: VmaHeader) -> bytes:
    """The bytes of a header. Raises ValueError for what the format cannot hold."""
    if len(header.uuid) != 16 or len(header.configs) > _MOST_CONFIGS:
        raise ValueError("a UUID has 16 bytes, and there are at most 256 configuration files")
    _refuse_doubles([name for name, _ in header.configs] + [device.name for device in header.devices])
    blobs = bytearray(1)
    names, contents = [0] * 256, [0] * 256
    for number, (name, content) in enumerate(header.configs):
        names[number] = _add_blob(blobs, _encode_name(name))
        contents[number] = _add_blob(blobs, content)
    data = bytearray(FIXED_HEADER)
    for device in header.devices:
        if not 1 <= device.id <= _LAST_DEVICE or device.size % SECTOR or device.size <= 0:
            raise ValueError(f"a VMA archive cannot hold a disk of {device.size} bytes with the ID {device.id}")
        place = _add_blob(blobs, _encode_name(device.name))
        _DEVICE.pack_into(data, _DEVICES_AT + device.id * _DEVICE.size, place, 0, device.size, 0, 0)
    _TABLE.pack_into(data, _NAMES_AT, *names)
    _TABLE.pack_into(data, _DATA_AT, *contents)
    size = FIXED_HEADER + len(blobs) + -len(blobs) % 512
    if size > MOST_HEADER:
        raise ValueError("the configuration files are too long for a VMA archive")
    fields = (_MAGIC, _VERSION, header.uuid, header.created_s, bytes(16), FIXED_HEADER, len(blobs), size)
    _HEADER.pack_into(data, 0, *fields)
    data += blobs.ljust(size - FIXED_HEADER, b"\0")
    data[_MD5_AT : _MD5_AT + 16] = _md5(data, _MD5_AT)
    return bytes(data)


def extent_checksum(header: Buffer) -> bytes:
    """What the checksum of an extent has to be."""
    return _md5(header, _EXTENT_MD5_AT)


def encode_extent(uuid: bytes, device_id: int, first: int, masks: Sequence[int]) -> bytes:
    """The header of an extent with clusters of one device that lie one after the other."""
    blocks = sum(mask.bit_count() for mask in masks)
    header = bytearray(EXTENT_HEADER)
    EXTENT.pack_into(header, 0, EXTENT_MAGIC, 0, blocks, uuid, bytes(16))
    for number, mask in enumerate(masks):
        ENTRY.pack_into(header, EXTENT.size + number * ENTRY.size, mask, 0, device_id, first + number)
    header[_EXTENT_MD5_AT : _EXTENT_MD5_AT + 16] = extent_checksum(header)
    return bytes(header)


def is_usable_name(name: str) -> bool:
    """Whether a name of an archive may become that of a file: nothing that leaves its directory or hides."""
    return 0 < len(name) <= _MOST_NAME and name.isascii() and name.isprintable() and "/" not in name and name[0] != "."


class _Blobs:
    """The blob buffer of a header."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def at(self, place: int) -> bytes:
        size = int.from_bytes(self._data[place : place + 2], "little")
        if place + 2 + size > len(self._data):
            raise MalformedVma("the header of the VMA archive points outside itself")
        return self._data[place + 2 : place + 2 + size]

    def name_at(self, place: int) -> str:
        name, end, rest = self.at(place).partition(b"\0")
        text = name.decode("ascii", "replace")
        if not end or rest.strip(b"\0") or not is_usable_name(text):
            raise MalformedVma(f"the VMA archive has something with the impossible name {text!r}")
        return text


def _configs(data: Buffer, blobs: _Blobs) -> Iterator[tuple[str, bytes]]:
    names, contents = (_TABLE.unpack_from(data, at) for at in (_NAMES_AT, _DATA_AT))
    for name, content in zip(names, contents, strict=True):
        if bool(name) != bool(content):
            raise MalformedVma("the VMA archive has a configuration file without a name or without content")
        if name:
            yield blobs.name_at(name), blobs.at(content)


def _devices(data: Buffer, blobs: _Blobs) -> Iterator[VmaDevice]:
    for number in range(256):
        place, _, size, _, _ = _DEVICE.unpack_from(data, _DEVICES_AT + number * _DEVICE.size)
        if not place:
            continue
        if not 1 <= number <= _LAST_DEVICE or not size:
            raise MalformedVma(f"the VMA archive has a disk of {size} bytes with the ID {number}")
        yield VmaDevice(number, blobs.name_at(place), size)


def _refuse_doubles(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise MalformedVma(f"the VMA archive has two entries with the name {name!r}")


def _encode_name(name: str) -> bytes:
    if not is_usable_name(name):
        raise ValueError(f"{name!r} cannot be a name in a VMA archive")
    return name.encode("ascii") + b"\0"


def _add_blob(blobs: bytearray, content: bytes) -> int:
    if len(content) > _MOST_BLOB:
        raise ValueError(f"a VMA archive has room for {_MOST_BLOB} bytes of a configuration file, not {len(content)}")
    place = len(blobs)
    blobs += len(content).to_bytes(2, "little") + content
    return place


def _md5(data: Buffer, at: int) -> bytes:
    """The checksum of data in which the 16 bytes at `at` count as zeros. Against accidents, as the format has it."""
    digest = hashlib.md5(data[:at], usedforsecurity=False)
    digest.update(bytes(16))
    digest.update(data[at + 16 :])
    return digest.digest()
