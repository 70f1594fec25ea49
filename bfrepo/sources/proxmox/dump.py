"""The backup of a guest as it comes from a node, and the files that are beside its disks in a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import msgspec

from bfrepo.core.errors import SourceError
from bfrepo.data.node import Node
from bfrepo.sources.base import Member
from bfrepo.sources.proxmox.inventory import Guest

ABOUT: Final = b"backup.json"
"""The file with what the configuration does not say."""

_NOT_KEPT: Final = "nothing of this was kept as a snapshot"


class About(msgspec.Struct, kw_only=True):
    """What `backup.json` says of a guest."""

    id: int
    kind: str
    name: str
    node: str
    tags: tuple[str, ...] = ()
    pool: str = ""


class Running(Protocol):
    """A program that writes a backup; `shown` is where it runs. See NodeCommand."""

    @property
    def shown(self) -> str: ...

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of `buffer`; 0 at the end."""

    def status(self) -> int:
        """With what it ended, negative if it was cut off."""

    def complaint(self) -> str:
        """What it said was wrong, empty if nothing was."""


class Dump:
    """What vzdump writes. Used by one thread."""

    def __init__(self, command: Running, guest: Guest) -> None:
        self._command = command
        self._guest = guest
        self._begun = False
        self._ended = False

    def readinto(self, buffer: memoryview, /) -> int:
        """See ByteStream. Raises SourceError when vzdump failed: what came before is of no use then."""
        count = self._command.readinto(buffer)
        self._begun = self._begun or count > 0
        if not count and buffer:
            self._check_end()
        return count

    def expect_end(self) -> None:
        """Read what is left, which nobody needs, and see how vzdump ended. Raises SourceError."""
        buffer = memoryview(bytearray(65536))
        while not self._ended and self.readinto(buffer):
            pass

    def _check_end(self) -> None:
        self._ended = True
        command, guest = self._command, self._guest
        status = command.status()
        if status != 0:
            how = command.complaint() or ("it was cut off" if status < 0 else f"exit status {status}")
            raise SourceError(f"the backup of {guest.shown} on {guest.node} failed: {how}", hint=_NOT_KEPT)
        if not self._begun:  # vzdump says nothing and succeeds where a guest is on another node
            raise SourceError(
                f"{command.shown} has nothing of {guest.shown}",
                hint=f"is that the node {guest.node}? it may have moved",
            )


def about(guest: Guest) -> bytes:
    """The content of `backup.json`."""
    said = About(
        id=guest.id, kind=guest.kind, name=guest.name, node=guest.node, tags=guest.tags, pool=guest.pool
    )  # without times: what has not changed is not stored again
    return msgspec.json.format(msgspec.json.encode(said)) + b"\n"


def file_member(guest: Guest, name: bytes, content: bytes, time_ns: int) -> Member:
    """A small file beside the disks."""
    node = Node(name=name, mode=0o600, user="root", group="root", size=len(content), mtime_ns=time_ns, ctime_ns=time_ns)
    return Member((*guest.path, name), node, None, _Bytes(content, node))


def directory_member(guest: Guest, time_ns: int) -> Member:
    """The directory of a guest, readable by its owner alone."""
    node = Node(name=guest.path[-1], type="dir", mode=0o700, user="root", group="root")
    node.mtime_ns = node.ctime_ns = time_ns
    return Member(guest.path, node)


class _Bytes:
    """A file whose content is at hand."""

    def __init__(self, content: bytes, node: Node) -> None:
        self._content = content
        self._node = node

    def node(self) -> Node:
        """See OpenFile.node."""
        return self._node

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """See OpenFile.extents."""
        return iter([(0, size)] if size else [])

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile.read_into."""
        data = self._content[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        return len(data)

    def changed(self, node: Node) -> bool:
        """See OpenFile.changed."""
        return False

    def close(self) -> None:
        """See OpenFile.close."""
