"""Guests backed up from a simulated cluster and restored on it: real streams, a real sshd, real file systems."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from bfrepo.core.errors import DamagedObject, ObjectNotFound, SourceError, TargetError
from bfrepo.data.layout import unpack_holes
from bfrepo.data.selection import SnapshotFilter, find_node
from bfrepo.formats.vma import MalformedVma
from bfrepo.operations.restore import restore as restore_files
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.storage.base import ObjectKind
from bfrepo.vfs.file import File
from tests.support.backups import incompressible, never
from tests.support.directories import Problems
from tests.support.guests import back_up, restore
from tests.support.proxmox import Cluster, read_ext4
from tests.support.repositories import make_repository, reopen


@pytest.fixture
def repository() -> Repository:
    """A repository that cuts files by their content."""
    return make_repository()


def _content(repository: Repository, tree: bytes, path: bytes) -> bytes:
    with closing(FrameCache(repository.loader, 1 << 26)) as views:
        node = find_node(repository.loader, tree, path)
        return bytes(File(views, node).read(0, node.size))


def _listing(root: Path) -> str:
    """Everything that tar says of a tree, as text."""
    line = ["find", ".", "-printf", "%P %y %m %U %G %s %T@ %l %n\n"]
    found = subprocess.run(line, cwd=root, check=True, capture_output=True, text=True).stdout
    return "\n".join(sorted(each for each in found.splitlines() if not each.startswith(" ")))


def test_machine(repository: Repository, cluster: Cluster, tmp_path: Path) -> None:
    """A machine becomes its configuration, its firewall and raw disks with holes; a restore brings all of it back."""
    result = back_up(repository, cluster, "web")
    tree, disk = result.snapshot.tree, (tmp_path / "root.raw").read_bytes()
    assert (result.snapshot.paths, result.snapshot.hostname, result.snapshot.label) == (
        [b"/qemu/100"],
        "cluster",
        "web",
    )
    assert _content(repository, tree, b"qemu/100/disk-drive-scsi0.raw") == disk
    config = _content(repository, tree, b"qemu/100/qemu-server.conf").decode()
    assert config.startswith(cluster.guest(100)["config"])
    assert "#qmdump#map:scsi0:drive-scsi0:" in config
    assert _content(repository, tree, b"qemu/100/qemu-server.fw") == b"[OPTIONS]\nenable: 1\n"
    data = find_node(repository.loader, tree, b"qemu/100/disk-drive-virtio1.raw")
    assert unpack_holes(data.size, data.holes) == [(0, 3 << 20)]
    restore(repository, cluster, result.snapshot_id, 200, storage="fast")
    assert cluster.disk(200, "drive-scsi0") == disk
    assert cluster.disk(200, "drive-virtio1") == (tmp_path / "data.raw").read_bytes()
    restored = cluster.guest(200)
    assert (restored["config"], restored["firewall"]) == (cluster.guest(100)["config"], "[OPTIONS]\nenable: 1\n")
    assert "qmrestore - 200 --storage fast" in cluster.said()
    assert read_ext4(cluster.state / "disks/200/drive-scsi0.raw", "/hostname") == b"web\n"


def test_second_backup(repository: Repository, cluster: Cluster, tmp_path: Path) -> None:
    """Whatever order clusters come in, a second backup stores what changed and nothing else."""
    first = back_up(repository, cluster, "100")
    again = back_up(repository, cluster, "100")
    assert first.stored.bytes_new > 6 << 20
    assert again.stored.bytes_new < 8192
    assert again.parent_id == first.snapshot_id
    with (tmp_path / "root.raw").open("r+b") as disk:
        disk.seek(12 << 20)
        disk.write(incompressible(7, 300_000))
    third = back_up(repository, cluster, "100")
    assert 300_000 <= third.stored.bytes_new < 300_000 + (2 << 20)
    expected = (tmp_path / "root.raw").read_bytes()
    assert _content(repository, third.snapshot.tree, b"qemu/100/disk-drive-scsi0.raw") == expected


def test_container(repository: Repository, cluster: Cluster, tmp_path: Path) -> None:
    """A container becomes files with its configuration beside them; a restore brings all of it back."""
    root = tmp_path / "container"
    if os.geteuid() == 0:
        os.chown(root / "hostname", 1000, 1001)
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
    result = back_up(repository, cluster, "db")
    tree = result.snapshot.tree
    assert result.snapshot.paths == [b"/lxc/101"]
    assert _content(repository, tree, b"lxc/101/pct.conf").decode() == cluster.guest(101)["config"]
    node = find_node(repository.loader, tree, b"lxc/101/rootfs/hostname")
    assert (node.xattrs, node.links) == ([(b"user.note", b"\x00binary\xff")], 2)
    with pytest.raises(ObjectNotFound):
        find_node(repository.loader, tree, b"lxc/101/rootfs/etc")
    restore(repository, cluster, result.snapshot_id, 201, storage="fast")
    restored = cluster.state / "roots" / "201"
    assert _listing(restored) == _listing(root)
    assert (
        subprocess.run(["diff", "-r", "--no-dereference", "-x", "pipe", "-x", "null", root, restored]).returncode == 0
    )
    assert os.getxattr(restored / "hostname", "user.note") == b"\x00binary\xff"
    assert cluster.guest(201)["options"] == {"--rootfs": "fast:8", "--unprivileged": "1"}
    again = back_up(repository, cluster, "101")
    assert again.stored.bytes_new < 8192


def test_single_files(repository: Repository, cluster: Cluster, tmp_path: Path) -> None:
    """One file of a container, and the disks of a machine as files, are restored like any others, holes and all."""
    container, machine = back_up(repository, cluster, "db"), back_up(repository, cluster, "web")
    assert container.snapshot_id is not None
    assert machine.snapshot_id is not None
    for snapshot, path, target in (
        (container.snapshot_id, "/lxc/101/rootfs/dir1", tmp_path / "files"),
        (machine.snapshot_id, "/qemu/100", tmp_path / "disks"),
    ):
        options = RestoreOptions(target=bytes(target))
        restore_files(repository, f"{snapshot.hex()}:{path}", SnapshotFilter(), options, Problems(), never)
    assert (tmp_path / "files" / "file5").read_bytes() == incompressible(5, 250_000)
    disk = tmp_path / "disks" / "disk-drive-scsi0.raw"
    assert read_ext4(disk, "/dir3/file7") == incompressible(7, 350_000)
    assert disk.stat().st_blocks * 512 < disk.stat().st_size


@pytest.mark.parametrize("guest", ["web", "db"])
@pytest.mark.parametrize("how", ["cut", "fail"])
def test_broken_stream(repository: Repository, cluster: Cluster, guest: str, how: str) -> None:
    """A stream that ends too early, or whose vzdump fails, is no snapshot, and the error says what the node said."""
    cluster.set_fault("cut", how)
    with pytest.raises(SourceError, match="Backup of" if how == "fail" else "truncated|ends"):
        back_up(repository, cluster, guest)
    cluster.clear_fault("cut")
    back_up(repository, cluster, guest)


def test_wrong_node(repository: Repository, cluster: Cluster) -> None:
    """A node that has nothing of the guest, and says so by silence and success, is found out."""
    cluster.change(100, node="other")
    with pytest.raises(SourceError, match="has nothing of VM 100") as caught:
        back_up(repository, cluster, "100")
    assert not isinstance(caught.value, MalformedVma)


def test_locked_guest(repository: Repository, cluster: Cluster) -> None:
    """A guest that somebody else has locked stays locked, and the error says by what."""
    cluster.change(100, lock="migrate")
    with pytest.raises(SourceError, match=r"VM is locked \(migrate\)"):
        back_up(repository, cluster, "100")
    assert cluster.guest(100)["lock"] == "migrate"


def test_restore_refused(repository: Repository, cluster: Cluster) -> None:
    """What is there is not replaced unless that was asked for, and never while it runs; the node's words are shown."""
    result = back_up(repository, cluster, "web")
    with pytest.raises(TargetError, match="already exists"):
        restore(repository, cluster, result.snapshot_id, 100)
    with pytest.raises(TargetError, match="running"):
        restore(repository, cluster, result.snapshot_id, 100, overwrite=True)
    cluster.change(100, status="stopped")
    restore(repository, cluster, result.snapshot_id, 100, overwrite=True)
    assert "qmrestore - 100 --force 1" in cluster.said()


def test_damaged_disk(repository: Repository, cluster: Cluster) -> None:
    """Of a disk that is damaged in the repository nothing wrong reaches the node, which makes no guest of it."""
    result = back_up(repository, cluster, "web")
    backend = repository.backend
    pack = max(backend.list(ObjectKind.PACK), key=lambda info: info.size)
    data = bytearray(backend.load(ObjectKind.PACK, pack.name))
    data[len(data) // 2] ^= 1
    backend.delete(ObjectKind.PACK, pack.name)
    backend.save(ObjectKind.PACK, pack.name, bytes(data))
    with pytest.raises(DamagedObject):
        restore(reopen(backend), cluster, result.snapshot_id, 200)
    assert 200 not in cluster.guests()
