"""One header of a tar archive: 512 bytes, in any of the formats that are about.

    offset  size  field                          offset  size  field
         0   100  name                              265    32  user name
       100     8  mode                              297    32  group name
       108     8  user ID                           329     8  major number of a device
       116     8  group ID                          337     8  minor number
       124    12  size of what follows              345   155  POSIX: what stands before the name and a slash
       136    12  time, seconds since 1970          345    12  GNU: time of access, and behind it of change
       148     8  sum of all bytes, these as ' '    386    96  GNU, type S: four times offset and size of data
       156     1  type                              482     1  GNU, type S: whether further blocks of 21 follow
       157   100  target of a link                  483    12  GNU, type S: size of the file with its holes
       257     8  "ustar\\0" "00": POSIX; "ustar  \\0": GNU; anything else: neither

Numbers are octal digits with spaces or NULs around them; or, where the first byte is 0x80 or 0xff, big-endian in the
rest of the field (base 256, for what does not fit).

Sources: pax(1) of POSIX; tar(5) of libarchive; the appendix "Tar Internals" of the manual of GNU tar.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from zlib import adler32

from bfrepo.core.errors import SourceError

BLOCK: Final = 512
_SPACES_SUM: Final = 8 * 32
_SPARSE_AT: Final = 386
_SPARSE_ENTRIES: Final = 4
_MORE_ENTRIES: Final = 21
_MORE_FLAG: Final = 504


class MalformedTar(SourceError):
    """What was to be a tar archive is none, is damaged, or ends too early."""

    code = "malformed-tar"


@dataclass(slots=True)
class TarHeader:
    """The fields as they stand there; `kind` is the type, one byte."""

    name: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_s: int
    kind: bytes
    link: bytes
    user: bytes
    group: bytes
    major: int
    minor: int


def decode_header(block: bytes) -> TarHeader:
    """The header in a block that is not all zeros. Raises MalformedTar."""
    if parse_number(block[148:156]) != _sum(block):
        raise MalformedTar(
            "the tar archive is damaged: a header has a wrong checksum",
            hint="if it is compressed, decompress it first: zstd -dc, gzip -dc or xz -dc",
        )
    name = _text(block[0:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + b"/" + name
    size = parse_number(block[124:136])
    if size < 0:
        raise MalformedTar("the tar archive has a member of less than no bytes")
    has_names = block[257:262] == b"ustar"
    kind = block[156:157]
    is_device = has_names and kind in (b"3", b"4")
    return TarHeader(
        name,
        parse_number(block[100:108]),
        parse_number(block[108:116]),
        parse_number(block[116:124]),
        size,
        parse_number(block[136:148]),
        kind,
        _text(block[157:257]),
        _text(block[265:297]) if has_names else b"",
        _text(block[297:329]) if has_names else b"",
        parse_number(block[329:337]) if is_device else 0,
        parse_number(block[337:345]) if is_device else 0,
    )


def parse_number(field: bytes) -> int:
    """The number in a field. Raises MalformedTar."""
    if field[0] in (0x80, 0xFF):
        number = int.from_bytes(field[1:], "big")
        return number - (1 << 8 * (len(field) - 1)) if field[0] == 0xFF else number
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError:
        raise MalformedTar("the tar archive is damaged: a header has something else where a number belongs") from None


def decode_old_sparse(block: bytes, *, first: bool) -> tuple[list[tuple[int, int]], bool]:
    """(offset, size) of data in a header of type S, or in a block that follows it; and whether a further one does."""
    start, count, more = (_SPARSE_AT, _SPARSE_ENTRIES, 482) if first else (0, _MORE_ENTRIES, _MORE_FLAG)
    found = []
    for number in range(count):
        at = start + 24 * number
        if not block[at]:
            break
        found.append((parse_number(block[at : at + 12]), parse_number(block[at + 12 : at + 24])))
    return found, block[more] not in (0, 0x30)


def old_sparse_size(block: bytes) -> int:
    """The size of a file with its holes, from a header of type S."""
    return parse_number(block[483:495])


def _sum(block: bytes) -> int:
    """The sum of all bytes, the field of the sum itself as spaces.

    That of some bytes is the lower half of their Adler-32, less 1, as long as it is below 65521: of 256 bytes it is.
    """
    parts = (block[:148], block[156:384], block[384:])
    return sum(adler32(part) & 0xFFFF for part in parts) - len(parts) + _SPACES_SUM


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
