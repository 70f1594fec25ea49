"""The bytes of SFTP version 3: how requests are written and answers read.

https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL file for the extensions:

    request   length (4) | kind (1) | number (4) | what the kind has; a string is its length (4) and its bytes
    answer    length (4) | kind (1) | number (4) | STATUS code, text; HANDLE string; DATA string; NAME ...; ATTRS ...

All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

PIECE: Final = 32_640
"""How many bytes one request writes or reads: every server takes 32 KiB, and with its head it fills one SSH packet."""

NO_SUCH_FILE: Final = 2
PERMISSION_DENIED: Final = 3
BAD_MESSAGE: Final = 5
UNSUPPORTED: Final = 8

READ: Final = 0x01
CREATE_NEW: Final = 0x02 | 0x08 | 0x20
"""Write, create, and fail if it is there."""

_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_MORE = 0x1, 0x2, 0x4, 0x8, 0x8000_0000
_UINT32 = struct.Struct(">I")
_OFFSET = struct.Struct(">QI")
_READ_ONLY: Final = 1


class SftpStatus(Exception):
    """The server did not do what it was asked. `code` is the protocol's; `text` is its own words, printable."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text or 'failure'} (status {code})")
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the server says about a file, None where it says nothing. `size` is in bytes, `mtime` in s since 1970."""

    size: int | None
    mode: int | None
    mtime: int | None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory. The attributes are those of a link itself, where it is one."""

    name: bytes
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Space:
    """What is left in a file system: bytes and names for files (None if they are not counted)."""

    free: int
    free_names: int | None
    read_only: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A request, as it goes out, without its number."""

    kind: int
    body: bytes


def open_file(path: bytes, flags: int, mode: int = 0) -> Request:
    """Open a file; `mode` counts if it is made. Answered by a handle."""
    return Request(3, _string(path) + struct.pack(">III", flags, _HAS_MODE, mode))


def close_handle(handle: bytes) -> Request:
    """Close a file or directory."""
    return Request(4, _string(handle))


def status_of(path: bytes) -> Request:
    """Ask about a file, through links. Answered by attributes."""
    return Request(17, _string(path))


def link_status_of(path: bytes) -> Request:
    """Ask about a file, or about a link itself. Answered by attributes."""
    return Request(7, _string(path))


def open_status(handle: bytes) -> Request:
    """Ask about a file that is open. Answered by attributes."""
    return Request(8, _string(handle))


def read_link(path: bytes) -> Request:
    """Ask where a link leads. Answered by entries, of which there is one."""
    return Request(19, _string(path))


def open_directory(path: bytes) -> Request:
    """Open a directory. Answered by a handle."""
    return Request(11, _string(path))


def read_directory(handle: bytes) -> Request:
    """Ask for more names in a directory. Answered by entries."""
    return Request(12, _string(handle))


def remove(path: bytes) -> Request:
    """Remove a file."""
    return Request(13, _string(path))


def make_directory(path: bytes, mode: int) -> Request:
    """Make a directory. Fails if it is there."""
    return Request(14, _string(path) + struct.pack(">II", _HAS_MODE, mode))


def remove_directory(path: bytes) -> Request:
    """Remove a directory. Fails if anything is in it."""
    return Request(15, _string(path))


def rename(old: bytes, new: bytes) -> Request:
    """Rename a file; an error if there is one of the new name."""
    return Request(18, _string(old) + _string(new))


def read_piece(handle: bytes, offset: int, length: int) -> Request:
    """Ask for at most PIECE bytes of a file. Answered by data."""
    return Request(5, _string(handle) + _OFFSET.pack(offset, length))


def write_piece(handle: bytes, offset: int, length: int) -> Request:
    """The head of a request to write at most PIECE bytes, which follow it."""
    return Request(6, _string(handle) + _OFFSET.pack(offset, length))


def extended(name: str, *strings: bytes) -> Request:
    """What servers do beyond the standard. Which they are they say when a session begins."""
    return Request(200, _string(name.encode()) + b"".join(map(_string, strings)))


class Answer:
    """Takes an answer apart, from front to back. Its methods raise SftpStatus for one that ends too early."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def rest(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._position

    def byte(self) -> int:
        """A number of one byte."""
        return self._bytes(1)[0]

    def uint32(self) -> int:
        """A number of four bytes."""
        return int.from_bytes(self._bytes(4))

    def uint64(self) -> int:
        """A number of eight bytes."""
        return int.from_bytes(self._bytes(8))

    def string(self) -> memoryview:
        """Bytes with their length in front."""
        return self._bytes(self.uint32())

    def attributes(self) -> Attributes:
        """What is said about a file."""
        flags = self.uint32()
        size = self.uint64() if flags & _HAS_SIZE else None
        uid = self.uint32() if flags & _HAS_OWNER else None
        gid = self.uint32() if flags & _HAS_OWNER else None
        mode = self.uint32() if flags & _HAS_MODE else None
        mtime = None
        if flags & _HAS_TIMES:
            self.uint32()
            mtime = self.uint32()
        if flags & _HAS_MORE:
            for _ in range(2 * self.uint32()):
                self.string()
        return Attributes(size, mode, mtime, uid, gid)

    def entry(self) -> Entry:
        """One of the names in a directory."""
        name = bytes(self.string())
        self.string()  # a line as of `ls -l`
        return Entry(name, self.attributes())

    def space(self) -> Space:
        """What answers the extension statvfs@openssh.com."""
        _, block, _, _, available, names, _, free_names, _, flags, _ = (self.uint64() for _ in range(11))
        return Space(block * available, free_names if names else None, bool(flags & _READ_ONLY))

    def _bytes(self, count: int) -> memoryview:
        start = self._position
        if count > len(self._data) - start:
            raise SftpStatus(BAD_MESSAGE, "an answer that ends too early")
        self._position = start + count
        return self._data[start : start + count]


def printable(data: bytes) -> str:
    """Words of a server, safe to be shown."""
    text = data.decode(errors="replace")
    return "".join(character if character.isprintable() else "?" for character in text)[:200]


def _string(data: bytes) -> bytes:
    return _UINT32.pack(len(data)) + data
