"""`backupforge proxmox`, as somebody at a terminal uses it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, failure
from tests.support.proxmox import TOKEN, Cluster, make_ext4, read_ext4, simulate
from tests.support.proxmox_command import node_options, told_of


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A machine whose disk has a file system, a container, and a machine that is on another node."""
    if shutil.which("mke2fs") is None or shutil.which("debugfs") is None:
        pytest.skip("e2fsprogs is not installed")
    root = tmp_path / "root"
    root.mkdir()
    (root / "hello").write_bytes(incompressible(1, 300_000))
    with simulate(tmp_path / "cluster") as running:
        running.add_machine(100, "web", {"drive-scsi0": make_ext4(tmp_path / "disk.raw", root, 16 << 20)}, tags="prod")
        running.add_container(101, "db", root, pool="shop")
        running.add_guest(102, {"kind": "qemu", "name": "gone", "config": "", "node": "pve2", "status": "stopped"})
        yield running


@pytest.fixture
def command(cluster: Cluster, tmp_path: Path) -> Command:
    """The program, told of the cluster."""
    return told_of(cluster, tmp_path)


def test_list(command: Command) -> None:
    """Guests are shown as a table and as JSON; tags and pools choose."""
    said = command("proxmox", "list").out
    assert [line.split()[:3] for line in said.splitlines()[1:4] if line[0] != "-"] == [
        ["100", "VM", "web"], ["101", "CT", "db"], ["102", "VM", "gone"],
    ]  # fmt: skip
    found = command("proxmox", "list", "--json").document
    assert [(each["id"], each["kind"], each["tags"], each["pool"]) for each in found] == [
        (100, "qemu", ["prod"], None), (101, "lxc", [], "shop"), (102, "qemu", [], None),
    ]  # fmt: skip
    for arguments, ids in (
        (("--pool", "shop"), [101]),
        (("web", "102"), [100, 102]),
        (("--exclude", "web"), [101, 102]),
    ):
        chosen = command("proxmox", "list", "--json", *arguments).document
        assert [each["id"] for each in chosen] == ids


def test_round_trip(command: Command, cluster: Cluster, tmp_path: Path) -> None:
    """Backed up, looked into, backed up again, restored and started: the guests are as they were."""
    node = node_options(cluster)
    said = command("proxmox", "backup", "web", "101", "--tag", "nightly", *node)
    assert "VM 100 (web)" in said.out
    found = command("list", "--json").document
    assert sorted((each["paths"], each["label"], each["tags"], each["hostname"]) for each in found) == [
        (["/lxc/101"], "db", ["nightly"], "127.0.0.1"), (["/qemu/100"], "web", ["nightly"], "127.0.0.1"),
    ]  # fmt: skip
    again = command("proxmox", "backup", "--guest-tag", "prod", "--json", *node).lines[-1]
    assert (again["message_type"], again["guest"]["id"]) == ("summary", 100)
    assert again["data_added"] < 8192
    disk = "/qemu/100/disk-drive-scsi0.raw"
    command("dump", "--path", "/qemu/100", "latest", disk, "--output", tmp_path / "dumped.raw")
    assert read_ext4(tmp_path / "dumped.raw", "/hello") == incompressible(1, 300_000)
    where = ("--storage", "fast", *node)
    said = command("proxmox", "restore", "latest", "--path", "/qemu/100", "--id", "300", "--start", *where)
    assert "VM 300 restored on pve" in said.out
    assert cluster.guest(300)["status"] == "running"
    assert cluster.disk(300, "drive-scsi0") == cluster.disk(100, "drive-scsi0")
    command("proxmox", "restore", "latest", "--path", "/lxc/101", "--id", "301", *where)
    assert (cluster.state / "roots" / "301" / "hello").read_bytes() == incompressible(1, 300_000)
    command("check", "--read-data")


