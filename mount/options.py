"""What a mount is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from bfrepo.core.units import MIB
from bfrepo.data.selection import SnapshotFilter

DEFAULT_CACHE_SIZE: Final = 256 * MIB
"""Bytes of opened frames that are kept by default: what 16 readers of large files and a walk of a tree have at hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """How snapshots are shown."""

    cache_size: int = DEFAULT_CACHE_SIZE
    """The most that is kept of what was read and opened, in bytes."""
    path_templates: tuple[str, ...] = ()
    """Further places for every snapshot, below the top. Empty: the usual ones only."""
    owner_me: bool = False
    """Show everything as belonging to who mounts it: this process's own user and group."""
    snapshots: SnapshotFilter = field(default_factory=SnapshotFilter)
    """Which snapshots are shown, by host, tag and path."""
    allow_other: bool = False
    """Let other users in, within the rights that the files have. Others than root need `user_allow_other`."""
