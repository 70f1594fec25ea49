"""Reads a tar archive from a stream, member by member: whatever GNU tar, bsdtar, star, pax and we ourselves write.

Strict where it matters: an archive that ends without its end, which is a block of zeros, is truncated, and every
checksum is looked at. Memory is bounded by the longest headers that are allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from bfrepo.core.units import KIB, MIB
from bfrepo.formats.tar_header import (
    BLOCK,
    MalformedTar,
    TarHeader,
    decode_header,
    decode_old_sparse,
    old_sparse_size,
)
from bfrepo.formats.tar_pax import parse_decimal, parse_time, records, xattrs_of

_BUFFER: Final = 256 * KIB
_ZEROS: Final = bytes(BLOCK)
_MOST_NAME: Final = 64 * KIB
_MOST_PAX: Final = 8 * MIB
_MOST_EXTENTS: Final = 1_000_000
_MOST_SIZE: Final = (1 << 63) - 1
_SECOND: Final = 1_000_000_000

_FILES: Final = (b"0", b"\0", b"7", b"S")
_WITHOUT_DATA: Final = (b"1", b"2", b"3", b"4", b"5", b"6")


class ByteStream(Protocol):
    """What an archive is read from: a file, a pipe, a channel."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the beginning of `buffer`; 0 at the end."""


@dataclass(slots=True)
class TarMember:
    """One member. `kind` is "file", "link", "symlink", "chardev", "blockdev", "dir", "fifo", or "" for what it is not.

    `path` and `link` are as they stand in the archive. `size` is that of the file with its holes, and `extents` are
    (offset, length) of its data. Times are ns since 1970, None where the archive has none.
    """

    path: bytes
    kind: str
    header: TarHeader
    link: bytes
    size: int
    uid: int
    gid: int
    user: bytes
    group: bytes
    mtime_ns: int
    atime_ns: int | None = None
    ctime_ns: int | None = None
    btime_ns: int | None = None
    extents: list[tuple[int, int]] = field(default_factory=list)
    xattrs: list[tuple[bytes, bytes]] = field(default_factory=list)
    access_acl: bytes = b""
    default_acl: bytes = b""


_KINDS: Final = {
    b"1": "link", b"2": "symlink", b"3": "chardev", b"4": "blockdev", b"5": "dir", b"6": "fifo", b"D": "dir",
}  # fmt: skip


