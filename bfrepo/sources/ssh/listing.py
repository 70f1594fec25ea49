"""What is on a host: every name below the paths that were asked for, with what one look tells.

All of it is kept in memory, some 300 bytes for a name, because it comes in another order than it is wanted in. A name
goes where its directory is, and only a directory that is reached from the top by plain names is ever looked at: so
whatever a host says, nothing is placed but below the paths that were asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from bfrepo.data.node import Node, NodeType, is_safe_name

_SECOND: Final = 1_000_000_000
_CLOCK_STEP_NS: Final = 100_000_000
_COARSE_STEP_NS: Final = 2 * _SECOND

TYPES: Final[dict[str, NodeType]] = {
    "f": "file", "d": "dir", "l": "symlink", "b": "blockdev", "c": "chardev", "p": "fifo", "s": "socket",
}  # fmt: skip
_MOST_TIME: Final = (1 << 63) - 1

_Id = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
_Number = Annotated[int, Meta(ge=0)]
_Time = Annotated[str, Meta(max_length=32)]


class RemoteStat(msgspec.Struct, array_like=True, gc=False):
    """A name and what it is, as `find` says it; see Stat. Decoded from an array of JSON, but for what has a default.

    `letter` is the type as of `ls -l`, but f for a file; `digits` are those of the octal mode, taken for decimal.
    `modified` and `changed` are seconds since 1970. `target` is that of a symlink, as far as it came with the rest.
    """

    letter: str
    digits: Annotated[int, Meta(ge=0, le=7777)]
    uid: _Id
    gid: _Id
    size: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    modified: _Time
    changed: _Time
    inode: _Number = 0
    device: _Number = 0
    links: _Id = 1
    name: bytes = b""
    target: bytes = b""
    type: NodeType = "file"
    mode: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0


@dataclass(slots=True)
class Listing:
    """All names, by directory. `now_ns` is what the host's clock said before; 0 where it was not asked."""

    now_ns: int = 0
    has_tar: bool = False
    inside: dict[bytes, dict[bytes, RemoteStat]] = field(default_factory=dict)
    found: dict[bytes, RemoteStat] = field(default_factory=dict)
    """Paths that were asked for, and the directories on the way to them."""
    unreadable: dict[bytes, OSError] = field(default_factory=dict)
    """Directories that could not be listed, or not wholly."""
    users: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    """The names of owners, as far as somebody has asked for them."""

    def add(self, directory: bytes, stat: RemoteStat) -> None:
        """Note what is in a directory. What cannot be a name is passed over, and of two of one name the second."""
        if is_safe_name(stat.name):
            self.inside.setdefault(directory, {}).setdefault(stat.name, stat)

    def entries(self, directory: bytes) -> list[RemoteStat]:
        """What is in a directory, sorted."""
        names = self.inside.get(directory, {})
        return [names[name] for name in sorted(names)]

    def walk(self, path: bytes) -> Iterator[bytes]:
        """The paths of what is no regular file, from `path` down, in the order of a backup."""
        pending = [path]
        while pending:
            path = pending.pop()
            yield path
            directories = []
            prefix = path if path == b"/" else path + b"/"
            for stat in self.entries(path):
                if stat.letter == "d":
                    directories.append(prefix + stat.name)
                elif stat.letter not in "fs":
                    yield prefix + stat.name
            pending += reversed(directories)

    def settled(self, ctime_ns: int) -> int:
        """A change time to keep. One so young that a later change might have the same is made wrong, on purpose: the
        next backup will not find it, and reads again.
        """
        step = _CLOCK_STEP_NS if ctime_ns % _SECOND else _COARSE_STEP_NS
        return ctime_ns - 1 if self.now_ns and ctime_ns > self.now_ns - step else ctime_ns

    def node(self, stat: RemoteStat) -> Node:
        """What the listing says of a name, as a node; see `make_node` about links."""
        kind = stat.type
        linked = stat.links > 1 and kind != "dir"
        return Node(
            name=stat.name,
            type=kind,
            mode=stat.mode,
            uid=stat.uid,
            gid=stat.gid,
            user=self.users.get(stat.uid, ""),
            group=self.groups.get(stat.gid, ""),
            mtime_ns=stat.mtime_ns,
            ctime_ns=self.settled(stat.ctime_ns),
            inode=stat.inode,
            device=stat.device if linked else 0,
            links=stat.links if linked else 1,
            size=stat.size if kind == "file" else 0,
            target=stat.target,
        )


_DECODER: Final = msgspec.json.Decoder(list[RemoteStat])


def parse_stats(numbers: Sequence[bytes]) -> list[RemoteStat | None]:
    """What `find` said of some names, each an array of JSON; None for what cannot be."""
    try:
        stats = _DECODER.decode(b"[%b]" % b",".join(numbers))
    except (msgspec.DecodeError, UnicodeDecodeError):
        stats = []
    if len(stats) != len(numbers):
        return [None] if len(numbers) == 1 else [stat for each in numbers for stat in parse_stats([each])]
    return [stat if _complete(stat) else None for stat in stats]


def _complete(stat: RemoteStat) -> bool:
    """Work out the rest of what is said; whether it can be."""
    try:
        stat.type = TYPES[stat.letter]
        stat.mode = _mode(stat.digits)
        stat.mtime_ns = _time(stat.modified)
        stat.ctime_ns = _time(stat.changed)
    except (ValueError, KeyError):
        return False
    return True


@cache
def _mode(digits: int) -> int:
    return int(str(digits), 8)


def owner_name(name: bytes) -> str:
    """A name; empty for one that is no text."""
    text = name.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else ""


def _time(text: str) -> int:
    """Nanoseconds from `-2.1234567890`, which is two seconds before 1970 and 0.123456789 after that.

    Raises ValueError.
    """
    if text[-11:-10] == "." and text[0] != "-":
        return min(int(text[:-11] + text[-10:-1]), _MOST_TIME)
    seconds, _, fraction = text.partition(".")
    return max(-_MOST_TIME, min(int(seconds) * _SECOND + int(fraction[:9].ljust(9, "0")), _MOST_TIME))
