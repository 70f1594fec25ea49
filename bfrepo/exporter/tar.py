"""The headers of a tar archive: the pax format of POSIX.1-2001, with what GNU tar, libarchive and star add to it.

    pax records   path and linkpath where the field is too short or the name is not ASCII; size, uid, gid, uname, gname
                  and mtime where the field cannot hold them; atime where it was recorded
    SCHILY.xattr.NAME    extended attributes, the value as it is; "%" and "=" in NAME as %25 and %3D, as GNU tar has it
    SCHILY.acl.access, SCHILY.acl.default    POSIX ACLs as text with numbers
    GNU.sparse.*         files with holes, in the format that GNU tar calls 1.0: a map in front of the data

Pax records are UTF-8. A name that is not UTF-8 is in the field of the header as it is, or in a record of GNU tar ("L",
"K") where that is too short: hdrcharset=BINARY, which POSIX has for this, is not known to GNU tar.

Sources: pax(1) of POSIX; tar(5) of libarchive; the appendix "Tar Internals" of the manual of GNU tar.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final
from zlib import adler32, crc32

from bfrepo.data.node import Node

BLOCK: Final = 512
RECORD: Final = 20 * BLOCK
"""Archives are padded to a multiple of this, as GNU tar has it."""

_NAME: Final = 100
_OWNER: Final = 31
_MOST_ID: Final = 0o7777777
_MOST_SIZE: Final = 0o77777777777
_ZEROS: Final = bytes(BLOCK)
_TYPES: Final = {"file": b"0", "symlink": b"2", "chardev": b"3", "blockdev": b"4", "dir": b"5", "fifo": b"6"}
_LINK: Final = b"1"
_MAGIC: Final = b"ustar\0" + b"00"
_NO_DEVICE: Final = b"0000000\0" * 2
_SECOND: Final = 1_000_000_000

_ACLS: Final = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}
_ACL_VERSION: Final = 2  # POSIX_ACL_XATTR_VERSION of <linux/posix_acl_xattr.h>
_ACL_ENTRY: Final = struct.Struct("<HHI")
_ACL_TAGS: Final = {0x01: "user", 0x02: "user", 0x04: "group", 0x08: "group", 0x10: "mask", 0x20: "other"}
_ACL_NAMED: Final = (0x02, 0x08)

END: Final = bytes(2 * RECORD)
"""More than enough zeros for the end of an archive, which is at least two blocks of them."""

BROKEN_END: Final = b"./PaxHeaders/interrupted".ljust(BLOCK, b"\0")
"""What no reader takes for an end of an archive, nor for anything else: a header without a checksum."""


class TarHeaders:
    """Makes the headers of entries. Remembers what many have in common; used by one thread."""

    def __init__(self) -> None:
        self._owners: dict[tuple[int, int, str, str], tuple[bytes, bytes, bytes]] = {}
        self._pax: dict[int, bytes] = {}

    def of(self, path: bytes, node: Node, *, link: bytes | None = None) -> bytes:
        """All headers of an entry; those of a file with content are followed by `node.size` bytes and `padding`."""
        kind = _LINK if link is not None else _TYPES[node.type]
        size = node.size if kind == b"0" else 0
        target = link if link is not None else node.target
        return self._headers(path + b"/" if node.type == "dir" else path, node, kind, size, target, b"")

    def of_sparse(self, path: bytes, node: Node, data: Sequence[tuple[int, int]]) -> bytes:
        """The headers and the map of a file of which only `data` follows, (start, end) in order, of whole blocks.

        Only at the end of the file may the last block be shorter.
        """
        numbers = [len(data), *(number for start, end in data for number in (start, end - start))]
        held = b"".join(b"%d\n" % number for number in numbers)
        held += padding(len(held))
        stored = len(held) + sum(end - start for start, end in data)
        records = b"".join(
            (
                _record(b"GNU.sparse.major", b"1"),
                _record(b"GNU.sparse.minor", b"0"),
                _record(b"GNU.sparse.name", path),
                _record(b"GNU.sparse.realsize", b"%d" % node.size),
            )
        )
        place = b"./GNUSparseFile.0/%08x" % crc32(path)  # what a reader that knows no such files calls it
        return self._headers(place, node, b"0", stored, b"", records) + held

    def _headers(self, path: bytes, node: Node, kind: bytes, size: int, target: bytes, records: bytes) -> bytes:
        ids, names, owner_records = self._owner(node)
        seconds, nanoseconds = divmod(node.mtime_ns, _SECOND)
        if nanoseconds or not 0 <= seconds <= _MOST_SIZE:
            records += _record(b"mtime", _time(node.mtime_ns))
            seconds = min(max(seconds, 0), _MOST_SIZE)
        if node.atime_ns is not None:
            records += _record(b"atime", _time(node.atime_ns))
        if size > _MOST_SIZE:
            records += _record(b"size", b"%d" % size)
        extra = b""
        if len(path) > _NAME or not path.isascii():
            extra, records = _long_name(b"path", b"L", path, extra, records)
        if target and (len(target) > _NAME or not target.isascii()):
            extra, records = _long_name(b"linkpath", b"K", target, extra, records)
        if owner_records:
            records += owner_records
        if node.xattrs and kind != _LINK:
            records += b"".join(_xattr_records(node.xattrs))
        device = _device(node.rdev) if kind in (b"3", b"4") else _NO_DEVICE
        name = path[:_NAME].ljust(_NAME, b"\0")
        head = b"%b%07o\0%b%011o\0%011o\0" % (name, node.mode & 0o7777, ids, min(size, _MOST_SIZE), seconds)
        tail = kind + target[:_NAME].ljust(_NAME, b"\0") + _MAGIC + names + device
        header = _with_checksum(head, tail)
        if records:
            return extra + self._pax_header(len(records)) + records + padding(len(records)) + header
        return extra + header

    def _owner(self, node: Node) -> tuple[bytes, bytes, bytes]:
        """The fields of the numbers, the fields of the names, and records for what does not fit there."""
        key = (node.uid, node.gid, node.user, node.group)
        found = self._owners.get(key)
        if found is None:
            found = self._owners[key] = _owner_fields(*key)
        return found

    def _pax_header(self, size: int) -> bytes:
        header = self._pax.get(size)
        if header is None:
            header = self._pax[size] = _plain_header(b"./PaxHeaders/entry", b"x", size)
        return header


def padding(size: int) -> bytes:
    """What fills the last block behind `size` bytes."""
    return _ZEROS[: -size % BLOCK]


def _record(key: bytes, value: bytes) -> bytes:
    """A pax record, which begins with its own length."""
    body = b" %b=%b\n" % (key, value)
    size = len(body) + len(str(len(body)))
    size = len(body) + len(str(size))
    return b"%d%b" % (size, body)


def _time(nanoseconds: int) -> bytes:
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    return b"%b%d.%09d" % (b"-" if nanoseconds < 0 else b"", seconds, rest)


def _long_name(key: bytes, kind: bytes, name: bytes, extra: bytes, records: bytes) -> tuple[bytes, bytes]:
    """Further headers and records, with a name that does not go into its field, or does so only by luck."""
    try:
        name.decode()
    except UnicodeDecodeError:
        if len(name) > _NAME:
            size = len(name) + 1
            extra += _plain_header(b"././@LongLink", kind, size) + name + b"\0" + padding(size)
        return extra, records
    return extra, records + _record(key, name)


def _plain_header(name: bytes, kind: bytes, size: int) -> bytes:
    """A header that says something about the next one."""
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(_NAME, b"\0"), 0o644, 0, 0, size, 0)
    return _with_checksum(head, kind + bytes(_NAME) + _MAGIC + bytes(2 * (_OWNER + 1)) + _NO_DEVICE)


def _with_checksum(head: bytes, tail: bytes) -> bytes:
    """A header of the 148 bytes before the checksum, which counts as spaces, and what comes behind it.

    The sum of some bytes is the lower half of their Adler-32, less 1, as long as it is below 65521: of 256 bytes it is.
    """
    tail = tail.ljust(BLOCK - len(head) - 8, b"\0")
    total = (adler32(head) & 0xFFFF) + (adler32(tail[:180]) & 0xFFFF) + (adler32(tail[180:]) & 0xFFFF) - 3 + 8 * 32
    return b"%b%06o\0 %b" % (head, total, tail)


def _owner_fields(uid: int, gid: int, user: str, group: str) -> tuple[bytes, bytes, bytes]:
    ids = b"%07o\0%07o\0" % (min(uid, _MOST_ID), min(gid, _MOST_ID))
    records = b""
    for key, number in ((b"uid", uid), (b"gid", gid)):
        if number > _MOST_ID:
            records += _record(key, b"%d" % number)
    names = b""
    for key, text in ((b"uname", user), (b"gname", group)):
        name = text.encode(errors="surrogateescape")
        if len(name) > _OWNER or not name.isascii():
            records += _record(key, name)
            name = b""
        names += name.ljust(_OWNER + 1, b"\0")
    return ids, names, records


def _device(number: int) -> bytes:
    """Both fields; in base 256, which began with GNU tar, where seven octal digits are too few."""
    fields = b""
    for part in (os.major(number), os.minor(number)):
        fields += b"%07o\0" % part if part <= _MOST_ID else b"\x80" + part.to_bytes(7, "big")
    return fields


def _xattr_records(xattrs: Sequence[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for name, value in xattrs:
        acl = acl_text(value) if name in _ACLS else None
        if acl is not None:
            yield _record(_ACLS[name], acl)
        else:
            yield _record(b"SCHILY.xattr." + name.replace(b"%", b"%25").replace(b"=", b"%3D"), value)


def acl_text(value: bytes) -> bytes | None:
    """An ACL as text, such as "user::rw-,user:1000:r--,group::r--,mask::rw-,other::---"; None if it is none.

    `value` is that of the extended attribute: <u32 version>, and (<u16 tag>, <u16 permissions>, <u32 id>) for each.
    """
    if len(value) < 4 or (len(value) - 4) % _ACL_ENTRY.size or int.from_bytes(value[:4], "little") != _ACL_VERSION:
        return None
    entries = []
    for tag, permissions, identifier in _ACL_ENTRY.iter_unpack(value[4:]):
        if tag not in _ACL_TAGS:
            return None
        bits = "".join(letter if permissions & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))
        entries.append(f"{_ACL_TAGS[tag]}:{identifier if tag in _ACL_NAMED else ''}:{bits}")
    return ",".join(entries).encode()
