"""How entries of snapshots look: as lines of a long list, and as JSON."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from bfrepo.core.units import format_size
from cli.output import path_fields
from cli.render import local_time, shown

if TYPE_CHECKING:
    from bfrepo.data.node import Node

_TYPE_BITS: Final = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "blockdev": stat.S_IFBLK,
    "chardev": stat.S_IFCHR,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MOST_S: Final = 50_000_000_000
"""Seconds from the epoch that a datetime can hold, in any zone: the years 385 to 3554."""


def entry_line(path: bytes, node: Node, *, long: bool) -> str:
    """The path, or with `long` type, permissions, owner, size, time and the target of a symlink, too."""
    if not long:
        return shown(path)
    name = f"{shown(path)} -> {shown(node.target)}" if node.type == "symlink" else shown(path)
    owner, group = shown(node.user) or str(node.uid), shown(node.group) or str(node.gid)
    size = f"{node.rdev >> 8 & 0xFFF}, {node.rdev & 0xFF}" if node.rdev else format_size(node.size)
    return f"{permissions(node)} {owner:<8} {group:<8} {size:>9} {local_time(entry_time(node.mtime_ns))} {name}"


def entry_fields(path: bytes, node: Node) -> dict[str, Any]:
    """The entry as JSON."""
    return {
        **path_fields(path),
        **path_fields(path.rpartition(b"/")[2], "name"),
        "type": node.type,
        "mode": node.mode,
        "permissions": permissions(node),
        "uid": node.uid,
        "gid": node.gid,
        "user": node.user,
        "group": node.group,
        "size": node.size,
        "mtime_ns": node.mtime_ns,
        "mtime": entry_time(node.mtime_ns).isoformat(),
        **(path_fields(node.target, "target") if node.type == "symlink" else {}),
    }


def permissions(node: Node) -> str:
    """Type and permissions as ten letters."""
    return stat.filemode(_TYPE_BITS[node.type] | node.mode)


def entry_time(nanoseconds: int) -> datetime:
    """A time to the second, or the end of the calendar for one that is beyond it."""
    return _EPOCH + timedelta(seconds=min(max(nanoseconds // 1_000_000_000, -_MOST_S), _MOST_S))
