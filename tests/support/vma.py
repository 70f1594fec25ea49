"""VMA archives made and taken apart by other code than the program's, straight from the description of the format."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Mapping

UUID = bytes(range(16))
CONFIG = b"memory: 512\nscsi0: local:100/disk.raw,size=1M\n#qmdump#map:scsi0:drive-scsi0:local:raw:\n"


def header(disks: Mapping[str, int], configs: Mapping[str, bytes] | None = None, created: int = 1_700_000_000) -> bytes:
    """The header of an archive with disks of these sizes."""
    blobs = b"\0"

    def place(content: bytes) -> int:
        nonlocal blobs
        at = len(blobs)
        blobs += struct.pack("<H", len(content)) + content
        return at

    names, contents = [], []
    for name, content in ({"qemu-server.conf": CONFIG} if configs is None else configs).items():
        names.append(place(name.encode() + b"\0"))
        contents.append(place(content))
    devices = {number: (place(name.encode() + b"\0"), size) for number, (name, size) in enumerate(disks.items(), 1)}
    size = 12288 + (len(blobs) + 511) // 512 * 512
    out = bytearray(size)
    out[:64] = struct.pack(">4sI16sQ16sIII4x", b"VMA\0", 1, UUID, created, bytes(16), 12288, len(blobs), size)
    out[2044 : 2044 + 4 * len(names)] = struct.pack(f">{len(names)}I", *names)
    out[3068 : 3068 + 4 * len(contents)] = struct.pack(f">{len(contents)}I", *contents)
    for number, (at, length) in devices.items():
        out[4096 + 32 * number : 4096 + 32 * number + 32] = struct.pack(">IIQQQ", at, 0, length, 0, 0)
    out[12288 : 12288 + len(blobs)] = blobs
    return with_header_checksum(out)


def with_header_checksum(header: bytes | bytearray) -> bytes:
    """The header with the checksum that its bytes have."""
    out = bytearray(header)
    out[32:48] = bytes(16)
    out[32:48] = hashlib.md5(out, usedforsecurity=False).digest()
    return bytes(out)


def extent(clusters: list[tuple[int, int, bytes]], *, uuid: bytes = UUID, blocks: int | None = None) -> bytes:
    """An extent of (ID of the disk, number, content) each; whatever block is zeros is left out."""
    out = bytearray(512)
    data: list[bytes] = []
    count = 0
    for number, (disk, cluster, content) in enumerate(clusters):
        mask = 0
        for at in range(16):
            block = content[at * 4096 : at * 4096 + 4096].ljust(4096, b"\0")
            if block.strip(b"\0"):
                mask |= 1 << at
                data.append(block)
                count += 1
        out[40 + 8 * number : 48 + 8 * number] = struct.pack(">HBBI", mask, 0, disk, cluster)
    out[:40] = struct.pack(">4sHH16s16s", b"VMAE", 0, count if blocks is None else blocks, uuid, bytes(16))
    out[24:40] = hashlib.md5(out, usedforsecurity=False).digest()
    return b"".join([bytes(out), *data])


def clusters_of(disks: Mapping[str, bytes]) -> list[tuple[int, int, bytes]]:
    """All clusters of all disks, in order."""
    return [
        (number, at // 65536, content[at : at + 65536])
        for number, content in enumerate(disks.values(), 1)
        for at in range(0, len(content), 65536)
    ]


def archive(disks: Mapping[str, bytes], *, seed: int | None = None, per_extent: int = 58) -> bytes:
    """A whole archive; with a seed the clusters of all disks are in any order."""
    clusters = clusters_of(disks)
    if seed is not None:
        random.Random(seed).shuffle(clusters)
    parts = [header({name: len(content) for name, content in disks.items()})]
    parts += [extent(clusters[at : at + per_extent]) for at in range(0, len(clusters), per_extent)]
    return b"".join(parts)


def take_apart(data: bytes) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The configuration files and the disks of an archive. Asserts every rule that it knows."""
    magic, version, uuid, _, checksum, blobs_at, blobs_size, size = struct.unpack_from(">4sI16sQ16sIII", data)
    assert (magic, version, blobs_at) == (b"VMA\0", 1, 12288)
    assert with_header_checksum(data[:size])[32:48] == checksum
    blobs = data[blobs_at : blobs_at + blobs_size]

    def blob(at: int) -> bytes:
        (length,) = struct.unpack_from("<H", blobs, at)
        return blobs[at + 2 : at + 2 + length]

    configs = {}
    for number in range(256):
        (name,) = struct.unpack_from(">I", data, 2044 + 4 * number)
        (content,) = struct.unpack_from(">I", data, 3068 + 4 * number)
        if name:
            configs[blob(name)[:-1].decode()] = blob(content)
    disks: dict[int, tuple[str, bytearray]] = {}
    missing: set[tuple[int, int]] = set()
    for number in range(256):
        at, _, length, _, _ = struct.unpack_from(">IIQQQ", data, 4096 + 32 * number)
        if at:
            disks[number] = blob(at)[:-1].decode(), bytearray(length)
            missing |= {(number, cluster) for cluster in range((length + 65535) // 65536)}
    position = size
    while position < len(data):
        head = data[position : position + 512]
        magic, _, blocks, extent_uuid, checksum = struct.unpack_from(">4sHH16s16s", head)
        assert (magic, extent_uuid) == (b"VMAE", uuid)
        assert hashlib.md5(head[:24] + bytes(16) + head[40:], usedforsecurity=False).digest() == checksum
        at = position + 512
        for mask, _, disk, cluster in struct.iter_unpack(">HBBI", head[40:]):
            if disk == 0:
                continue
            missing.remove((disk, cluster))
            for block in range(16):
                if mask & 1 << block:
                    start = cluster * 65536 + block * 4096
                    content = disks[disk][1]
                    content[start : start + 4096] = data[at : at + 4096][: len(content) - start]
                    at += 4096
        assert at == position + 512 + blocks * 4096 <= len(data)
        position = at
    assert not missing
    return configs, {name: bytes(content) for name, content in disks.values()}
