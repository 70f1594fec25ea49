"""Archives of virtual machines: read as Proxmox writes them, written as it reads them, and refused where damaged."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.formats.vma import CLUSTER, MalformedVma, VmaDevice, VmaHeader, encode_header
from bfrepo.formats.vma_reader import VmaReader
from bfrepo.formats.vma_writer import VmaWriter
from tests.support import vma

SAMPLE = Path(os.environ.get("VMA_SAMPLE", ""))
"""The beginning of an archive that Proxmox wrote, cut after two extents. It is not ours to pass on."""


def disk(size: int, seed: int = 0) -> bytes:
    """Noise, with every third block and every third cluster zeros."""
    out = bytearray(random.Random(seed).randbytes(size))
    for at in range(0, size, 4096):
        if at // 4096 % 3 == 0 or at // CLUSTER % 3 == 1:
            out[at : at + 4096] = bytes(min(4096, size - at))
    return bytes(out)


DISKS = {
    "drive-scsi0": disk(130 * CLUSTER + 8192 + 512),
    "drive-virtio1": disk(3 * CLUSTER, 1),
    "drive-efidisk0": disk(512, 2),
}


class Pipe(io.RawIOBase):
    """Gives a few bytes at a time, as a pipe does."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step, self._at = data, step, 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self._data[self._at : self._at + min(self._step, len(buffer))]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def read(data: bytes, step: int = 1 << 30) -> tuple[VmaHeader, dict[str, bytes]]:
    """An archive, read by the program."""
    reader = VmaReader(Pipe(data, step))
    disks = {device.name: bytearray(device.size) for device in reader.header.devices}
    for run in reader.runs():
        assert run.data
        disks[run.device.name][run.offset : run.offset + len(run.data)] = run.data
    return reader.header, {name: bytes(content) for name, content in disks.items()}


