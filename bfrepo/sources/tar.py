"""A tar archive as nodes: what its members are called in a snapshot, and what the snapshot keeps of each."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Iterator
from typing import Final

from bfrepo.core.errors import SourceError
from bfrepo.data.node import Node, NodeType
from bfrepo.formats.tar_pax import encode_acl, is_minimal_acl
from bfrepo.formats.tar_reader import ByteStream, TarMember, TarReader
from bfrepo.sources.base import Member, MemberSource

_TYPES: Final[dict[str, NodeType]] = {
    "file": "file", "symlink": "symlink", "chardev": "chardev", "blockdev": "blockdev", "dir": "dir", "fifo": "fifo",
}  # fmt: skip
_MOST_ID: Final = 0xFFFF_FFFF
_MOST_TIME: Final = (1 << 63) - 1
_MOST_PATH: Final = 32 * 1024
_MOST_NAME: Final = 4096


class TarSource(MemberSource):
    """The members of an archive. Used by one thread."""

    def __init__(
        self, stream: ByteStream, above: tuple[bytes, ...], leave_out: Callable[[bytes, str], None],
        warn: Callable[[bytes, str], None],
    ) -> None:  # fmt: skip
        """`above` is where the archive goes in the tree. `leave_out` and `warn` are told of what cannot be kept."""
        self._reader = TarReader(stream)
        self._above = above
        self._leave_out = leave_out
        self._warn = warn
        self._begun = False

    def members(self) -> Iterator[Member]:
        """See MemberSource.members. Raises MalformedTar, SourceError, and what the stream raises."""
        if self._begun:
            raise SourceError("the archive has been read already", hint="run the import again")
        self._begun = True
        for member in self._reader.members():
            path = self._path(member.path)
            link = self._path(member.link) if member.kind == "link" else None
            if path is None or (member.kind == "link" and link is None):
                self._leave_out(member.path, "left out: its path or what it is linked to is not allowed in a snapshot")
            elif not member.kind:
                self._leave_out(member.path, f"left out: {member.header.kind!r} is no type of member that is known")
            elif not path:
                continue  # the root of the tree has nothing that could be kept of it
            elif link is not None:
                yield Member(path, self._node(member, path[-1]), link)
            elif member.kind == "file":
                node = self._node(member, path[-1])
                yield Member(path, node, None, TarFile(self._reader, member, node))
            else:
                yield Member(path, self._node(member, path[-1]))

    def _path(self, path: bytes) -> tuple[bytes, ...] | None:
        """Where a member goes; None for a path that leads elsewhere."""
        names = tuple(name for name in path.split(b"/") if name not in (b"", b"."))
        too_long = len(path) > _MOST_PATH or any(len(name) > _MOST_NAME for name in names)
        if not path or b".." in names or b"\0" in path or too_long:
            return None
        return (*self._above, *names)

    def _node(self, member: TarMember, name: bytes) -> Node:
        header, kind = member.header, _TYPES.get(member.kind, "file")
        mtime_ns = _clamped(member.mtime_ns)
        node = Node(
            name=name,
            type=kind,
            mode=header.mode & 0o7777,
            uid=member.uid if 0 <= member.uid <= _MOST_ID else 0,
            gid=member.gid if 0 <= member.gid <= _MOST_ID else 0,
            user=_text(member.user),
            group=_text(member.group),
            mtime_ns=mtime_ns,
            ctime_ns=mtime_ns if member.ctime_ns is None else member.ctime_ns,
            btime_ns=member.btime_ns,
            atime_ns=member.atime_ns,
            size=member.size,
            xattrs=member.xattrs,
        )
        if kind == "symlink":
            node.target = member.link
        elif kind in ("chardev", "blockdev"):
            node.rdev = _device(header.major, header.minor)
        if member.access_acl or member.default_acl:
            self._add_acls(node, member)
        return node

    def _add_acls(self, node: Node, member: TarMember) -> None:
        for name, text in (
            (b"system.posix_acl_access", member.access_acl),
            (b"system.posix_acl_default", member.default_acl),
        ):
            value = encode_acl(text, _uid, _gid) if text.strip() else b""
            if value is None:
                self._warn(member.path, "its ACL names somebody whose number is not known here: the ACL is not kept")
            elif value and not (name.endswith(b"access") and is_minimal_acl(value)):
                node.xattrs = sorted([*node.xattrs, (name, value)])


class TarFile:
    """A regular file of an archive, as OpenFile wants it: read once, from front to back."""

    def __init__(self, reader: TarReader, member: TarMember, node: Node) -> None:
        self._reader = reader
        self._extents = member.extents
        self._node = node

    def node(self) -> Node:
        """See OpenFile.node."""
        return self._node

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """See OpenFile.extents."""
        return iter(self._extents)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile.read_into; `offset` is always where the last read ended."""
        return self._reader.read_into(buffer)

    def changed(self, node: Node) -> bool:
        """See OpenFile.changed. What is in an archive stays as it is."""
        return False

    def close(self) -> None:
        """See OpenFile.close."""


def names_of(path: bytes) -> tuple[bytes, ...]:
    """The names in a path of a snapshot. Raises SourceError for one that cannot be one."""
    names = tuple(name for name in path.split(b"/") if name not in (b"", b"."))
    if b".." in names or b"\0" in path:
        raise SourceError(f"{os.fsdecode(path)!r} cannot be a path in a snapshot")
    return names


def _clamped(time_ns: int) -> int:
    return max(-_MOST_TIME, min(time_ns, _MOST_TIME))


def _device(major: int, minor: int) -> int:
    try:
        return max(os.makedev(major, minor), 0)
    except (OverflowError, ValueError):
        return 0


def _text(name: bytes) -> str:
    """A name that is not UTF-8 cannot be written as text: the number has to do then."""
    text = name.decode(errors="replace")
    return text if text.isprintable() and "\ufffd" not in text else ""


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