class TarReader:
    """An archive that is being read. Used by one thread; raises MalformedTar, and what the stream raises."""

    def __init__(self, stream: ByteStream, record: int = 0) -> None:
        """With `record`, one archive follows another, each filled up to a multiple of this many bytes."""
        self._blocks = _Blocks(stream)
        self._record = record
        self._left = 0
        """Bytes of the member's data that were not read yet, and of the rest of its last block."""
        self._padding = 0
        self._global: dict[bytes, bytes] = {}

    @property
    def position(self) -> int:
        """Bytes of the archive that were read."""
        return self._blocks.position

    @property
    def left(self) -> int:
        """Bytes of the member's data that were not read yet."""
        return self._left

    def members(self) -> Iterator[TarMember]:
        """Each member, in order. What is not read of its data is passed over. Called once for each archive."""
        self._global.clear()
        while (member := self._next()) is not None:
            yield member
        if self._record:
            self._blocks.skip(BLOCK)  # the end is two blocks of zeros, and the second may be the first of a record
            self._blocks.skip(-self._blocks.position % self._record)
        else:
            self._blocks.drain()

    def at_end(self) -> bool:
        """Whether nothing follows, where another archive might."""
        return self._blocks.at_end()

    def read_into(self, buffer: memoryview) -> int:
        """Fill `buffer` with what comes next of the member's data; less only at its end."""
        wanted = min(len(buffer), self._left)
        self._blocks.read_into(buffer[:wanted])
        self._left -= wanted
        return wanted

    def _next(self) -> TarMember | None:
        more: dict[bytes, bytes] = {}
        sparse: list[tuple[bytes, bytes]] = []
        while True:
            self._blocks.skip(self._left + self._padding)
            self._left = self._padding = 0
            block = self._blocks.take(BLOCK)
            if block == _ZEROS:
                if more:
                    raise MalformedTar("the tar archive is damaged: it ends behind a header that is about a member")
                return None
            header = decode_header(block)
            match header.kind:
                case b"x" | b"X":
                    for key, value in records(self._text(header.size, _MOST_PAX)):
                        more[key] = value
                        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
                            sparse.append((key, value))
                case b"g":
                    self._global.update(records(self._text(header.size, _MOST_NAME)))
                case b"L":
                    more.setdefault(b"path", self._text(header.size, _MOST_NAME).partition(b"\0")[0])
                case b"K":
                    more.setdefault(b"linkpath", self._text(header.size, _MOST_NAME).partition(b"\0")[0])
                case b"V":
                    self._expect(header.size)
                case b"M":
                    raise MalformedTar("the tar archive begins within a file: it is the second volume of another")
                case _:
                    return self._member(header, block, {**self._global, **more} if self._global else more, sparse)

    def _member(
        self, header: TarHeader, block: bytes, more: dict[bytes, bytes], sparse: list[tuple[bytes, bytes]]
    ) -> TarMember:
        path = more.get(b"path", header.name)
        kind = _KINDS.get(header.kind, "")
        if header.kind in _FILES:
            kind = "dir" if path.endswith(b"/") and header.kind == b"\0" else "file"
        stored = parse_decimal(more[b"size"]) if b"size" in more else header.size
        if header.kind in _WITHOUT_DATA:
            stored = 0
        if stored > _MOST_SIZE:
            raise MalformedTar("the tar archive has a member that is larger than any file can be")
        member = TarMember(
            path,
            kind,
            header,
            more.get(b"linkpath", header.link),
            stored if kind == "file" else 0,
            header.uid,
            header.gid,
            more.get(b"uname", header.user),
            more.get(b"gname", header.group),
            header.mtime_s * _SECOND,
        )
        if more:
            _add_records(member, more)
        extended = self._old_sparse(member, block) if header.kind == b"S" else None
        self._expect(stored)
        if kind == "file":
            self._lay_out(member, stored, more, sparse, extended)
        return member

    def _lay_out(
        self,
        member: TarMember,
        stored: int,
        more: dict[bytes, bytes],
        sparse: list[tuple[bytes, bytes]],
        extents: list[tuple[int, int]] | None,
    ) -> None:
        """Where the data of a file goes, checked: in order, apart, inside the file, and as much as is stored."""
        if extents is None:
            if more.keys() & {b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"}:
                extents = self._sparse(member, more, sparse)
            else:
                member.extents = [(0, stored)] if stored else []
                return
        position = 0
        for offset, length in extents:
            if offset < position or length < 0 or offset + length > member.size:
                raise MalformedTar("the tar archive is damaged: the map of a file with holes is impossible")
            position = offset + length
        if sum(length for _, length in extents) != self._left:
            raise MalformedTar("the tar archive is damaged: a file with holes has another size than its map")
        member.extents = [extent for extent in extents if extent[1]]

    def _sparse(
        self, member: TarMember, more: dict[bytes, bytes], sparse: list[tuple[bytes, bytes]]
    ) -> list[tuple[int, int]]:
        """The map of one of the formats that have pax records; with the name and size that are in these."""
        member.path = more.get(b"GNU.sparse.name", member.path)
        size = more.get(b"GNU.sparse.realsize", more.get(b"GNU.sparse.size"))
        if size is None:
            raise MalformedTar("the tar archive is damaged: a file with holes has no size")
        member.size = parse_decimal(size)
        if b"GNU.sparse.major" in more:
            if (more[b"GNU.sparse.major"], more.get(b"GNU.sparse.minor")) != (b"1", b"0"):
                raise MalformedTar("the tar archive has a file with holes in a format that is not known")
            return self._sparse_map_in_data()
        if b"GNU.sparse.map" in more:
            numbers = more[b"GNU.sparse.map"].split(b",") if more[b"GNU.sparse.map"] else []
        else:
            numbers = [value for _, value in sparse]
        if len(numbers) % 2:
            raise MalformedTar("the tar archive is damaged: the map of a file with holes has an odd number of numbers")
        values = list(map(parse_decimal, numbers))
        return list(zip(values[::2], values[1::2], strict=True))

    def _sparse_map_in_data(self) -> list[tuple[int, int]]:
        """Format 1.0: decimal numbers on lines of their own in front of the data, padded to a block."""
        numbers: list[int] = []
        rest = b""
        while not numbers or len(numbers) <= 2 * numbers[0] <= 2 * _MOST_EXTENTS:
            if self._left < BLOCK:
                raise MalformedTar("the tar archive is damaged: the map of a file with holes has no end")
            *lines, rest = (rest + self._blocks.take(BLOCK)).split(b"\n")
            self._left -= BLOCK
            numbers += map(parse_decimal, lines)
        if len(numbers) != 2 * numbers[0] + 1:
            raise MalformedTar("the tar archive has a file with holes whose map is impossible, or too long")
        return list(zip(numbers[1::2], numbers[2::2], strict=True))

    def _old_sparse(self, member: TarMember, block: bytes) -> list[tuple[int, int]]:
        """The map of type S, whose further blocks come before the data."""
        member.size = old_sparse_size(block)
        extents, more = decode_old_sparse(block, first=True)
        while more:
            further, more = decode_old_sparse(self._blocks.take(BLOCK), first=False)
            extents += further
            if len(extents) > _MOST_EXTENTS:
                raise MalformedTar("the tar archive has a file with more holes than is allowed")
        return extents

    def _expect(self, size: int) -> None:
        self._left, self._padding = size, -size % BLOCK

    def _text(self, size: int, most: int) -> bytes:
        """What follows a header that is about the next one."""
        if size > most:
            raise MalformedTar(f"the tar archive has a header of {size} bytes, and at most {most} are allowed")
        text = self._blocks.take(size)
        self._blocks.skip(-size % BLOCK)
        return text


def _add_records(member: TarMember, more: dict[bytes, bytes]) -> None:
    """What pax records say about a member."""
    for key, value in more.items():
        match key:
            case b"mtime":
                member.mtime_ns = parse_time(value)
            case b"atime":
                member.atime_ns = parse_time(value)
            case b"ctime":
                member.ctime_ns = parse_time(value)
            case b"LIBARCHIVE.creationtime":
                member.btime_ns = parse_time(value)
            case b"uid":
                member.uid = parse_decimal(value)
            case b"gid":
                member.gid = parse_decimal(value)
            case b"SCHILY.acl.access":
                member.access_acl = value
            case b"SCHILY.acl.default":
                member.default_acl = value
    member.xattrs = xattrs_of(more)


class _Blocks:
    """The stream, read in large pieces."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._start = self._end = 0
        self.position = 0

    def take(self, size: int) -> bytes:
        """The next bytes."""
        if self._end - self._start >= size:
            start = self._start
            self._start += size
            self.position += size
            return bytes(self._view[start : start + size])
        taken = bytearray(size)
        self.read_into(memoryview(taken))
        return bytes(taken)

    def read_into(self, buffer: memoryview) -> None:
        """Fill `buffer`."""
        self.position += len(buffer)
        while buffer:
            if self._start == self._end and len(buffer) >= _BUFFER:
                count = self._stream.readinto(buffer) or 0
            else:
                self._fill()
                count = min(len(buffer), self._end - self._start)
                buffer[:count] = self._view[self._start : self._start + count]
                self._start += count
            if not count:
                raise MalformedTar("the tar archive is truncated: it ends too early")
            buffer = buffer[count:]

    def skip(self, size: int) -> None:
        """Pass over some bytes."""
        while size:
            self._fill()
            count = min(size, self._end - self._start)
            if not count:
                raise MalformedTar("the tar archive is truncated: it ends too early")
            self._start += count
            self.position += count
            size -= count

    def at_end(self) -> bool:
        """Whether nothing follows."""
        self._fill()
        return self._start == self._end

    def drain(self) -> None:
        """Read to the end, so that whoever writes is not cut off."""
        while self._stream.readinto(self._view):
            continue

    def _fill(self) -> None:
        if self._start == self._end:
            self._start = 0
            self._end = self._stream.readinto(self._view) or 0
