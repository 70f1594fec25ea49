"""What a mount is asked for, and how it says what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from bfrepo.core.units import MIB
from bfrepo.data.selection import SnapshotFilter

DEFAULT_CACHE_SIZE: Final = 256 * MIB
"""Bytes of opened frames that are kept by default: what some readers of large files and a walk of a tree need."""

Log: TypeAlias = Callable[[Literal["warning", "error"], bytes, str], None]
"""Takes what a mount has to say: how bad it is, the path it is about or b"", and a sentence. From any thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """How snapshots are shown."""

    cache_size: int = DEFAULT_CACHE_SIZE
    """The most that is kept of what was read and opened, in bytes."""
    path_templates: tuple[str, ...] = ()
    """Where each snapshot is, below the top. Empty: the usual places."""
    owner_me: bool = False
    """Show everything as belonging to who mounts it: this process's own user and group."""
    snapshots: SnapshotFilter = field(default_factory=SnapshotFilter)
    """Which snapshots are shown, by host, tag and path."""
    allow_other: bool = False
    """Let other users in, within the rights that the files have. Whoever is not root needs `user_allow_other`."""
