"""The records of pax headers, which say more about the next member of a tar archive, and what programs put into them.

    "<length of all of this> <key>=<value>\\n", one after the other

    path linkpath size uid gid uname gname mtime atime ctime      POSIX; numbers and times are decimal
    SCHILY.xattr.NAME             star and GNU tar: an extended attribute; "%" and "=" in NAME are %25 and %3D
    LIBARCHIVE.xattr.NAME         libarchive: the same, NAME as in a URL, the value in base64
    RHT.security.selinux          older GNU tar: the attribute security.selinux
    SCHILY.acl.access .default    POSIX ACLs as text
    LIBARCHIVE.creationtime       time of birth
    GNU.sparse.*                  files with holes, formats 0.0, 0.1 and 1.0 of GNU tar

Sources: pax(1) of POSIX; tar(5) of libarchive; star(5); the appendix "Tar Internals" of the manual of GNU tar.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

from bfrepo.formats.tar_header import MalformedTar

_TIME: Final = re.compile(rb"(-?)(\d{1,18})(?:\.(\d*))?")
_SECOND: Final = 1_000_000_000
_LIMIT: Final = (1 << 63) - 1

_ACL_VERSION: Final = 2  # POSIX_ACL_XATTR_VERSION of <linux/posix_acl_xattr.h>
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_NOBODY: Final = 0xFFFF_FFFF
_ACL_TAGS: Final = {"user": (0x01, 0x02), "group": (0x04, 0x08), "mask": (0x10, None), "other": (0x20, None)}
"""The tag without a name, and with one."""


def records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of each record, in order. Raises MalformedTar."""
    at = 0
    while at < len(data) and data[at]:
        space = data.find(b" ", at, at + 12)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            raise MalformedTar("the tar archive is damaged: a pax record has no length")
        end = at + int(digits)
        key, equals, value = data[space + 1 : end].partition(b"=")
        if not equals or end > len(data) or value[-1:] != b"\n" or not key:
            raise MalformedTar("the tar archive is damaged: a pax record is not what its length says")
        yield key, value[:-1]
        at = end


def parse_time(value: bytes) -> int:
    """Nanoseconds since 1970 from decimal seconds. Raises MalformedTar."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise MalformedTar("the tar archive is damaged: a pax record has an impossible time")
    sign, seconds, fraction = match.groups()
    number = int(seconds) * _SECOND + int((fraction or b"").ljust(9, b"0")[:9])
    return min(number, _LIMIT) if not sign else -min(number, _LIMIT)


def parse_decimal(value: bytes) -> int:
    """A number that is not negative. Raises MalformedTar."""
    if not value.isdigit() or len(value) > 19:
        raise MalformedTar("the tar archive is damaged: a pax record has an impossible number")
    return int(value)


def xattrs_of(found: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The extended attributes among records, sorted by name. Raises MalformedTar."""
    xattrs: dict[bytes, bytes] = {}
    for key, value in found.items():
        if key.startswith(b"SCHILY.xattr."):
            xattrs[key[13:].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
        elif key.startswith(b"LIBARCHIVE.xattr."):
            xattrs.setdefault(unquote_to_bytes(key[17:]), _base64(value))
        elif key == b"RHT.security.selinux":
            xattrs.setdefault(b"security.selinux", value)
    return sorted((name, value) for name, value in xattrs.items() if name and b"\0" not in name)


def encode_acl(
    text: bytes, user_id: Callable[[str], int | None], group_id: Callable[[str], int | None]
) -> bytes | None:
    """An ACL as the kernel has it in an extended attribute; None where a name in it is not known.

    `text` is such as "user::rw-,user:1000:r--,group::r--,mask::rw-,other::---"; the number of a name may be a fourth
    field (star). Raises MalformedTar.
    """
    entries: list[tuple[int, int, int]] = []
    for line in re.split(r"[,\n]", text.decode(errors="surrogateescape")):
        entry = line.partition("#")[0].strip()
        if not entry:
            continue
        kind, name, bits, number = (*entry.split(":"), "", "", "")[:4]
        tags = _ACL_TAGS.get({"u": "user", "g": "group", "m": "mask", "o": "other"}.get(kind, kind))
        tag = tags and tags[1 if name else 0]
        if not tag or not re.fullmatch("[r-][w-][xX-]", bits):
            raise MalformedTar("the tar archive is damaged: it has an ACL that is none")
        permissions = sum(bit for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if letter in bits)
        identifier: int | None = _ACL_NOBODY
        if name:
            digits = number or name
            known = user_id if kind[0] == "u" else group_id
            identifier = int(digits) if digits.isdecimal() and len(digits) < 11 else known(name)
        if identifier is None or identifier > _ACL_NOBODY:
            return None
        entries.append((tag, permissions, identifier))
    packed = b"".join(_ACL_ENTRY.pack(*entry) for entry in sorted(entries, key=lambda entry: (entry[0], entry[2])))
    return struct.pack("<I", _ACL_VERSION) + packed


def is_minimal_acl(value: bytes) -> bool:
    """Whether an access ACL says no more than the mode does: the kernel keeps no attribute for such a one."""
    return len(value) <= 4 + 3 * _ACL_ENTRY.size


def _base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise MalformedTar("the tar archive is damaged: an extended attribute does not decode") from None
