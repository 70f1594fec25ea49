"""Repairing the index from the packs, which say themselves what they hold (INV-6). Plan, show, execute.

    index object that is damaged        taken out; what it still gives, and all its flags that decode, is kept
    pack that no index object names     named again, when its directory opens
    pack that is described wrongly      described by its own directory, when the pack is proved to be whole
    entry of a pack that is gone        dropped, so that no backup relies on it

A pack that is damaged itself keeps its entry: `repair packs` needs it. What is of a newer version, or cannot be read
just now, stops the repair before anything is done. Runs beside backups and prunes: naming a pack that a backup is just
about to name is harmless, and no flag is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import (
    BackupForgeError,
    DamagedObject,
    Interrupted,
    StorageError,
    StorageObjectMissing,
    UnsupportedFormat,
)
from bfrepo.core.progress import Reporter
from bfrepo.index.format import PackEntry
from bfrepo.pack.reader import read_directory
from bfrepo.repository.index_edit import IndexChange, IndexEdit
from bfrepo.repository.inventory import CONTRADICTED, Inventory, take_inventory
from bfrepo.repository.quarantine import Quarantine
from bfrepo.repository.repository import Repository
from bfrepo.repository.verify import PackReading, PackSecrets, fingerprint
from bfrepo.storage.base import ObjectKind

_LEAST_THREADS: Final = 4


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A pack or snapshot that this repair does not touch, and why."""

    id: bytes
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRepairPlan:
    """What a repair of the index will do.

    `damaged` are index objects by name, with what is wrong with each. `named_again`, `corrected` and `gone` are pack
    IDs; `left` are damaged packs.
    """

    damaged: dict[str, str]
    named_again: tuple[bytes, ...]
    corrected: tuple[bytes, ...]
    gone: tuple[bytes, ...]
    left: tuple[LeftAlone, ...]
    entries: dict[bytes, PackEntry | None] = field(repr=False)

    @property
    def does_nothing(self) -> bool:
        return not (self.damaged or self.entries)


def plan_index_repair(
    repository: Repository, reporter: Reporter, cancelled: Callable[[], bool], *, read_all: bool = False
) -> IndexRepairPlan:
    """Compare the index with the packs; with `read_all` also with the directory of every pack.

    Raises UnsupportedFormat when an index object is of a newer version, StorageError, and Interrupted.
    """
    repository.doubt_cache()
    inventory = take_inventory(repository)
    refuse_unknown(inventory)
    return _Planning(repository, inventory, reporter, cancelled).plan(read_all=read_all)


def repair_index(repository: Repository, plan: IndexRepairPlan, quarantine: Quarantine) -> None:
    """Do what the plan says. Interrupted anywhere it leaves an index that says no less than before; run it again."""
    change = IndexChange(entries=plan.entries, damaged=plan.damaged.keys())
    IndexEdit(repository, change, quarantine).apply()
    repository.forget_index()


def refuse_unknown(inventory: Inventory) -> None:
    """Raise the error of an index object that is of a newer version or cannot be read: neither is damage."""
    for error in inventory.errors.values():
        if not isinstance(error, DamagedObject):
            raise error


