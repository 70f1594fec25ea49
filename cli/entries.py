"""How entries of snapshots look: as lines of a long list, and as JSON."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Any

from bfrepo.core.units import format_size
from bfrepo.data.attributes import TYPE_BITS, entry_time
from cli.output import path_fields
from cli.render import local_time, shown

if TYPE_CHECKING:
    from bfrepo.data.node import Node


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
    return stat.filemode(TYPE_BITS[node.type] | node.mode)
