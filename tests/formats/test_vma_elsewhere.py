"""Archives that the program writes, read by somebody else's code."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from bfrepo.core.progress import Quiet
from bfrepo.exporter.sinks import open_file_sink
from bfrepo.operations.vma import create_vma
from tests.support.backups import incompressible, never


def test_dissect(tmp_path: Path) -> None:
    """The library dissect.archive, where it is installed, finds in an archive what was put into it."""
    theirs = pytest.importorskip("dissect.archive.vma")
    disks = {
        "drive-scsi0": incompressible(1, 200_192) + bytes(5 << 20) + incompressible(2, 4096),
        "drive-virtio1": bytes(1 << 20) + incompressible(3, 512),
    }
    (tmp_path / "conf").write_bytes(b"memory: 512\n")
    paths = {}
    for name, content in disks.items():
        (tmp_path / name).write_bytes(content)
        paths[name] = str(tmp_path / name)
    archive = tmp_path / "vm.vma"
    with open_file_sink(bytes(archive)) as sink:
        create_vma(sink, {"qemu-server.conf": str(tmp_path / "conf")}, paths, Quiet(), never, created_s=1)
    found = theirs.VMA(io.BytesIO(archive.read_bytes()))
    assert found.configs() == {"qemu-server.conf": b"memory: 512\n"}
    assert {device.name: device.open().read(device.size) for device in found.devices()} == disks
