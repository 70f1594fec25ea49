"""Whether a set of objects is a whole repository, quickly enough to ask it of millions of sets (INV-1, INV-8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from bfrepo.core.errors import DamagedObject
from bfrepo.data.references import reachable
from bfrepo.data.snapshot import decode_claim, decode_snapshot
from bfrepo.index.format import decode_index
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.pack.reader import read_directory
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import Backend, ObjectKind
from tests.support.interleavings import Objects
from tests.support.repositories import reopen
from tests.support.restoring import restored

_PARTS = (ObjectKind.SNAPSHOT, ObjectKind.PACK, ObjectKind.INDEX)


class Wholeness:
    """Judges sets of objects: every blob of every snapshot must be in a pack that is there and that the index names.

    What a snapshot needs and a pack holds is found out once, by the real code, and kept as sets of bits.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._blobs: dict[bytes, int] = {}
        self._known: dict[int, int] = {}
        self._verdicts: dict[int, str] = {}

    def __call__(self, present: int) -> str:
        """What is wrong, or nothing."""
        masks = self._objects.masks
        present &= masks[_PARTS[0]] | masks[_PARTS[1]] | masks[_PARTS[2]]
        verdict = self._verdicts.get(present)
        if verdict is None:
            verdict = self._verdicts[present] = self._judge(present)
        return verdict

    def _judge(self, present: int) -> str:
        named = 0
        for index in self._objects.among(present, ObjectKind.INDEX):
            named |= self._look(index)
        held = 0
        for pack in self._objects.among(present & named, ObjectKind.PACK):
            held |= self._look(pack)
        for snapshot in self._objects.among(present, ObjectKind.SNAPSHOT):
            lost = self._look(snapshot) & ~held
            if lost:
                return f"snapshot {self._objects.names[snapshot][1][:8]} has lost {lost.bit_count()} blobs"
        return ""

    def _look(self, number: int) -> int:
        """The blobs that a snapshot needs or a pack holds, the packs that an index object names."""
        known = self._known.get(number)
        if known is None:
            kind, name = self._objects.names[number]
            read = {ObjectKind.SNAPSHOT: self._needed, ObjectKind.PACK: self._held, ObjectKind.INDEX: self._named}[kind]
            known = self._known[number] = read(reopen(self._objects.everything()), name)
        return known

    def _needed(self, repository: Repository, name: str) -> int:
        snapshot = decode_snapshot(repository.objects.load(ObjectKind.SNAPSHOT, name), name=name)
        return self._set(blob_id for _, blob_id in reachable(repository.loader, snapshot.tree))

    def _held(self, repository: Repository, name: str) -> int:
        size = repository.backend.size(ObjectKind.PACK, name)
        _, directory = read_directory(repository.backend, name, size, repository.keys.pack_key, repository.id)
        ids = bytes(directory.blob_ids)
        return self._set(ids[at : at + 32] for at in range(0, len(ids), 32))

    def _named(self, repository: Repository, name: str) -> int:
        content = decode_index(repository.objects.load(ObjectKind.INDEX, name), name=name)
        packs = {self._objects.number(ObjectKind.PACK, entry.id.hex()) for entry in content.packs}
        return sum(1 << number for number in packs)

    def _set(self, blob_ids: Iterable[bytes]) -> int:
        return sum(1 << self._blobs.setdefault(blob_id, len(self._blobs)) for blob_id in set(blob_ids))


def lost(disk: Backend, models: Sequence[Mapping[str, bytes]]) -> list[str]:
    """What is wrong with the snapshots there are, each of which must restore to one of the models."""
    repository = reopen(disk)
    wrong = []
    for identifier, snapshot in load_snapshots(repository).items():
        try:
            if restored(repository.loader, snapshot.tree) not in models:
                wrong.append(f"{identifier.hex()[:8]} restores to something else")
        except DamagedObject as error:
            wrong.append(f"{identifier.hex()[:8]}: {error}")
    return wrong


def unreferenced(disk: Backend) -> set[str]:
    """The packs that hold nothing which a snapshot, or the claim of a backup that died, needs."""
    repository = reopen(disk)
    needed = {
        blob_id
        for snapshot in load_snapshots(repository).values()
        for _, blob_id in reachable(repository.loader, snapshot.tree)
    }
    for info in disk.list(ObjectKind.CLAIM):
        claim = decode_claim(repository.objects.load(ObjectKind.CLAIM, info.name), name=info.name)
        with suppress(DamagedObject):
            for _, blob_id in reachable(repository.loader, claim.tree):
                needed.add(blob_id)
    table = repository.index.table
    useful = {table.pack_of(place.frame).hex() for blob_id in needed for place in table.copies(blob_id)}
    return {info.name for info in disk.list(ObjectKind.PACK)} - useful
