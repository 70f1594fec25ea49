"""Repairing snapshots: a new one without what is lost for each that needs it. Plan, show, execute.

    lost content            the file is left out of the new snapshot, and named (see mending.py)
    lost directory          it is empty in the new snapshot
    snapshot damaged itself moved out of the repository on request: nobody can read it
    claim that is damaged   moved out: its backup, should it still run, finds it gone and makes sure of its snapshot

The new snapshot is tagged "repaired" and names its original. The originals stay, as a later backup that meets the lost
content makes them whole again; on request they are moved out, by way of the quarantine. What is of a newer version is
left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from bfrepo.core.errors import BackupForgeError, DamagedObject, StorageError, StorageObjectMissing, UnsupportedFormat
from bfrepo.core.ids import resolve_prefix
from bfrepo.core.progress import Reporter
from bfrepo.data.selection import find_snapshot
from bfrepo.data.snapshot import Snapshot, decode_claim
from bfrepo.operations.mending import LostPath, TreeMender
from bfrepo.operations.missing_packs import distrust_missing_packs
from bfrepo.operations.repair_index import LeftAlone
from bfrepo.operations.repair_packs import sound_inventory
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.succession import is_there, publish_successor, storing, successor
from bfrepo.repository.inventory import Inventory
from bfrepo.repository.quarantine import Quarantine
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind

REPAIRED_TAG: Final = "repaired"

_LISTED: Final = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotDamage:
    """A snapshot that lacks something.

    `lost` are the first 100,000 paths of it; `nothing_left` says that its root is among them. `successor` is the
    snapshot that an earlier repair has made of it.
    """

    id: bytes
    snapshot: Snapshot
    lost: tuple[LostPath, ...]
    nothing_left: bool
    successor: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRepairPlan:
    """What a repair of snapshots will do.

    `unreadable` are snapshots, `claims` are claims that are damaged themselves, with what is wrong with each. `forget`:
    damaged snapshots are moved out.
    """

    damaged: tuple[SnapshotDamage, ...]
    unreadable: Mapping[bytes, str]
    claims: Mapping[bytes, str]
    left: tuple[LeftAlone, ...]
    looked_at: int
    forget: bool
    mender: TreeMender = field(repr=False)

    @property
    def to_make(self) -> list[SnapshotDamage]:
        """Those that a new snapshot is made of."""
        return [each for each in self.damaged if not each.nothing_left and each.successor is None]

    @property
    def to_remove(self) -> list[bytes]:
        """The snapshots that are moved out."""
        return [*(each.id for each in self.damaged), *self.unreadable] if self.forget else []

    @property
    def does_nothing(self) -> bool:
        return not (self.to_make or self.to_remove or self.claims)


def plan_snapshot_repair(
    repository: Repository,
    chosen: Sequence[str],
    reporter: Reporter,
    cancelled: Callable[[], bool],
    *,
    forget: bool = False,
) -> SnapshotRepairPlan:
    """Find out what the snapshots that are `chosen`, or all, lack. The content of files is not read.

    `chosen` are IDs, starts of IDs, or such as `latest`. Raises DamagedObject when the index is damaged,
    UnsupportedFormat, StorageError, Interrupted, and what `find_snapshot` raises.
    """
    repository.doubt_cache()
    errors: dict[bytes, BackupForgeError] = {}
    snapshots = load_snapshots(repository, on_error=lambda name, error: errors.update({bytes.fromhex(name): error}))
    claims = _claim_errors(repository)
    for error in (*errors.values(), *claims.values()):
        if isinstance(error, StorageError):
            raise error
    inventory = sound_inventory(repository)
    mender = _make_mender(inventory, reporter, cancelled)
    wanted = {_find(text, snapshots, errors) for text in chosen} if chosen else snapshots.keys() | errors.keys()
    unreadable: dict[bytes, str] = {}
    left: list[LeftAlone] = []
    for identifier, error in errors.items():
        if identifier in wanted and isinstance(error, UnsupportedFormat):
            left.append(LeftAlone(identifier, str(error)))
        elif identifier in wanted:
            unreadable[identifier] = str(error)
    damaged: list[SnapshotDamage] = []
    for identifier, snapshot in snapshots.items():
        if identifier in wanted:
            try:
                if mender.find(snapshot.tree):
                    damaged.append(_describe(identifier, snapshot, snapshots, mender))
            except UnsupportedFormat as error:
                left.append(LeftAlone(identifier, str(error)))
    return SnapshotRepairPlan(
        damaged=tuple(damaged),
        unreadable=unreadable,
        claims={each: str(error) for each, error in claims.items() if isinstance(error, DamagedObject)},
        left=tuple(left),
        looked_at=len(wanted),
        forget=forget,
        mender=mender,
    )


def repair_snapshots(
    repository: Repository, plan: SnapshotRepairPlan, quarantine: Quarantine, reporter: Reporter
) -> dict[bytes, bytes]:
    """Do what the plan says; the new snapshots by their originals. The originals go when all new ones are there."""
    made = _make_snapshots(repository, plan, reporter) if plan.to_make else {}
    for identifier in plan.to_remove:
        quarantine.remove(repository.backend, ObjectKind.SNAPSHOT, identifier.hex())
    for claim in plan.claims:
        quarantine.remove(repository.backend, ObjectKind.CLAIM, claim.hex())
    return made


def _find(text: str, snapshots: Mapping[bytes, Snapshot], errors: Mapping[bytes, BackupForgeError]) -> bytes:
    if text.startswith("latest"):
        return find_snapshot(text, snapshots)
    return resolve_prefix(text, [*snapshots, *errors], what="snapshot")


def _claim_errors(repository: Repository) -> dict[bytes, BackupForgeError]:
    found: dict[bytes, BackupForgeError] = {}
    names = [info.name for info in repository.backend.list(ObjectKind.CLAIM)]
    for name, content in repository.objects.load_many(ObjectKind.CLAIM, names):
        if isinstance(content, StorageObjectMissing):
            continue  # its backup has ended
        try:
            if isinstance(content, BackupForgeError):
                raise content
            decode_claim(content, name=name)
        except BackupForgeError as error:
            found[bytes.fromhex(name)] = error
    return found


def _make_mender(inventory: Inventory, reporter: Reporter, cancelled: Callable[[], bool]) -> TreeMender:
    gone = inventory.missing()

    def is_gone(blob_id: bytes) -> bool:
        return bool(gone) and gone.issuperset(inventory.packs_of(blob_id))

    return TreeMender(inventory.loader, inventory.index.table, is_gone, reporter.progress, cancelled)


def _describe(
    identifier: bytes, snapshot: Snapshot, snapshots: Mapping[bytes, Snapshot], mender: TreeMender
) -> SnapshotDamage:
    wanted = _describe_new(identifier, snapshot, snapshot.tree)
    successors = (
        other
        for other, each in snapshots.items()
        if (each.original, each.time, set(each.tags)) == (wanted.original, wanted.time, set(wanted.tags))
        and other != identifier
        and not mender.find(each.tree)
    )
    return SnapshotDamage(
        id=identifier,
        snapshot=snapshot,
        lost=tuple(islice(mender.lost_paths(snapshot.tree), _LISTED)),
        nothing_left=mender.is_lost_altogether(snapshot.tree),
        successor=next(successors, None),
    )


def _describe_new(identifier: bytes, snapshot: Snapshot, tree: bytes) -> Snapshot:
    return successor(identifier, snapshot, tree=tree, tags=sorted({*snapshot.tags, REPAIRED_TAG}))


def _make_snapshots(repository: Repository, plan: SnapshotRepairPlan, reporter: Reporter) -> dict[bytes, bytes]:
    """Index, then a look whether the originals are still there, then the new ones: see succession.py."""
    index = repository.refresh_index()
    present = [damage for damage in plan.to_make if is_there(repository, damage.id)]
    distrust_missing_packs(repository, reporter)
    saver = repository.make_saver(storing(repository))
    made = {}
    try:
        trees = plan.mender.save_mended(saver, {damage.snapshot.tree for damage in present})
        saver.flush()
        for damage in present:
            new = _describe_new(damage.id, damage.snapshot, trees[damage.snapshot.tree])
            repository.index = index  # publishing may have gone on to a later one
            made[damage.id] = publish_successor(repository, damage.id, new, index.objects | saver.index_objects)
        return made
    finally:
        saver.close()
        repository.forget_index()
