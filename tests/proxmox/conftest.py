"""A simulated cluster with a machine of two disks and a container, for each test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.proxmox import Cluster, make_ext4, simulate


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tree, `root.raw`, which has it in an ext4 file system, and `data.raw`."""
    if shutil.which("mke2fs") is None or shutil.which("debugfs") is None:
        pytest.skip("e2fsprogs is not installed")
    folder = tmp_path_factory.mktemp("images")
    tree = folder / "tree"
    for number in range(16):
        path = tree / f"dir{number % 4}" / f"file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(incompressible(number, 50_000 * number))
    (tree / "hostname").write_text("web\n")
    make_ext4(folder / "root.raw", tree, 24 << 20)
    (folder / "data.raw").write_bytes(bytes(3 << 20) + incompressible(99, 70_144))
    return folder


@pytest.fixture
def cluster(tmp_path: Path, images: Path) -> Iterator[Cluster]:
    """The cluster, with the machine 100 and the container 101."""
    root = tmp_path / "container"
    shutil.copytree(images / "tree", root)
    os.link(root / "hostname", root / "dir1" / "again")
    (root / "link").symlink_to("dir1/again")
    os.mkfifo(root / "pipe")
    os.setxattr(root / "hostname", "user.note", b"\x00binary\xff")
    shutil.copy(images / "root.raw", tmp_path / "root.raw")
    shutil.copy(images / "data.raw", tmp_path / "data.raw")
    with simulate(tmp_path / "cluster") as running:
        disks = {"drive-scsi0": tmp_path / "root.raw", "drive-virtio1": tmp_path / "data.raw"}
        running.add_machine(100, "web", disks, tags="prod;linux", firewall="[OPTIONS]\nenable: 1\n", agent=1)
        running.add_container(101, "db", root, pool="shop", tags="prod")
        yield running
