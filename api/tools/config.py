"""What a server of tools is allowed to do: written down by who starts it, and by nobody else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bfrepo.core.errors import BackupForgeError, InvalidValue

if TYPE_CHECKING:
    from bfrepo.sources.proxmox.api import ApiSettings
    from bfrepo.sources.proxmox.node import NodeAccess


class NotAllowed(BackupForgeError):
    """Whoever started the server has not allowed it."""

    code = "not-allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAccess:
    """A cluster of Proxmox VE for tools. With `allow_restore` guests are restored, too, where anything is changed."""

    api: ApiSettings
    nodes: NodeAccess
    allow_restore: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolsConfig:
    """How tools are served. Without `allow_write` there are none that change anything.

    `backup_roots` and `restore_roots` are directories that backups may be of and restores may go into: without one
    there is no such tool, and without a `cluster` none for guests. `hostname`, `username` and `program` are what
    snapshots say of who made them.
    """

    audit_log: Path
    hostname: str
    username: str
    program: str
    version: str
    allow_write: bool = False
    backup_roots: tuple[bytes, ...] = ()
    restore_roots: tuple[bytes, ...] = ()
    cluster: ClusterAccess | None = None


def below_one_of(path: bytes, roots: tuple[bytes, ...]) -> bytes:
    """The path without symlinks, which is what is to be used from then on. Raises NotAllowed, InvalidValue.

    What counts is where it leads to. It need not exist.
    """
    if not path.startswith(b"/") or b"\0" in path:
        raise InvalidValue("that is no absolute path")
    real = os.path.realpath(path)
    for root in map(os.path.realpath, roots):
        if real == root or real.startswith(root.rstrip(b"/") + b"/"):
            return real
    raise NotAllowed(
        "that path is not in a directory that was allowed",
        hint="allowed are " + ", ".join(root.decode(errors="backslashreplace") for root in roots),
    )
