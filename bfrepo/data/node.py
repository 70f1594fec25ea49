"""A node: one name in a directory, with everything a restore needs to make it again.

Encoded as a MessagePack map with one-letter keys; a field with its default value is left out, and a reader skips keys
it does not know (a field that must be understood needs a feature in `config`).

    key  field     meaning
    n    name      raw bytes, as the system gave them; never empty, ".", ".." or with "/" or NUL
    t    type      file, dir, symlink, blockdev, chardev, fifo, socket
    m    mode      permission bits, setuid, setgid and sticky: 0 to 0o7777
    u g  uid gid   numbers; U G the names they had
    y c b          mtime, ctime, birth time in ns since 1970 (birth time None where unknown); a: atime on request
    i d  inode device   together they say which names are one file, when l (links) > 1
    l    links     link count
    s    size      bytes of a file
    r    rdev      device number of a blockdev or chardev
    k    target    of a symlink, raw bytes
    x    xattrs    list of [name, value], sorted by name; POSIX ACLs and file capabilities are xattrs
    f    flags     inode flags, the FS_*_FL bits of Linux that can be set again
    h H  holes     packed <u64 offset, u64 length> records, and the depth of indirection
    o O  content   32-byte blob IDs one after the other, and the depth of indirection (see records.py)
    e    subtree   tree ID of a dir

A hole is part of the size and of no blob; the blobs fill what the holes leave, in order, and no blob straddles a hole.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, TypeAlias

import msgspec
from msgspec import Meta

NodeType: TypeAlias = Literal["file", "dir", "symlink", "blockdev", "chardev", "fifo", "socket"]

_U32 = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Time = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Depth = Annotated[int, Meta(ge=0, le=4)]
_Name = Annotated[bytes, Meta(min_length=1, max_length=4096)]


class Stat(Protocol):
    """What a source knows of an entry from one look at it.

    `bfrepo.localfs` has a fast one; others may use a dataclass.
    """

    @property
    def type(self) -> NodeType: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...
    @property
    def inode(self) -> int: ...
    @property
    def device(self) -> int: ...
    @property
    def links(self) -> int: ...


class Node(
    msgspec.Struct,
    kw_only=True,
    omit_defaults=True,
    gc=False,
    rename={
        "name": "n", "type": "t", "mode": "m", "uid": "u", "gid": "g", "user": "U", "group": "G",
        "mtime_ns": "y", "ctime_ns": "c", "btime_ns": "b", "atime_ns": "a", "inode": "i", "device": "d", "links": "l",
        "size": "s", "rdev": "r", "target": "k", "xattrs": "x", "flags": "f", "holes": "h", "holes_depth": "H",
        "content": "o", "content_depth": "O", "subtree": "e",
    },
):  # fmt: skip
    """One entry of a tree. Field meanings are in the table at the head of this file."""

    name: _Name
    type: NodeType = "file"
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0
    uid: _U32 = 0
    gid: _U32 = 0
    user: str = ""
    group: str = ""
    mtime_ns: _Time = 0
    ctime_ns: _Time = 0
    btime_ns: _Time | None = None
    atime_ns: _Time | None = None
    inode: Annotated[int, Meta(ge=0)] = 0
    device: Annotated[int, Meta(ge=0)] = 0
    links: _U32 = 1
    size: _Size = 0
    rdev: Annotated[int, Meta(ge=0)] = 0
    target: bytes = b""
    xattrs: list[tuple[bytes, bytes]] = []
    flags: _U32 = 0
    holes: bytes = b""
    holes_depth: _Depth = 0
    content: bytes = b""
    content_depth: _Depth = 0
    subtree: bytes = b""


def is_safe_name(name: bytes) -> bool:
    """Whether a name from a repository may be used in a path: nothing that could leave its directory."""
    return name not in (b"", b".", b"..") and b"/" not in name and b"\0" not in name
