"""What a look at the repository shows: who needs what, what the index says, and which packs there are.

The order is part of the protocol (docs/format.md, "Living together"): claims, snapshots, index, packs. Looks add up, so
that the next one walks only trees that are new: what a snapshot needs that is forgotten meanwhile stays marked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import BackupForgeError, DamagedObject, StorageError, StorageObjectMissing
from bfrepo.core.progress import Progress
from bfrepo.data.snapshot import Claim, Snapshot, decode_claim, decode_snapshot
from bfrepo.index.marks import BY_CLAIM, BY_SNAPSHOT, Marks
from bfrepo.operations.marking import Marker
from bfrepo.repository.inventory import list_packs
from bfrepo.repository.loader import Loader
from bfrepo.repository.repository import Repository
from bfrepo.repository.weighing import Weights
from bfrepo.storage.base import ObjectKind

CLAIM_LAPSES: Final = timedelta(days=7)
"""A claim of a backup that died keeps what it needs for so long.

Safety does not rest on it: a backup that finds its own claim gone looks whether its snapshot is whole.
"""

_MOST_LISTINGS: Final = 20
_MOST_LOOKS: Final = 5

_MOST_ASKED_FOR: Final = 64
"""Snapshots that are asked for although they were not listed, those of the latest first: each is a request."""


class Observer:
    """Looks, again and again, and remembers. Used by one thread.

    With `removes_claims` claims that have lapsed, or that nobody can read, are removed before they are ignored: then
    their backup, should it still run, notices. `forgotten` are snapshots that count as if they were not there.
    """

    def __init__(
        self,
        repository: Repository,
        progress: Progress,
        cancelled: Callable[[], bool],
        *,
        removes_claims: bool,
        forgotten: Collection[bytes] = (),
    ) -> None:
        self._repository = repository
        self._progress = progress
        self._cancelled = cancelled
        self._removes_claims = removes_claims
        self._forgotten = {identifier.hex() for identifier in forgotten}
        self.index = repository.fresh_index()
        self.marks = Marks(self.index.table)
        self.loader: Loader = repository.make_loader(self.index)
        self.stored: dict[bytes, int] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._listed: set[str] = set()
        self._claims: dict[str, Claim] = {}

    @property
    def snapshots(self) -> int:
        """How many snapshots were there at the last look."""
        return len(self._snapshots)

    def look(self) -> None:
        """Take in what is new.

        Raises DamagedObject or UnsupportedFormat for a snapshot, or an index object, that cannot be read, or something
        that a snapshot needs; StorageError when anything cannot be listed; Interrupted.
        """
        for _ in range(_MOST_LOOKS):
            try:
                self._look()
                return
            except DamagedObject:
                # What is missing may be that of a snapshot which somebody removed and pruned in this moment.
                if not self._is_outdated():
                    raise
                self.marks = Marks(self.index.table)
        raise StorageError(f"{self._repository.location} keeps changing while it is read", hint="try again in a while")

    def _is_outdated(self) -> bool:
        names = {info.name for info in self._repository.backend.list(ObjectKind.SNAPSHOT)}
        return names != self._listed or self._index_names() != self.index.objects

    def _look(self) -> None:
        claims = self._list_claims()
        snapshots = self._list_snapshots()
        self.read_index()
        self.stored = list_packs(self._repository)
        self._repository.fetch_trees(self.index, self._cancelled)
        if self.index.table is not self.marks.table:  # others joined index objects: it was read anew
            self.marks = Marks(self.index.table)
            self.loader = self._repository.make_loader(self.index)
        self.marks.grow()
        connections = self._repository.backend.connections
        threads = max(native_threads(), connections) if connections > 1 else 1
        marker = Marker(
            self.marks, self.loader, self._repository.blob_hash, self._progress, self._cancelled, threads=threads
        )
        marker.mark(snapshots, BY_SNAPSHOT)
        marker.mark(claims, BY_CLAIM)

    def read_index(self) -> None:
        """Take in the index as it is now."""
        self.index.refresh(self._index_names, self._repository.read_index, remember=False)

    def lost_packs(self, weights: Weights) -> list[bytes]:
        """The packs that a snapshot needs, and no other has it, and that are not there."""
        missing = {pack.id for pack in weights.packs if pack.needed and not pack.size}
        if not missing:
            return []
        lost = set()
        for position in self.marks.needed():
            blob_id, place = self.index.table.at(position)
            pack = self.index.table.pack_of(place.frame)
            if pack in missing and self.marks.why(blob_id) & BY_SNAPSHOT:
                lost.add(pack)
        return sorted(lost)

    def hidden_snapshot(self) -> str | None:
        """A snapshot that is there and was not listed, by its name.

        Where one is known to have been, from those that came after it and from claims, the storage is asked for it.
        """
        latest = sorted(self._snapshots.values(), key=lambda snapshot: snapshot.when, reverse=True)
        known = [snapshot.parent.hex() for snapshot in latest if snapshot.parent]
        known += [claim.snapshot.hex() for claim in self._claims.values()]
        seen = self._snapshots.keys() | self._forgotten
        for name in [name for name in dict.fromkeys(known) if name not in seen][:_MOST_ASKED_FOR]:
            with suppress(StorageObjectMissing):
                self._repository.backend.size(ObjectKind.SNAPSHOT, name)
                return name
        return None

    def _index_names(self) -> set[str]:
        """The index objects, by two listings that agree.

        During one listing others may join objects, and it may show neither the old nor the new one.
        """
        names = self._repository.index_names()
        for _ in range(_MOST_LISTINGS):
            before, names = names, self._repository.index_names()
            if names == before:
                return names
        raise StorageError(f"the index of {self._repository.location} keeps changing", hint="try again in a while")

    def _list_snapshots(self) -> list[bytes]:
        """The trees of all snapshots there are."""
        names = {info.name for info in self._repository.backend.list(ObjectKind.SNAPSHOT)}
        if self._snapshots and not names:
            raise StorageError(
                f"{self._repository.location} shows no snapshot any more, and had {len(self._snapshots)} a moment ago",
                hint="if somebody has removed them all, run it again",
            )
        self._listed = names
        names = names - self._forgotten
        known = {name: snapshot for name, snapshot in self._snapshots.items() if name in names}
        for name, content in self._repository.objects.load_many(ObjectKind.SNAPSHOT, sorted(names - known.keys())):
            if isinstance(content, StorageObjectMissing):
                continue  # forgotten by somebody since it was listed
            if isinstance(content, BackupForgeError):
                raise content
            known[name] = decode_snapshot(content, name=name)
        self._snapshots = known
        return [snapshot.tree for snapshot in known.values()]

    def _list_claims(self) -> list[bytes]:
        """The trees of all claims there are."""
        names = {info.name for info in self._repository.backend.list(ObjectKind.CLAIM)}
        known = {name: claim for name, claim in self._claims.items() if name in names}
        for name, content in self._repository.objects.load_many(ObjectKind.CLAIM, sorted(names - known.keys())):
            if isinstance(content, StorageObjectMissing):
                continue  # its backup is done, and its snapshot is listed next
            claim = self._read_claim(name, content)
            if claim is not None:
                known[name] = claim
        self._claims = known
        return [claim.tree for claim in known.values()]

    def _read_claim(self, name: str, content: bytes | BackupForgeError) -> Claim | None:
        """A claim, or None if it is not to be kept. Raises UnsupportedFormat and StorageError."""
        try:
            if isinstance(content, BackupForgeError):
                raise content
            claim = decode_claim(content, name=name)
        except DamagedObject:
            self._drop_claim(name)
            return None
        if self._repository.clock.now() - datetime.fromisoformat(claim.time) > CLAIM_LAPSES:
            self._drop_claim(name)
            return None
        return claim

    def _drop_claim(self, name: str) -> None:
        """Remove a claim, durably, before anything is done that it forbids."""
        if self._removes_claims:
            self._repository.backend.delete(ObjectKind.CLAIM, name)