class _Planning:
    """One comparison of the index with the packs."""

    def __init__(
        self, repository: Repository, inventory: Inventory, reporter: Reporter, cancelled: Callable[[], bool]
    ) -> None:
        self._repository = repository
        self._inventory = inventory
        self._progress = reporter.progress
        self._cancelled = cancelled
        self._left: list[LeftAlone] = []

    def plan(self, *, read_all: bool) -> IndexRepairPlan:
        inventory = self._inventory
        stored, named = inventory.stored, inventory.fingerprints
        unnamed = stored.keys() - named.keys()
        found = self._directories(sorted(stored.keys() - inventory.given_up() if read_all else unnamed))
        again = {pack: entry for pack, entry in found.items() if pack in unnamed and entry is not None}
        suspects = self._suspects() | {
            pack for pack, entry in found.items() if pack in named and _print_of(entry) != named[pack]
        }
        corrected = self._correct(suspects & stored.keys())
        gone = [pack for pack in sorted(inventory.missing()) if self._is_gone(pack)]
        return IndexRepairPlan(
            damaged={name: str(error) for name, error in sorted(inventory.errors.items())},
            named_again=tuple(again),
            corrected=tuple(corrected),
            gone=tuple(gone),
            left=tuple(self._left),
            entries={**again, **corrected, **dict.fromkeys(gone)},
        )

    def _suspects(self) -> set[bytes]:
        """Packs that the index itself shows to be described wrongly, or that are damaged."""
        contradicted = {pack for pack, said in self._inventory.fingerprints.items() if said == CONTRADICTED}
        return contradicted | self._inventory.wrong_sizes()

    def _directories(self, packs: list[bytes]) -> dict[bytes, PackEntry | None]:
        """What packs say of themselves; None for one whose directory does not open. Those gone by now are left out."""
        self._progress.files_total = len(packs)
        found: dict[bytes, PackEntry | None] = {}
        workers = max(self._repository.backend.connections, _LEAST_THREADS)
        with ThreadPoolExecutor(workers, thread_name_prefix="repair") as pool:
            for pack, entry in zip(packs, pool.map(self._read_entry, packs), strict=True):
                self._progress.files_done += 1
                if isinstance(entry, PackEntry):
                    found[pack] = entry
                    continue
                if isinstance(entry, DamagedObject):
                    found[pack] = None
                if pack not in self._inventory.fingerprints and not isinstance(entry, StorageObjectMissing):
                    self._left.append(LeftAlone(pack, str(entry)))
        return found

    def _read_entry(self, pack: bytes) -> PackEntry | BackupForgeError:
        if self._cancelled():
            raise Interrupted("stopped while reading the directories of packs")
        repository, size = self._repository, self._inventory.stored[pack]
        try:
            _, directory = read_directory(repository.backend, pack.hex(), size, repository.keys.pack_key, repository.id)
        except (DamagedObject, UnsupportedFormat, StorageError) as error:
            return error
        return PackEntry(id=pack, size=size, directory=directory.encode())

    def _correct(self, packs: Iterable[bytes]) -> dict[bytes, PackEntry]:
        """The right entries of packs that are whole; the others are left for `repair packs`."""
        return dict(self._prove({pack: self._inventory.stored[pack] for pack in sorted(packs)}))

    def _prove(self, packs: dict[bytes, int]) -> Iterator[tuple[bytes, PackEntry]]:
        """Read packs from end to end, as either the pack or the index is wrong."""
        repository = self._repository
        secrets = PackSecrets(repository.id, repository.keys.pack_key, repository.keys.blob_id_key)
        self._progress.bytes_total = sum(packs.values())
        with PackReading(
            repository.backend, secrets, packs, self._progress, self._cancelled, workers=native_threads()
        ) as reading:
            verdicts = reading.wait()
        for pack, verdict in sorted(verdicts.items()):
            if isinstance(verdict.problem, StorageObjectMissing):
                continue
            if not verdict.intact or verdict.problem is not None:
                reason = f"it is damaged itself: {verdict.problem}" if verdict.problem else "it is damaged itself"
                self._left.append(LeftAlone(pack, reason))
            elif verdict.fingerprint != self._inventory.fingerprints[pack]:
                entry = self._read_entry(pack)
                if isinstance(entry, PackEntry):
                    yield pack, entry

    def _is_gone(self, pack: bytes) -> bool:
        """Whether a pack that is not listed is really not there: a listing may have been wrong."""
        try:
            self._repository.backend.size(ObjectKind.PACK, pack.hex())
        except StorageObjectMissing:
            return True
        return False


def _print_of(entry: PackEntry | None) -> str:
    return "" if entry is None else fingerprint(entry.size, entry.directory)
