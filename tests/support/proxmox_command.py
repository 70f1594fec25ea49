"""The program, told of a simulated cluster by its environment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.support.command import Command, without_encryption
from tests.support.proxmox import TOKEN, Cluster


def told_of(cluster: Cluster, folder: Path) -> Command:
    """A command with an empty repository that is not encrypted."""
    found = without_encryption(folder)
    environment = {
        **found.environment,
        "BACKUPFORGE_PROXMOX_API": f"https://127.0.0.1:{cluster.port}",
        "BACKUPFORGE_PROXMOX_TOKEN": TOKEN,
        "BACKUPFORGE_PROXMOX_CA_FILE": str(cluster.ca_file),
        "BACKUPFORGE_PROXMOX_SSH": f"127.0.0.1:{cluster.sshd.port}",
    }
    return replace(found, environment=environment)


def node_options(cluster: Cluster) -> list[str | Path]:
    """What the command line has to say to reach the node."""
    ssh = cluster.sshd.options
    options: list[str | Path] = ["--node-dir", cluster.work]
    for name, value in (
        ("identity-file", ssh.identity_file),
        ("known-hosts", ssh.known_hosts),
        ("config-file", ssh.config_file),
    ):
        options += ["-o", f"sftp.{name}={value}"]
    return options
