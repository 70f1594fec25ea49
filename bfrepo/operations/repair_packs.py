"""Repairing packs: what is intact in a damaged one is copied to new packs, the rest is given up. Plan, show, execute.

    plan      read packs from end to end; of those that are damaged prove every blob, frame by frame
    copy      every blob that is proved joins a new pack, unless a pack that was proved in this run has it
    flag      the damaged packs are doomed, so that nobody counts on them any more
    look      is what was copied still in live packs? A prune that looked before the flag may have chosen to keep the
              damaged pack and not the copy; then it is copied again
    give up   the index names the damaged pack as one that holds nothing, for a prune to delete; a pack that is gone is
              no longer named

From then on the repository does not claim to hold what was lost. So the next backup that meets the same content stores
it again, and the old snapshots are whole. This is what a prune does to a pack (docs/format.md, "Living together"), so
it is as safe beside backups and prunes. Cut off anywhere it has lost nothing, and can be run again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import BackupForgeError, Interrupted, UnsupportedFormat
from bfrepo.core.ids import BlobKind, resolve_prefix
from bfrepo.core.progress import Reporter
from bfrepo.index.format import PackEntry, PackFlag, PackState
from bfrepo.operations.diagnosis import Fault, judge_pack
from bfrepo.operations.repair_index import LeftAlone
from bfrepo.pack.format import PackDirectory
from bfrepo.repository.index_edit import IndexChange, IndexEdit, entries_of
from bfrepo.repository.inventory import Inventory, take_inventory
from bfrepo.repository.quarantine import Quarantine
from bfrepo.repository.remains import PackRemains
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import SaverOptions
from bfrepo.repository.verify import PackReading, PackSecrets, PackVerdict

_MOST_LOOKS: Final = 5
_GIVEN_UP: Final = frozenset({"pack-missing", "pack-damaged", "blob-damaged"})
"""The faults that this repairs: the others are of the index, or no damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackDamage:
    """A pack that is to be given up, with what it should hold.

    `saved` are the blobs that are proved, together `saved_size` bytes of plaintext; `lost` those that are nowhere else.
    `stored` is its size in bytes, None when it is gone.
    """

    id: bytes
    reason: str
    kind: BlobKind
    stored: int | None
    blobs: int
    saved: frozenset[bytes] = field(repr=False)
    saved_size: int
    lost: frozenset[bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRepairPlan:
    """What a repair of packs will do. `proved` are the IDs of the packs that were read and are whole."""

    damaged: tuple[PackDamage, ...]
    left: tuple[LeftAlone, ...]
    proved: frozenset[bytes] = field(repr=False)

    @property
    def does_nothing(self) -> bool:
        return not self.damaged

    @property
    def lost(self) -> set[bytes]:
        """The blobs that no pack has any more."""
        return {blob_id for damage in self.damaged for blob_id in damage.lost}


def plan_pack_repair(
    repository: Repository, chosen: Sequence[str], reporter: Reporter, cancelled: Callable[[], bool]
) -> PackRepairPlan:
    """Read the packs that are `chosen` by the start of their IDs, or all; find out what can be saved of damaged ones.

    Raises DamagedObject when the index is damaged, UnsupportedFormat, StorageError, Interrupted, and what
    `resolve_prefix` raises.
    """
    repository.doubt_cache()
    return _Planning(repository, sound_inventory(repository), reporter, cancelled).plan(chosen)


def repair_packs(
    repository: Repository,
    plan: PackRepairPlan,
    quarantine: Quarantine,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    *,
    workers: int | None = None,
) -> None:
    """Do what the plan says."""
    copying = _Copying(repository, plan, reporter, cancelled, workers or native_threads())
    copying.copy_what_is_missing()
    now = repository.clock.now().isoformat()
    there = [damage.id for damage in plan.damaged if damage.stored is not None]
    flags = [PackFlag(id=os.urandom(16), state="doomed", pack=pack, time=now) for pack in there]
    IndexEdit(repository, IndexChange(entries={}, flags=flags), quarantine).apply()
    for _ in range(_MOST_LOOKS):
        if not copying.copy_what_is_missing():
            break
    else:
        raise BackupForgeError(
            f"other programs keep deleting what is saved in {repository.location}",
            hint="run the repair again when no prune without grace time is running",
        )
    entries = {damage.id: _empty_entry(damage) for damage in plan.damaged}
    IndexEdit(repository, IndexChange(entries=entries), quarantine).apply()
    repository.forget_index()


def _empty_entry(damage: PackDamage) -> PackEntry | None:
    """What the index says of a pack that is given up: it is there, and holds nothing."""
    if damage.stored is None:
        return None
    return PackEntry(id=damage.id, size=damage.stored, directory=PackDirectory.empty(damage.kind).encode())


def sound_inventory(repository: Repository) -> Inventory:
    """What the index says and the storage has. Raises what is wrong with the first index object that cannot be read."""
    inventory = take_inventory(repository)
    for error in inventory.errors.values():
        error.hint = error.hint or "run 'backupforge repair index' first"
        raise error
    return inventory


class _Copying:
    """Copies what is intact in the damaged packs."""

    def __init__(
        self,
        repository: Repository,
        plan: PackRepairPlan,
        reporter: Reporter,
        cancelled: Callable[[], bool],
        workers: int,
    ) -> None:
        self._repository = repository
        self._packs = {each.id: each.stored for each in plan.damaged if each.stored is not None and each.saved}
        self._wanted = frozenset[bytes]().union(*(each.saved for each in plan.damaged))
        self._trusted = set(plan.proved)
        self._progress = reporter.progress
        self._cancelled = cancelled
        config = repository.config
        self._storing = SaverOptions(config.compression, config.pack_size, workers)

    def copy_what_is_missing(self) -> bool:
        """Store what no trusted live pack of the index of now holds; whether there was anything. Raises Interrupted."""
        inventory = sound_inventory(self._repository)
        index, table = inventory.index, inventory.index.table
        known = {info.id for info in table.packs()}
        for pack in known - (self._trusted & inventory.stored.keys()):
            table.set_state(pack, PackState.DOOMED)
        table.prefer_live()
        if all(map(table.holds, self._wanted)):
            return False
        entries = entries_of(self._repository, self._packs.keys())
        self._repository.index = index
        saver = self._repository.make_saver(self._storing)
        try:
            for pack, size in self._packs.items():
                for kind, _, blob in PackRemains(self._repository, pack, size, entries[pack]).blobs():
                    if self._cancelled():
                        raise Interrupted("stopped while copying what is intact", hint="nothing was given up")
                    saver.save(kind, blob)
                    self._progress.bytes_done += len(blob)
            saver.flush()
        finally:
            saver.close()
            self._repository.forget_index()
        self._trusted.update(info.id for info in table.packs() if info.id not in known)
        return True


class _Planning:
    """One search for damage."""

    def __init__(
        self, repository: Repository, inventory: Inventory, reporter: Reporter, cancelled: Callable[[], bool]
    ) -> None:
        self._repository = repository
        self._inventory = inventory
        self._progress = reporter.progress
        self._cancelled = cancelled
        self._left: list[LeftAlone] = []

    def plan(self, chosen: Sequence[str]) -> PackRepairPlan:
        inventory = self._inventory
        wanted = inventory.stored.keys() | inventory.missing()
        if chosen:
            wanted = {resolve_prefix(prefix, wanted, what="pack") for prefix in chosen}
        wanted -= inventory.given_up()
        verdicts = self._read({pack: size for pack, size in inventory.stored.items() if pack in wanted})
        faults: dict[bytes, Fault] = dict.fromkeys(wanted & inventory.missing(), ("pack-missing", "is missing"))
        for pack, verdict in verdicts.items():
            fault = judge_pack(pack, verdict, inventory)
            if fault is not None:
                faults[pack] = fault
        proved = frozenset(verdicts.keys() - faults.keys())
        found = self._examine(faults, verdicts)
        saved = {blob_id for damage, _ in found for blob_id in damage.saved}
        given_up = {damage.id for damage, _ in found}
        nowhere: set[bytes] = set()
        for _, named in found:
            nowhere.update(each for each in named - saved if not self._is_elsewhere(each, given_up, proved))
        damaged = (replace(damage, lost=frozenset(named & nowhere)) for damage, named in found)
        return PackRepairPlan(damaged=tuple(damaged), left=tuple(self._left), proved=proved)

    def _read(self, packs: dict[bytes, int]) -> dict[bytes, PackVerdict]:
        repository = self._repository
        secrets = PackSecrets(repository.id, repository.keys.pack_key, repository.keys.blob_id_key)
        self._progress.bytes_total = sum(packs.values())
        with PackReading(
            repository.backend, secrets, packs, self._progress, self._cancelled, workers=native_threads()
        ) as reading:
            return reading.wait()

    def _examine(
        self, faults: Mapping[bytes, Fault], verdicts: Mapping[bytes, PackVerdict]
    ) -> list[tuple[PackDamage, set[bytes]]]:
        """What is left of the packs that are to be given up, and all the blobs that each of them should hold."""
        entries = entries_of(self._repository, faults.keys())
        found = []
        for pack, (kind, reason) in sorted(faults.items()):
            if kind not in _GIVEN_UP:
                self._left.append(LeftAlone(pack, reason))
                continue
            stored = None if kind == "pack-missing" else self._inventory.stored[pack]
            remains = PackRemains(self._repository, pack, stored or 0, entries[pack])
            damage = self._save(remains, pack, reason, stored)
            problem = verdicts[pack].problem if pack in verdicts else None
            if isinstance(problem, UnsupportedFormat) and not damage.saved:
                self._left.append(LeftAlone(pack, f"{reason}; what this program knows of it does not open"))
            elif not (remains.blob_ids or pack in self._inventory.fingerprints):
                self._left.append(LeftAlone(pack, f"{reason}; nobody knows what it should hold; a prune removes it"))
            else:
                found.append((damage, remains.blob_ids))
        return found

    def _save(self, remains: PackRemains, pack: bytes, reason: str, stored: int | None) -> PackDamage:
        saved: set[bytes] = set()
        size = 0
        for _, blob_id, blob in remains.blobs():
            if self._cancelled():
                raise Interrupted("stopped while looking for what is intact")
            saved.add(blob_id)
            size += len(blob)
        return PackDamage(
            id=pack,
            reason=reason,
            kind=remains.kind,
            stored=stored,
            blobs=len(remains.blob_ids),
            saved=frozenset(saved),
            saved_size=size,
            lost=frozenset(),
        )

    def _is_elsewhere(self, blob_id: bytes, given_up: Collection[bytes], proved: Collection[bytes]) -> bool:
        """Whether another pack has the blob: one that was proved, or one that gives it when it is read now."""
        others = [pack for pack in self._inventory.packs_of(blob_id) if pack not in given_up]
        return any(pack in proved for pack in others) or (bool(others) and self._inventory.is_readable(blob_id))
