"""The closer look of a check, taken only where something is wrong: what is to blame, what is lost, and what depends on
it.

Everything that goes back to one place is said in one finding: a damaged pack is one, not one for each blob or file in
it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Final

from bfrepo.checker.dependents import Cause, Dependents, DependentsWalk
from bfrepo.checker.findings import LISTED, AffectedSnapshot, Finding, FindingKind, ObjectWord
from bfrepo.core.errors import BackupForgeError, StorageError, StorageObjectMissing, UnsupportedFormat
from bfrepo.core.ids import short_id
from bfrepo.data.snapshot import Snapshot
from bfrepo.repository.inventory import Inventory, lost_blobs
from bfrepo.repository.verify import PackVerdict

Fault = tuple[FindingKind, str]
"""What is wrong with a pack: the kind of finding, and a sentence about it."""

_COUNTED: Final = 100_000
_INDEX: Final = Cause("index", b"")


def kind_of_error(error: BackupForgeError, damaged: FindingKind) -> FindingKind:
    """The kind of finding that an error makes: unknown is never damage, and neither is a storage that fails."""
    if isinstance(error, UnsupportedFormat):
        return "unknown-version"
    if isinstance(error, StorageError):
        return "unreadable"
    return damaged


def judge_pack(pack: bytes, verdict: PackVerdict, inventory: Inventory) -> Fault | None:
    """What is wrong with a pack that was read, or None."""
    problem, said = verdict.problem, inventory.fingerprints.get(pack)
    if isinstance(problem, StorageObjectMissing):
        return ("pack-missing", "is missing") if said else None  # else a prune deleted it since it was listed
    if isinstance(problem, StorageError):
        return "unreadable", f"cannot be read: {problem}"
    if not verdict.intact:
        return "pack-damaged", _describe_damage(pack, problem, inventory)
    if isinstance(problem, UnsupportedFormat):
        return "unknown-version", str(problem)
    if problem is not None:
        return "blob-damaged", f"is as it was written, but was damaged already then: {problem}"
    if said not in (None, verdict.fingerprint):
        return "index-wrong", "is whole, but the index describes it wrongly"
    return None


def _describe_damage(pack: bytes, problem: BackupForgeError | None, inventory: Inventory) -> str:
    named, stored = inventory.index.table.pack(pack), inventory.stored.get(pack)
    text = "is not what was written"
    if named is not None and stored not in (None, named.size):
        text += f": it has {stored:,} bytes, and should have {named.size:,}"
    return f"{text} ({problem})" if problem is not None else text


class Diagnosis:
    """Finds out what `faults` of packs, and whatever else is wrong, mean for the snapshots."""

    def __init__(self, inventory: Inventory, faults: Mapping[bytes, Fault], cancelled: Callable[[], bool]) -> None:
        self._inventory = inventory
        self._faults = faults
        self._cancelled = cancelled
        self._gone = {pack for pack, (kind, _) in faults.items() if kind == "pack-missing"}
        self._leaving = inventory.leaving() - faults.keys()
        self._lost = lost_blobs(inventory, faults.keys() - self._gone, cancelled)
        self._unnamed: set[bytes] = set()

    def findings(self, snapshots: Mapping[bytes, Snapshot]) -> list[Finding]:
        """One finding for each cause, with what depends on it. Raises Interrupted."""
        inventory = self._inventory
        walk = DependentsWalk(inventory.loader, inventory.index.table, self._cause_of, self._cancelled)
        for identifier, snapshot in snapshots.items():
            walk.add(AffectedSnapshot(identifier, snapshot.time), snapshot.tree)
        return [
            *self._pack_findings(walk.found),
            *self._index_findings(walk.found.get(_INDEX)),
            *(
                make_finding(
                    kind_of_error(error, "tree-damaged"),
                    "tree",
                    [tree],
                    str(error),
                    walk.found.get(Cause("tree", tree)),
                )
                for tree, error in sorted(walk.tree_errors.items())
            ),
        ]

    def _cause_of(self, blob_id: bytes) -> Cause | None:
        """Which pack, or the index, is to blame that a blob cannot be had, or will not be for long."""
        if blob_id in self._lost:
            return Cause("pack", self._lost[blob_id])
        packs = self._inventory.packs_of(blob_id)
        if not packs:
            if len(self._unnamed) < _COUNTED:
                self._unnamed.add(blob_id)
            return _INDEX
        first = packs[0]
        if first in self._gone and (self._gone.issuperset(packs) or not self._inventory.is_readable(blob_id)):
            return Cause("pack", first)
        return Cause("pack", first) if first in self._leaving else None

    def _pack_findings(self, found: Mapping[Cause, Dependents]) -> list[Finding]:
        findings = []
        lost = Counter(self._lost.values())
        leaving, given_up = self._inventory.leaving(), self._inventory.given_up()
        for pack, (kind, text) in sorted(self._faults.items()):
            dependents = found.get(Cause("pack", pack))
            if kind == "pack-missing" and pack in leaving and dependents is None:
                continue  # a prune deleted it, and nobody needs it
            if pack in given_up:
                continue  # a repair has dealt with it, and a prune is to delete it
            message = f"pack {short_id(pack)} {text}; {self._describe_loss(pack, lost[pack])}"
            if dependents is None and (kind == "pack-missing" or lost[pack]):
                message += ", none of which a snapshot lacks"
            findings.append(make_finding(kind, "pack", [pack], message, dependents))
        for pack in sorted(self._leaving):
            if dependents := found.get(Cause("pack", pack)):
                text = (
                    "is to be deleted by a prune, and has the only copy of what snapshots need: the next prune keeps it"
                )
                findings.append(
                    make_finding("pack-leaving", "pack", [pack], f"pack {short_id(pack)} {text}", dependents)
                )
        return findings

    def _describe_loss(self, pack: bytes, lost: int) -> str:
        named = self._inventory.index.table.pack(pack)
        if named is None:
            return "no index object names it"
        if pack in self._gone:
            return f"it held {_blobs(named.blobs)}"
        return f"{lost:,} of its {_blobs(named.blobs)} cannot be read" if lost else "every blob in it can still be read"

    def _index_findings(self, dependents: Dependents | None) -> list[Finding]:
        """What no index object names is put down to those that cannot be read, where there are any."""
        errors = self._inventory.errors
        if errors:
            return [
                make_finding(
                    kind_of_error(error, "index-damaged"), "index", [bytes.fromhex(name)], str(error), dependents
                )
                for name, error in sorted(errors.items())
            ]
        if dependents is None:
            return []
        blob_ids = sorted(self._unnamed)
        one = len(blob_ids) == 1
        message = (
            f"{_blobs(len(blob_ids))} that snapshots need {'is' if one else 'are'} in no pack that the index names"
        )
        return [make_finding("blob-missing", "blob", blob_ids, message, dependents)]


def _blobs(number: int) -> str:
    return f"{number:,} blob{'s' if number != 1 else ''}"


def make_finding(
    kind: FindingKind,
    object_kind: ObjectWord,
    object_ids: Collection[bytes],
    message: str,
    dependents: Dependents | None = None,
) -> Finding:
    """A finding about some objects, of which it lists the first."""
    depending = dependents or Dependents()
    return Finding(
        kind=kind,
        object_kind=object_kind,
        object_ids=tuple(object_ids)[:LISTED],
        message=message,
        snapshots=tuple(depending.snapshots),
        files=tuple(sorted(depending.files)),
        files_count=depending.files_count,
    )