@pytest.mark.root
def test_mounted_disk(command: Command, cluster: Cluster, tmp_path: Path) -> None:
    """The file system on a disk is mounted out of a mounted snapshot, and its files are there."""
    for program in ("mount", "umount", "fusermount3"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if not os.path.exists("/dev/fuse"):
        pytest.skip("there is no /dev/fuse")
    pytest.importorskip("pyfuse3")
    command("proxmox", "backup", "100", *node_options(cluster))
    place, inner = tmp_path / "mounted", tmp_path / "inner"
    place.mkdir()
    inner.mkdir()
    command("mount", "--background", place)
    try:
        disk = next(place.glob("snapshots/latest/qemu/100/disk-drive-scsi0.raw"))
        assert read_ext4(disk, "/hello") == incompressible(1, 300_000)
        done = subprocess.run(["mount", "-o", "loop,ro", disk, inner], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no loop device can be had here: {done.stderr.strip()}")
        try:
            assert (inner / "hello").read_bytes() == incompressible(1, 300_000)
        finally:
            subprocess.run(["umount", inner], check=True)
    finally:
        command("umount", place)


def test_some_fail(command: Command, cluster: Cluster) -> None:
    """A guest that cannot be backed up is reported, the others are backed up, and the status is 3; alone, it is 1."""
    said = command("proxmox", "backup", "--all", *node_options(cluster), status=3)
    assert "VM 102 (gone)" in said.err
    assert len(command.snapshots()) == 2
    failed = failure(command("proxmox", "backup", "102", "--json", *node_options(cluster), status=1))
    assert failed["error"] == "source-failed"


def test_refused_restores(command: Command, cluster: Cluster) -> None:
    """Nothing is sent to a place that is taken, to a node that is not there, or out of another kind of snapshot."""
    node = node_options(cluster)
    command("proxmox", "backup", "100", *node)
    said = command("proxmox", "restore", "latest", *node, status=1)
    assert "--id 103 is free" in said.err
    assert "running" in command("proxmox", "restore", "latest", "--overwrite", *node, status=1).err
    assert "no node 'pve9'" in command("proxmox", "restore", "latest", "--node", "pve9", *node, status=1).err
    command("backup", cluster.folder / "state" / "guests")
    assert "not of a guest" in command("proxmox", "restore", "latest", "--id", "200", *node, status=1).err
    assert not [line for line in cluster.said() if line.startswith("qmrestore")]


def test_nothing_said(command: Command) -> None:
    """What has to be said and is not, is asked for in words."""
    silent = replace(command, environment={**command.environment, "BACKUPFORGE_PROXMOX_TOKEN": None})
    assert "no token" in silent("proxmox", "list", status=2).err
    silent = replace(command, environment={**command.environment, "BACKUPFORGE_PROXMOX_API": None})
    assert "--api" in silent("proxmox", "list", status=2).err
    assert "no guest was named" in command("proxmox", "backup", status=2).err


def test_token_file(command: Command, cluster: Cluster, tmp_path: Path) -> None:
    """The token comes from a file as well; it is shown nowhere, whatever goes wrong."""
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "wrong").write_text("backup@pve!forge=another-secret-999\n")
    silent = replace(command, environment={**command.environment, "BACKUPFORGE_PROXMOX_TOKEN": None})
    silent("proxmox", "list", "--token-file", tmp_path / "token")
    said = silent("proxmox", "list", "--token-file", tmp_path / "wrong", "-vv", status=1)
    assert "another-secret" not in said.out + said.err


def test_installed_script(command: Command, cluster: Cluster, tmp_path: Path) -> None:
    """A key whose command is the printed script backs up and restores, and can do nothing else."""
    script = tmp_path / "backupforge-node"
    script.write_text(command("proxmox", "node-script").out)
    script.chmod(0o755)
    keys = cluster.folder / "ssh" / "authorized_keys"
    keys.write_text(f'restrict,command="{script} \\"$SSH_ORIGINAL_COMMAND\\"" {keys.read_text()}')
    node = node_options(cluster)
    command("proxmox", "backup", "100", "101", *node)
    command("proxmox", "restore", "latest", "--path", "/qemu/100", "--id", "300", *node)
    assert cluster.disk(300, "drive-scsi0") == cluster.disk(100, "drive-scsi0")
    ssh = cluster.sshd.options
    for words in ("id", "sh -c id", "backupforge-node vzdump qemu '100;id' snapshot /x", "x backupforge-node id",
                  "x backupforge-node vzdump qemu 100$(id) snapshot /x"):  # fmt: skip
        line = ["ssh", "-F", str(ssh.config_file), "-o", "BatchMode=yes", "backup", words]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 64, (words, done)
        assert "uid=" not in done.stdout + done.stderr
