"""The JSON that restic keeps in its index, snapshots and trees, and how it writes names, modes and times.

    index       {"packs": [{"id": hex, "blobs": [{"id": hex, "type": "data" or "tree", "offset", "length",
                "uncompressed_length": only where it is compressed}]}]}
    snapshot    {"time", "tree": hex, "paths", "hostname", "username", "excludes", "tags", ...}
    tree        {"nodes": [...]}; a name is quoted as in a Go string literal, without the quotes, before it becomes
                JSON; a mode has its bits where Go's os.FileMode has them; content is a list of hex IDs

Source: the design document of restic, and its internal/data and internal/repository.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

_Hex = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Size = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_U64 = Annotated[int, Meta(ge=0)]
_Part = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]


class BlobRecord(msgspec.Struct, gc=False):
    """Where a blob is in its pack; `length` is of what is stored. Without a plain length it is not compressed."""

    id: _Hex
    type: str
    offset: _Part
    length: _Part
    uncompressed_length: _Part = 0


class PackRecord(msgspec.Struct, gc=False):
    """A pack and what is in it."""

    id: _Hex
    blobs: list[BlobRecord]


class IndexRecord(msgspec.Struct, gc=False):
    """An index file."""

    packs: list[PackRecord] | None = None


class ConfigRecord(msgspec.Struct):
    """The config."""

    version: int
    id: str


class SummaryRecord(msgspec.Struct, gc=False):
    """What restic's backup saw."""

    backup_start: str = ""
    files_new: _U64 = 0
    files_changed: _U64 = 0
    files_unmodified: _U64 = 0
    dirs_new: _U64 = 0
    dirs_changed: _U64 = 0
    dirs_unmodified: _U64 = 0
    total_bytes_processed: _U64 = 0


class SnapshotRecord(msgspec.Struct):
    """A snapshot; its ID is the name of its file."""

    time: str
    tree: _Hex
    paths: list[str] | None = None
    hostname: str = ""
    username: str = ""
    excludes: list[str] | None = None
    tags: list[str] | None = None
    parent: str = ""
    program_version: str = ""
    summary: SummaryRecord | None = None


class XattrRecord(msgspec.Struct, gc=False):
    """An extended attribute; the value is base64."""

    name: str
    value: str | None = None


class NodeRecord(msgspec.Struct, gc=False):
    """An entry of a tree."""

    name: str
    type: str
    mode: _U64 = 0
    mtime: str = ""
    atime: str = ""
    ctime: str = ""
    uid: _Part = 0
    gid: _Part = 0
    user: str = ""
    group: str = ""
    inode: _U64 = 0
    device_id: _U64 = 0
    size: _Size = 0
    links: _U64 = 0
    linktarget: str = ""
    linktarget_raw: str | None = None
    extended_attributes: list[XattrRecord] | None = None
    device: _U64 = 0
    content: list[_Hex] | None = None
    subtree: _Hex | None = None


class TreeRecord(msgspec.Struct, gc=False):
    """A tree."""

    nodes: list[NodeRecord] | None = None


decode_config: Final = msgspec.json.Decoder(ConfigRecord).decode
decode_index: Final = msgspec.json.Decoder(IndexRecord).decode
decode_snapshot: Final = msgspec.json.Decoder(SnapshotRecord).decode
decode_tree: Final = msgspec.json.Decoder(TreeRecord).decode

_ESCAPE: Final = re.compile(rb"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.|$)", re.DOTALL)
_PLAIN_ESCAPES: Final = {
    b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v", b"\\": b"\\",
    b'"': b'"', b"'": b"'",
}  # fmt: skip

_MODE_BITS: Final = ((1 << 23, 0o4000), (1 << 22, 0o2000), (1 << 20, 0o1000))
"""setuid, setgid and sticky: where os.FileMode has them, and where Unix has them."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = 1_000_000_000


def raw_name(name: str) -> bytes:
    """A name as the system had it. Raises ValueError for an escape that is none."""
    encoded = name.encode()
    return _ESCAPE.sub(_unescaped, encoded) if b"\\" in encoded else encoded


def _unescaped(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    plain = _PLAIN_ESCAPES.get(escape)
    if plain is not None:
        return plain
    kind = escape[:1]
    if kind == b"x" and len(escape) == 3:
        return bytes([int(escape[1:], 16)])
    if kind in (b"u", b"U") and len(escape) > 4:
        return chr(int(escape[1:], 16)).encode()
    if len(escape) == 3 and escape.isdigit():
        return bytes([int(escape, 8)])
    raise ValueError(f"a name has the escape {escape!r}")


def unix_mode(mode: int) -> int:
    """Permission bits, setuid, setgid and sticky."""
    bits = mode & 0o777
    if mode >> 20:
        for theirs, ours in _MODE_BITS:
            if mode & theirs:
                bits |= ours
    return bits


def nanoseconds(time: str) -> int:
    """Since 1970, from RFC 3339 with up to nine digits behind the point; 0 for none. Raises ValueError."""
    if not time:
        return 0
    zone_at = 19
    fraction = 0
    if time[19:20] == ".":
        zone_at = 20
        while time[zone_at : zone_at + 1].isdigit():
            zone_at += 1
        fraction = int(time[20:zone_at].ljust(9, "0")[:9])
    span = datetime.fromisoformat(time[:19] + time[zone_at:]) - _EPOCH
    return (span.days * 86_400 + span.seconds) * _SECOND + fraction


def iso_time(time: str) -> str:
    """The time of a snapshot with its zone, to the microsecond. Raises ValueError."""
    ns = nanoseconds(time)
    zone = datetime.fromisoformat(re.sub(r"\.\d+", "", time)).tzinfo
    if zone is None:
        raise ValueError(f"{time!r} has no zone")
    seconds, rest = divmod(ns, _SECOND)
    return datetime.fromtimestamp(seconds, zone).replace(microsecond=rest // 1000).isoformat()


def link_target(node: NodeRecord) -> bytes:
    """Where a symlink leads. Raises ValueError."""
    return base64.b64decode(node.linktarget_raw, validate=True) if node.linktarget_raw else node.linktarget.encode()


def xattrs(node: NodeRecord) -> list[tuple[bytes, bytes]]:
    """Extended attributes, sorted by name. Raises ValueError."""
    found = node.extended_attributes
    if not found:
        return []
    return sorted(
        (each.name.encode(errors="surrogatepass"), base64.b64decode(each.value or "", validate=True)) for each in found
    )
