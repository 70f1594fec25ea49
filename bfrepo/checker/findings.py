"""What a check has to say: one finding for each thing that is wrong, with what depends on it.

    kind               severity   meaning
    config-damaged     error      `config` is not as it was written
    key-damaged        error      a password slot is not as it was written
    snapshot-damaged   error      a snapshot cannot be read
    claim-damaged      error      a claim cannot be read
    index-damaged      error      an index object cannot be read, so the blobs it names are not found
    index-wrong        error      a pack is whole, but the index describes it otherwise than the pack itself
    pack-missing       error      the index names a pack that is not there
    pack-damaged       error      a pack's bytes are not those that were written
    blob-damaged       error      a pack's bytes are as written, but were wrong already then
    blob-missing       error      snapshots need blobs that no index object names
    tree-damaged       error      a tree is as it was written, but makes no sense
    unreadable         error      the storage does not give an object out
    unknown-version    error      an object of a newer version; not damage, only unknown
    garbage            note       packs that no index object names: left by an interrupted backup, or being written now
    claim-left         note       claims that are finished or lapsed
    pack-leaving       note       a pack that a prune wants gone has the only copy of what a snapshot needs

The kinds are stable: programs may rely on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bfrepo.core.ids import short_id

FindingKind: TypeAlias = Literal[
    "config-damaged",
    "key-damaged",
    "snapshot-damaged",
    "claim-damaged",
    "index-damaged",
    "index-wrong",
    "pack-missing",
    "pack-damaged",
    "blob-damaged",
    "blob-missing",
    "tree-damaged",
    "unreadable",
    "unknown-version",
    "garbage",
    "claim-left",
    "pack-leaving",
]
Severity: TypeAlias = Literal["error", "note"]
ObjectWord: TypeAlias = Literal["config", "key", "pack", "index", "snapshot", "claim", "tree", "blob"]

LISTED: Final = 20
"""How many IDs and paths a finding lists at most; it counts the others."""

_NEXT: Final[dict[FindingKind, str]] = {
    "config-damaged": "put a copy of 'config' in its place, from wherever there is a copy of this repository",
    "key-damaged": "take it away with 'backupforge key remove {ids}', and add its password again",
    "snapshot-damaged": "'backupforge repair snapshots --forget {ids}' moves it out of the repository",
    "claim-damaged": "'backupforge repair snapshots' moves it out of the repository",
    "index-damaged": "'backupforge repair index' makes it again from the packs; until then no backup can be made",
    "index-wrong": "'backupforge repair index --read-all' puts it right",
    "pack-missing": "put the file back, or else 'backupforge repair packs {ids}', then back up the same files again",
    "pack-damaged": "'backupforge repair packs {ids}' saves what is intact in it; then back up the same files again",
    "blob-damaged": "'backupforge repair packs {ids}' saves what is intact in it; then back up the same files again",
    "blob-missing": "'backupforge repair index' looks for them in the packs; what it does not find a backup of the same"
    " files stores again, or 'backupforge repair snapshots' makes new snapshots without it",
    "tree-damaged": "'backupforge repair snapshots' makes a new snapshot without what is lost",
    "unreadable": "look at the storage, and check again: what it does not give may well be whole",
    "unknown-version": "use a newer backupforge: what this one does not know is not damaged",
    "garbage": "a prune removes them",
    "claim-left": "a prune removes them",
}
"""What to do about a finding; `{ids}` stands for the objects it is about."""

_NOTES: Final = frozenset({"garbage", "claim-left", "pack-leaving"})


@dataclass(frozen=True, slots=True)
class AffectedSnapshot:
    """A snapshot that depends on what is wrong. `time` is ISO 8601 with zone, empty where it cannot be read."""

    id: bytes
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or worth a note.

    `object_ids` are the objects it is about, the first LISTED of them (none for `config`). `files` are raw paths of
    files and directories that depend on it, the first LISTED of `files_count`, which is exact up to 100,000.
    """

    kind: FindingKind
    object_kind: ObjectWord
    object_ids: tuple[bytes, ...]
    message: str
    snapshots: tuple[AffectedSnapshot, ...] = ()
    files: tuple[bytes, ...] = ()
    files_count: int = 0

    @property
    def severity(self) -> Severity:
        return "note" if self.kind in _NOTES else "error"

    @property
    def hint(self) -> str | None:
        """What to do next: mostly, the command that mends it."""
        text = _NEXT.get(self.kind)
        return text and text.format(ids=" ".join(map(short_id, self.object_ids)))
