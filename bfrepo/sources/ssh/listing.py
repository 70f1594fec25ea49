"""What is on a host: every name below the paths that were asked for, with what one look tells.

All of it is kept in memory, some 300 bytes for a name, because it comes in another order than it is wanted in. A name
goes where its directory is, and only a directory that is reached from the top by plain names is ever looked at: so
whatever a host says, nothing is placed but below the paths that were asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from bfrepo.data.node import Node, NodeType, is_safe_name

_SECOND: Final = 1_000_000_000
_CLOCK_STEP_NS: Final = 100_000_000
_COARSE_STEP_NS: Final = 2 * _SECOND

_TYPES: Final[dict[bytes, NodeType]] = {
    b"f": "file", b"d": "dir", b"l": "symlink", b"b": "blockdev", b"c": "chardev", b"p": "fifo", b"s": "socket",
}  # fmt: skip
_MOST_ID: Final = 0xFFFF_FFFF
_MOST_NUMBER: Final = (1 << 63) - 1


@dataclass(slots=True, kw_only=True)
class RemoteStat:
    """A name and what it is; see Stat. `target` is that of a symlink, as far as it came with the rest."""

    name: bytes
    type: NodeType
    mode: int
    uid: int
    gid: int
    user: str = ""
    group: str = ""
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int = 0
    device: int = 0
    links: int = 1
    target: bytes = b""

    def node(self) -> Node:
        """All of this as a node; see `make_node` about links."""
        linked = self.links > 1 and self.type != "dir"
        return Node(
            name=self.name,
            type=self.type,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            user=self.user,
            group=self.group,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.ctime_ns,
            inode=self.inode,
            device=self.device if linked else 0,
            links=self.links if linked else 1,
            size=self.size if self.type == "file" else 0,
            target=self.target,
        )


Raw = tuple[bytes, bytes, bytes]
"""Name, numbers and owners, target of a symlink."""


@dataclass(slots=True)
class Listing:
    """All names, by directory. `now_ns` is what the host's clock said before; 0 where it was not asked."""

    now_ns: int = 0
    has_tar: bool = False
    inside: dict[bytes, list[Raw | RemoteStat]] = field(default_factory=dict)
    found: dict[bytes, RemoteStat] = field(default_factory=dict)
    """Paths that were asked for, and the directories on the way to them."""
    unreadable: dict[bytes, OSError] = field(default_factory=dict)
    """Directories that could not be listed, or not wholly."""

    def entries(self, directory: bytes) -> list[RemoteStat]:
        """What is in a directory, sorted, each name once."""
        stats: dict[bytes, RemoteStat] = {}
        for each in self.inside.get(directory, ()):
            stat = each if isinstance(each, RemoteStat) else parse_raw(each)
            if stat is not None and is_safe_name(stat.name):
                stats.setdefault(stat.name, stat)
        return [stats[name] for name in sorted(stats)]

    def walk(self, path: bytes) -> Iterator[bytes]:
        """The paths of what is no regular file, from `path` down, in the order of a backup."""
        pending = [path]
        while pending:
            path = pending.pop()
            yield path
            directories = []
            prefix = path if path == b"/" else path + b"/"
            for stat in self.entries(path):
                if stat.type == "dir":
                    directories.append(prefix + stat.name)
                elif stat.type not in ("file", "socket"):
                    yield prefix + stat.name
            pending += reversed(directories)

    def settled(self, ctime_ns: int) -> int:
        """A change time to keep. One so young that a later change might have the same is made wrong, on purpose: the
        next backup will not find it, and reads again.
        """
        step = _CLOCK_STEP_NS if ctime_ns % _SECOND else _COARSE_STEP_NS
        return ctime_ns - 1 if self.now_ns and ctime_ns > self.now_ns - step else ctime_ns


def parse_raw(raw: Raw) -> RemoteStat | None:
    """What `find` said of a name; None for what cannot be."""
    name, numbers, target = raw
    try:
        kind, mode, uid, gid, size, mtime, ctime, inode, device, links, owners = numbers.split(b" ", 10)
        user, _, group = owners.partition(b"/")
        return RemoteStat(
            name=name,
            type=_TYPES[kind],
            mode=int(mode, 8) & 0o7777,
            uid=min(int(uid), _MOST_ID),
            gid=min(int(gid), _MOST_ID),
            user=_owner(user, uid),
            group=_owner(group, gid),
            size=min(int(size), _MOST_NUMBER),
            mtime_ns=_time(mtime),
            ctime_ns=_time(ctime),
            inode=int(inode),
            device=int(device),
            links=min(int(links), _MOST_ID),
            target=target,
        )
    except (ValueError, KeyError):
        return None


def _owner(name: bytes, number: bytes) -> str:
    """A name; empty where `find` knew none and gave the number, and for one that is no text."""
    text = name.decode(errors="replace")
    return text if name != number and text.isprintable() and "\ufffd" not in text else ""


def _time(text: bytes) -> int:
    """Nanoseconds from `-2.1234567890`, which is two seconds before 1970 and 0.123456789 after that."""
    seconds, _, fraction = text.partition(b".")
    return max(-_MOST_NUMBER, min(int(seconds) * _SECOND + int(fraction[:9].ljust(9, b"0")), _MOST_NUMBER))