class Image:
    """A disk in memory whose holes are told by clusters."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked = 0

    def extents(self) -> Iterator[tuple[int, int]]:
        for at in range(0, len(self.content), CLUSTER):
            if self.content[at : at + CLUSTER].strip(b"\0"):
                yield at, min(CLUSTER, len(self.content) - at)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        self.asked += len(buffer)
        buffer[:] = self.content[offset : offset + len(buffer)]


def write(
    disks: dict[str, bytes], configs: tuple[tuple[str, bytes], ...] = (("qemu-server.conf", vma.CONFIG),)
) -> bytes:
    """An archive, written by the program."""
    out = io.BytesIO()
    devices = [VmaDevice(number, name, len(content)) for number, (name, content) in enumerate(disks.items(), 1)]
    writer = VmaWriter(out, VmaHeader(vma.UUID, 1_700_000_000, configs, tuple(devices)))
    for device in devices:
        writer.write(device, Image(disks[device.name]))
    return out.getvalue()


@pytest.mark.parametrize("step", [1 << 30, 65536, 1000, 7])
def test_an_archive_is_read_whatever_the_pieces_it_comes_in(step: int) -> None:
    """Configuration and disks come out as they went in."""
    disks = {"drive-scsi0": disk(5 * CLUSTER + 1024)} if step < 1000 else DISKS
    header, found = read(vma.archive(disks), step)

    assert found == disks
    assert header.configs == (("qemu-server.conf", vma.CONFIG),)
    assert (header.uuid, header.created_s) == (vma.UUID, 1_700_000_000)


@pytest.mark.parametrize("per_extent", [1, 58, 59])
def test_clusters_in_any_order(per_extent: int) -> None:
    """Disks may be side by side, clusters in any order, and 59 in an extent."""
    assert read(vma.archive(DISKS, seed=3, per_extent=per_extent))[1] == DISKS


def test_an_empty_extent_is_nothing() -> None:
    """Proxmox may end an archive with one."""
    assert read(vma.archive(DISKS) + vma.extent([]))[1] == DISKS


def test_what_is_written_is_taken_apart_by_other_code() -> None:
    """The writer keeps every rule that an extractor made from the description knows."""
    assert vma.take_apart(write(DISKS)) == ({"qemu-server.conf": vma.CONFIG}, DISKS)


@given(
    sizes=st.lists(st.integers(1, 6 * 128).map(lambda sectors: sectors * 512), min_size=1, max_size=4),
    seed=st.integers(0, 1 << 32),
    content=st.binary(max_size=1000),
)
@settings(deadline=None, max_examples=30)
def test_what_is_written_is_read_back(sizes: list[int], seed: int, content: bytes) -> None:
    """Disks of any size, and any configuration."""
    disks = {f"drive-scsi{number}": disk(size, seed + number) for number, size in enumerate(sizes)}
    configs = (("qemu-server.conf", content), ("qemu-server.fw", b""))
    data = write(disks, configs)

    header, found = read(data)
    assert (header.configs, found) == (configs, disks)
    assert vma.take_apart(data) == (dict(configs), disks)


def test_holes_are_neither_read_nor_written() -> None:
    """A disk of holes costs the headers of its extents, and no read."""
    out, image = io.BytesIO(), Image(bytes(58 * 100 * CLUSTER))
    device = VmaDevice(1, "drive-scsi0", len(image.content))
    header = VmaHeader(vma.UUID, 0, (), (device,))
    VmaWriter(out, header).write(device, image)

    assert image.asked == 0
    assert len(out.getvalue()) == len(encode_header(header)) + 100 * 512


def test_a_truncated_archive_is_refused_wherever_it_ends() -> None:
    """Also where it ends between two extents, which no checksum tells."""
    data = vma.archive({"drive-scsi0": disk(130 * CLUSTER)})
    extents = [at for at in range(0, len(data), 512) if data[at : at + 4] == b"VMAE"]
    for end in {
        *range(0, len(data), 99_991),
        0,
        1,
        12287,
        12288,
        *extents,
        *(at + 512 for at in extents),
        len(data) - 1,
    }:
        with pytest.raises(MalformedVma):
            read(data[:end])


def corrupted(at: int, value: bytes) -> Callable[[bytes], bytes]:
    """A header in which some bytes are others, with the right checksum."""

    def apply(head: bytes) -> bytes:
        return vma.with_header_checksum(head[:at] + value + head[at + len(value) :])

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        corrupted(0, b"QFI\xfb"),
        corrupted(4, b"\0\0\0\2"),
        corrupted(24, b"\xff" * 8),
        corrupted(48, b"\0\0\x10\0"),
        corrupted(52, b"\xff\xff\xff\xff"),
        corrupted(56, b"\0\0\x30\0"),
        corrupted(56, b"\x7f\xff\xfe\0"),
        corrupted(2044, b"\0\0\xff\xff"),
        corrupted(2044, b"\0\0\0\0"),
        corrupted(4096, b"\0\0\0\1"),
        corrupted(4096 + 32, b"\0\0\xff\xff"),
        corrupted(4096 + 32 + 8, b"\0" * 8),
        corrupted(4096 + 32 + 8, b"\xff" * 8),
        lambda head: head[:100] + b"x" + head[101:],
    ],
)
def test_a_header_that_cannot_be_is_refused(damage: Callable[[bytes], bytes]) -> None:
    """Whatever it claims, it is an error, and no memory is taken for it."""
    with pytest.raises(MalformedVma):
        read(damage(vma.header({"drive-scsi0": CLUSTER})) + vma.extent([(1, 0, bytes(CLUSTER))]))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", ".hidden", "a/b", "a\nb", "", "x" * 300])
def test_names_that_leave_the_directory_are_refused(name: str) -> None:
    """Of disks and of configuration files, when reading and when writing."""
    for head in (vma.header({name: CLUSTER}), vma.header({"drive-scsi0": CLUSTER}, {name: b"x"})):
        with pytest.raises(MalformedVma):
            read(head)
    with pytest.raises(ValueError, match="name"):
        encode_header(VmaHeader(vma.UUID, 0, (), (VmaDevice(1, name, CLUSTER),)))


@pytest.mark.parametrize(
    "extents",
    [
        vma.extent([(1, 0, b"x"), (1, 0, b"y"), (1, 1, b"z")]),
        vma.extent([(1, 0, b"x")]) + vma.extent([(1, 1, b"y"), (1, 0, b"z")]),
        vma.extent([(1, 0, b"x"), (1, 2, b"y")]),
        vma.extent([(2, 0, b"x")]),
        vma.extent([(1, 0, b"x"), (0, 1, b"y")]),
        vma.extent([(1, 0, b"x"), (1, 1, bytes(8192) + b"y")]),
        vma.extent([(1, 0, b"x"), (1, 1, b"y")], uuid=bytes(16)),
        vma.extent([(1, 0, b"x"), (1, 1, b"y")], blocks=3) + bytes(4096),
        vma.extent([(1, 0, b"x"), (1, 1, b"y")])[:510] + b"xx" + bytes(8192),
        vma.extent([(1, 0, b"x"), (1, 1, b"y")]) + b"VMAE",
        vma.extent([(1, 0, b"x"), (1, 1, b"y")]) + bytes(512),
        vma.extent([(1, 0, b"x")]),
        b"",
    ],
    ids=[
        "doubled", "doubled later", "behind the end", "unknown disk", "disk 0", "block behind the end", "other UUID",
        "number of blocks", "checksum", "half a header", "no extent", "missing", "nothing",
    ],
)  # fmt: skip
def test_an_extent_that_cannot_be_is_refused(extents: bytes) -> None:
    """Each rule of the format is checked."""
    with pytest.raises(MalformedVma):
        read(vma.header({"drive-scsi0": CLUSTER + 4096}) + extents)


@given(st.binary(max_size=2000), st.integers(0, 20_000))
@settings(deadline=None)
def test_random_bytes_are_refused(noise: bytes, at: int) -> None:
    """Noise instead of an archive, or in the middle of one, is MalformedVma and nothing else; or harmless."""
    with pytest.raises(MalformedVma):
        read(noise)
    good = vma.archive({"drive-scsi0": disk(2 * CLUSTER)})
    head = len(vma.header({"drive-scsi0": 2 * CLUSTER}))
    for data in (
        good[:at] + noise + good[at + len(noise) :],
        corrupted(at % head, noise[: head - at % head])(good[:head]) + good[head:],
    ):
        try:
            read(data)
        except MalformedVma:
            continue


def test_a_small_archive_that_claims_much_takes_little_memory() -> None:
    """The largest disks that are allowed cost nothing until their clusters come."""
    reader = VmaReader(Pipe(vma.header({"drive-scsi0": 1 << 47}) + vma.extent([]), 1 << 20))
    with pytest.raises(MalformedVma, match="clusters of drive-scsi0 are missing"):
        list(reader.runs())


@pytest.mark.skipif(not SAMPLE.is_file(), reason="VMA_SAMPLE names no archive of Proxmox's own")
def test_the_beginning_of_an_archive_of_proxmox() -> None:
    """Header and extents are understood; that it is cut off is noticed."""
    with SAMPLE.open("rb", buffering=0) as file:
        reader = VmaReader(file)
        assert [name for name, _ in reader.header.configs] == ["qemu-server.conf"]
        assert b"#qmdump#map:" in reader.header.configs[0][1]
        assert [device.name for device in reader.header.devices] == ["drive-scsi0"]
        with pytest.raises(MalformedVma, match="truncated"):
            list(reader.runs())
    assert reader.stored > 0
