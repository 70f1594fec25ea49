"""A snapshot: who backed up what, when, and the root of the tree it made. A MessagePack map with fields by name.

Fields that this version does not know, in the summary too, are kept and written again when a snapshot is rewritten.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from bfrepo.core.errors import MALFORMED, DamagedObject, UnsupportedFormat
from bfrepo.core.ids import ID_SIZE

SNAPSHOT_VERSION = 1


class SnapshotSummary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What one backup did.

    Sizes in bytes, duration in seconds, `started_ns` by the clock of the machine, since 1970.
    """

    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs: int = 0
    others: int = 0
    files: int = 0
    size: int = 0
    data_added: int = 0
    data_stored: int = 0
    blobs_added: int = 0
    duration: float = 0.0
    errors: int = 0
    started_ns: int = 0


class Snapshot(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One backup. `time` is ISO 8601 with zone; `parent` is a snapshot ID; `tree` is the root; paths are raw bytes.

    `original` is the ID of the snapshot that this one was made from by rewriting, tagging or copying: that of the
    first of a series, in whichever repository it was made. `twin` is for a snapshot that was copied from a repository
    with other IDs: its tree, and the tree of its original, which is the same but for the IDs. It counts only as long as
    its first half is `tree`: whoever gives the snapshot another tree need not know of it.
    """

    version: int
    time: str
    tree: bytes
    paths: list[bytes] = []
    hostname: str = ""
    username: str = ""
    excludes: list[str] = []
    tags: list[str] = []
    label: str = ""
    parent: bytes = b""
    original: bytes = b""
    twin: bytes = b""
    program: str = ""
    summary: SnapshotSummary = msgspec.field(default_factory=SnapshotSummary)
    unknown: dict[str, Any] = {}

    @property
    def when(self) -> datetime:
        """The time of the backup, with its zone."""
        return datetime.fromisoformat(self.time)

    @property
    def original_tree(self) -> bytes:
        """The tree by the ID that it has in the repository where it was made."""
        return self.twin[ID_SIZE:] if self.twin[:ID_SIZE] == self.tree else self.tree


class Claim(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a backup says before it writes its snapshot: the tree it relies on and the ID its snapshot will have."""

    version: int
    tree: bytes
    snapshot: bytes
    time: str
    hostname: str = ""


class _Version(msgspec.Struct):
    version: int


_KNOWN = {field.name for field in msgspec.structs.fields(Snapshot)} - {"unknown"}
_KNOWN_SUMMARY = {field.name for field in msgspec.structs.fields(SnapshotSummary)}


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The snapshot's plaintext, with the unknown fields it was read with."""
    fields: dict[str, Any] = msgspec.to_builtins(snapshot, builtin_types=(bytes,))
    fields.pop("unknown", None)
    if "summary" in snapshot.unknown:
        fields["summary"] = {**snapshot.unknown["summary"], **fields.get("summary", {})}
    return msgspec.msgpack.encode({**snapshot.unknown, **fields}, order="sorted")


def decode_snapshot(data: bytes, *, name: str) -> Snapshot:
    """The snapshot in `data`; `name` is its ID for messages. Raises DamagedObject or UnsupportedFormat."""
    try:
        fields = msgspec.msgpack.decode(data, type=dict[str, Any])
        _refuse_newer(fields.get("version"), SNAPSHOT_VERSION, f"snapshot {name[:8]}")
        known = {key: value for key, value in fields.items() if key in _KNOWN}
        snapshot = msgspec.convert(known, Snapshot, builtin_types=(bytes,))
        snapshot.unknown = {key: value for key, value in fields.items() if key not in _KNOWN}
        later = {key: value for key, value in fields.get("summary", {}).items() if key not in _KNOWN_SUMMARY}
        if later:
            snapshot.unknown["summary"] = later
        datetime.fromisoformat(snapshot.time)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"snapshot {name[:8]}: does not decode: {error}") from error
    ids_fit = len(snapshot.original) in (0, ID_SIZE) and len(snapshot.twin) in (0, 2 * ID_SIZE)
    if len(snapshot.tree) != ID_SIZE or not ids_fit or snapshot.when.tzinfo is None:
        raise DamagedObject(f"snapshot {name[:8]}: has no valid tree, original or time")
    return snapshot


def encode_claim(claim: Claim) -> bytes:
    """The claim's plaintext."""
    return msgspec.msgpack.encode(claim, order="sorted")


def decode_claim(data: bytes, *, name: str) -> Claim:
    """The claim in `data`. Raises DamagedObject or UnsupportedFormat."""
    try:
        version = msgspec.msgpack.decode(data, type=_Version).version
        _refuse_newer(version, SNAPSHOT_VERSION, f"claim {name[:8]}")
        claim = msgspec.msgpack.decode(data, type=Claim)
        when = datetime.fromisoformat(claim.time)
    except (msgspec.MsgspecError, *MALFORMED) as error:
        raise DamagedObject(f"claim {name[:8]}: does not decode: {error}") from error
    if {len(claim.tree), len(claim.snapshot)} != {ID_SIZE} or when.tzinfo is None:
        raise DamagedObject(f"claim {name[:8]}: has no valid tree, snapshot or time")
    return claim


def _refuse_newer(version: object, known: int, what: str) -> None:
    if version != known:
        raise UnsupportedFormat(
            f"{what}: version {version} is not known to this program", hint="use a newer backupforge"
        )
