"""A zip archive, written to a stream as its entries come: deflated, with 64-bit sizes where they are needed.

    kept    files, directories and symlinks; modes; owners by number ("ux" of Info-ZIP); times to the second ("UT"), and
            local time to two seconds for those who know no better
    lost    devices, fifos and sockets; extended attributes and ACLs; fractions of seconds; names of owners. Further
            names of a file become files of their own, holes become zeros, and bytes of a name that are not UTF-8 become
            backslash escapes.

Memory grows by about a kilobyte for each entry, as a zip ends with a list of them all.

Sources: APPNOTE.TXT of PKWARE, 6.3; extrafld.txt of Info-ZIP.
"""

from __future__ import annotations

import stat
import struct
import time
from typing import IO, Final
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB
from bfrepo.data.node import Node
from bfrepo.exporter.content import Holes
from bfrepo.exporter.entries import Entry
from bfrepo.exporter.sinks import Sink

_TYPES: Final = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}
_UNIX: Final = 3
_DOS_DIRECTORY: Final = 0x10
_TIME: Final = struct.Struct("<2sHBl")
_OWNER: Final = struct.Struct("<2sHBBLBL")
_FIRST_TIME: Final = (1980, 1, 1, 0, 0, 0)
_LAST_TIME: Final = (2107, 12, 31, 23, 59, 58)
_MOST_SECONDS: Final = (1 << 31) - 1
_ZEROS: Final = bytes(256 * KIB)


class ZipWriter:
    """See EntryWriter. Takes files, directories and symlinks; `finish` or `abort` ends the archive."""

    def __init__(self, sink: Sink) -> None:
        self._stream = _Stream(sink)
        self._zip = ZipFile(self._stream, "w")
        self._file: IO[bytes] | None = None
        self._at = 0
        self._end = 0

    def wants_content(self, entry: Entry) -> bool:
        """See EntryWriter: a further name of a file becomes a file of its own."""
        return True

    def begin(self, entry: Entry, holes: Holes) -> None:
        """See EntryWriter."""
        self._end_entry()
        node = entry.node
        info = _info(entry)
        if node.type == "dir":
            info.compress_size = info.CRC = 0
            self._zip.mkdir(info)
        elif node.type == "symlink":
            self._zip.writestr(info, node.target)
        else:
            self._at, self._end = 0, node.size
            self._file = self._zip.open(info, "w")

    def data(self, offset: int, content: bytes) -> None:
        """See EntryWriter."""
        self._fill(offset)
        self._write(content)

    def finish(self) -> None:
        """The end of the archive."""
        self._end_entry()
        self._zip.close()
        self._stream.flush()

    def abort(self) -> None:
        """Leave the archive as it is, without the list at its end that makes it one."""
        self._stream.broken = True
        if self._file is not None:
            self._file.close()
        self._zip.close()

    def _end_entry(self) -> None:
        if self._file is not None:
            self._fill(self._end)
            self._file.close()
            self._file = None

    def _fill(self, end: int) -> None:
        while self._at < end:
            self._write(_ZEROS[: end - self._at])

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
        self._at += len(data)


class _Stream:
    """The sink as the library wants it. Nothing goes through once it is `broken`."""

    def __init__(self, sink: Sink) -> None:
        self.broken = False
        self._sink = sink

    def write(self, data: Buffer) -> int:
        if not self.broken:
            self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        if not self.broken:
            self._sink.flush()

    def close(self) -> None:
        """The sink is not ours to close."""


def zip_name(entry: Entry) -> str:
    """The name of an entry in a zip, which is text."""
    return entry.path.decode(errors="backslashreplace") + ("/" if entry.node.type == "dir" else "")


def is_text(name: bytes) -> bool:
    """Whether a name is UTF-8, so that a zip has it as it is."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _info(entry: Entry) -> ZipInfo:
    node = entry.node
    info = ZipInfo(zip_name(entry), _dos_time(node.mtime_ns // 1_000_000_000))
    info.create_system = _UNIX
    info.external_attr = (_TYPES[node.type] | node.mode) << 16
    info.extra = _extra(node)
    if node.type == "dir":
        info.external_attr |= _DOS_DIRECTORY
    else:
        info.compress_type = ZIP_DEFLATED
        info.file_size = node.size
    return info


def _dos_time(seconds: int) -> tuple[int, int, int, int, int, int]:
    """Local time in the years that a zip knows."""
    moment = time.localtime(min(max(seconds, 0), 1 << 33))
    return min(max(moment[:6], _FIRST_TIME), _LAST_TIME)


def _extra(node: Node) -> bytes:
    """Fields of Info-ZIP: the mtime in seconds since 1970, if it goes into 31 bits and a sign, and the owner."""
    seconds = node.mtime_ns // 1_000_000_000
    owner = _OWNER.pack(b"ux", 11, 1, 4, node.uid, 4, node.gid)
    return _TIME.pack(b"UT", 5, 1, seconds) + owner if abs(seconds) <= _MOST_SECONDS else owner
