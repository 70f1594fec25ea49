"""A prune as the design describes it ("Living together" in docs/format.md), with as little else as possible.

It condemns, dooms and deletes in one run, without a grace time, and merges the index at its end. What it may rely on is
only what the format promises; it is here so that backups can be tested against it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.data.references import content_ids, list_blobs, reachable, walk_trees
from bfrepo.data.snapshot import decode_claim
from bfrepo.index.format import IndexContent, PackEntry, PackFlag, PackState, encode_index
from bfrepo.index.index import Index
from bfrepo.index.table import BlobTable
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.loader import Loader
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.repository.saver import Saver
from bfrepo.storage.base import Backend, ObjectKind
from tests.support.repositories import PASSWORD, FakeClock, saver_options


@dataclass
class _View:
    """What a look at the repository shows: what is needed, and who holds it."""

    index: Index
    loader: Loader
    needed: dict[bytes, BlobKind]
    claimed: set[bytes]
    """What only claims need: it may be gone, and then the backup that claims it finds out, or is dead."""

    def packs(self, state: PackState) -> list[bytes]:
        return [pack.id for pack in self.index.table.packs() if pack.state is state]

    def state(self, pack_id: bytes) -> PackState | None:
        pack = self.index.table.pack(pack_id)
        return None if pack is None else pack.state

    def holders(self, blob_id: bytes, state: PackState) -> set[bytes]:
        table = self.index.table
        packs = {table.pack_of(copy.frame) for copy in table.copies(blob_id)}
        return {pack_id for pack_id in packs if self.state(pack_id) is state}

    def only_in(self, state: PackState) -> dict[bytes, set[bytes]]:
        """Needed blobs with no copy in a pack of a better state, and the packs of this one that hold them."""
        better = [each for each in PackState if each < state]
        found = {blob_id: self.holders(blob_id, state) for blob_id in self.needed}
        return {
            blob_id: packs
            for blob_id, packs in found.items()
            if packs and not any(self.holders(blob_id, each) for each in better)
        }

    def flags(self, packs: Iterable[bytes], state: str) -> list[bytes]:
        """The IDs of the flags that say this of these packs and are not taken back."""
        active = self.index.active_flags()
        return [flag.id for pack_id in packs for flag in active.get(pack_id, ()) if flag.state == state]


@dataclass(frozen=True)
class Faults:
    """What a prune can get wrong; each must lose data in some interleaving, or the tests prove nothing."""

    ignores_claims: bool = False
    snapshots_before_claims: bool = False
    no_look_after_doom: bool = False
    forgets_dooms: bool = False


class Prune:
    """One prune. `name` makes its flags its own."""

    def __init__(
        self,
        backend: Backend,
        name: str,
        *,
        repack: bool = False,
        merge: bool = True,
        faults: Faults | None = None,
    ) -> None:
        self._repository: Repository = open_repository(backend, FakeClock(), lambda: PASSWORD)
        self._name = name
        self._flags = count(1)
        self._repack = repack
        self._merges = merge
        self._faults = faults or Faults()

    def run(self) -> None:
        """All of it."""
        self._condemn(self._look())
        doomed = self._doom(self._look())
        deleted = self._delete(doomed)
        if deleted and self._merges:
            self._merge(deleted)

    def _look(self) -> _View:
        """Claims, then snapshots (a backup writes its snapshot before it drops its claim), then the index."""
        if self._faults.snapshots_before_claims:
            snapshots = self._snapshots()
            claims = self._claims()
        else:
            claims = self._claims()
            snapshots = self._snapshots()
        index = self._repository.fresh_index()
        loader = self._repository.make_loader(index)
        needed = {blob_id: kind for root in sorted(snapshots) for kind, blob_id in reachable(loader, root)}
        claimed = {blob_id: kind for root in sorted(claims) for blob_id, kind in _still_reachable(loader, root)}
        return _View(index, loader, claimed | needed, claimed.keys() - needed.keys())

    def _claims(self) -> set[bytes]:
        if self._faults.ignores_claims:
            return set()
        backend, objects = self._repository.backend, self._repository.objects
        roots = set()
        for name, content in objects.load_many(
            ObjectKind.CLAIM, [each.name for each in backend.list(ObjectKind.CLAIM)]
        ):
            if isinstance(content, bytes):
                roots.add(decode_claim(content, name=name).tree)
        return roots

    def _snapshots(self) -> set[bytes]:
        return {snapshot.tree for snapshot in load_snapshots(self._repository).values()}

    def _condemn(self, view: _View) -> None:
        """Keep one live copy of what is needed, and take back what would leave none."""
        revived = self._save_what_is_needed(view)
        kept: set[bytes] = set()
        held: set[bytes] = set()
        live = view.packs(PackState.LIVE)
        content = {pack_id: _blobs_in(view.index.table, pack_id) for pack_id in live}
        for pack_id in live:
            new = (content[pack_id] & view.needed.keys()) - held
            if new:
                kept.add(pack_id)
                held |= new
        if self._repack:
            wasteful = {pack_id for pack_id in kept if content[pack_id] - view.needed.keys()}
            self._copy(view, [blob for pack_id in sorted(wasteful) for blob in content[pack_id] & view.needed.keys()])
            kept -= wasteful
        self._write(
            flags=[self._flag(pack_id, "condemned") for pack_id in live if pack_id not in kept], revoked=revived
        )

    def _doom(self, view: _View) -> dict[bytes, bytes]:
        """Doom what is condemned and still not needed; also what another doomed and left. The flags by pack."""
        revived = self._save_what_is_needed(view)
        wanted = {pack_id for state in (PackState.CONDEMNED, PackState.DOOMED)
                  for packs in view.only_in(state).values() for pack_id in packs}  # fmt: skip
        leaving = [*view.packs(PackState.CONDEMNED), *view.packs(PackState.DOOMED)]
        flags = [self._flag(pack_id, "doomed") for pack_id in leaving if pack_id not in wanted]
        self._write(flags=flags, revoked=revived)
        return {flag.pack: flag.id for flag in flags}

    def _delete(self, doomed: dict[bytes, bytes]) -> set[bytes]:
        """Look again, and delete what is still not needed; the doom of the rest is taken back."""
        if not doomed:
            return set()
        wanted: set[bytes] = set()
        if not self._faults.no_look_after_doom:
            view = self._look()
            better = (PackState.LIVE,)
            for blob_id in view.needed:
                if not any(view.holders(blob_id, state) for state in better):
                    wanted |= view.holders(blob_id, PackState.DOOMED) | view.holders(blob_id, PackState.CONDEMNED)
        self._write(flags=[], revoked=[flag for pack_id, flag in doomed.items() if pack_id in wanted])
        deleted = doomed.keys() - wanted
        for pack_id in sorted(deleted):
            self._repository.backend.delete(ObjectKind.PACK, pack_id.hex())
        return deleted

    def _merge(self, deleted: set[bytes]) -> None:
        """One index object for all, without the packs that are gone: written before the others go.

        The doom of a pack that is gone stays: a merge that another prune began before may bring the entry back, and
        nobody may take it for a live pack then.
        """
        names = sorted(self._repository.index_names())
        read = [content for _, content in self._repository.read_index(names)]
        revoked = {flag_id for content in read for flag_id in content.revoked}
        packs = {entry.id: entry for content in read for entry in content.packs if entry.id not in deleted}
        flags = {flag.id: flag for content in read for flag in content.flags if flag.id not in revoked}
        if self._faults.forgets_dooms:
            flags = {flag_id: flag for flag_id, flag in flags.items() if flag.pack not in deleted}
        new = self._write(list(packs.values()), list(flags.values()), sorted(revoked), always=True)
        for name in names:
            if name != new:
                self._repository.backend.delete(ObjectKind.INDEX, name)

    def _save_what_is_needed(self, view: _View) -> list[bytes]:
        """Copy what is only in doomed packs; the condemnations to take back where that is all there is."""
        self._copy(view, view.only_in(PackState.DOOMED))
        packs = {pack_id for packs in view.only_in(PackState.CONDEMNED).values() for pack_id in packs}
        return view.flags(sorted(packs), "condemned")

    def _copy(self, view: _View, blobs: Iterable[bytes]) -> None:
        wanted = sorted(blobs)
        if not wanted:
            return
        repository = self._repository
        saver = Saver(
            repository.backend, BlobTable(), repository.objects, repository.blob_hash, repository.keys.pack_key,
            repository.id, FakeClock(), saver_options(repository),
        )  # fmt: skip
        try:
            for blob_id in wanted:
                kind = view.needed[blob_id]
                try:
                    saver.save(kind, view.loader.load(kind, blob_id))
                except DamagedObject:
                    if blob_id not in view.claimed:
                        raise
            saver.flush()
        finally:
            saver.close()

    def _flag(self, pack_id: bytes, state: str) -> PackFlag:
        flag_id = f"{self._name} {next(self._flags)}".encode().ljust(16, b".")
        return PackFlag(id=flag_id, state="doomed" if state == "doomed" else "condemned", pack=pack_id, time="now")

    def _write(
        self,
        packs: list[PackEntry] | None = None,
        flags: list[PackFlag] | None = None,
        revoked: list[bytes] | None = None,
        *,
        always: bool = False,
    ) -> str | None:
        if not (always or packs or flags or revoked):
            return None
        content = IndexContent(packs=packs or [], flags=flags or [], revoked=revoked or [])
        return self._repository.objects.save(ObjectKind.INDEX, encode_index(content))


def _still_reachable(loader: Loader, root: bytes) -> Iterator[tuple[bytes, BlobKind]]:
    """What a claim relies on, as far as it is there. What is gone already its backup finds gone when it looks, after
    it wrote the claim; and if that backup is dead, its claim must not stop every prune until it lapses.
    """
    for tree in walk_trees(loader, root, set()):
        yield tree.tree_id, BlobKind.TREE
        yield from ((part_id, BlobKind.TREE) for part_id in tree.part_ids)
        for node in tree.nodes:
            with suppress(DamagedObject):
                yield from ((blob_id, BlobKind.TREE) for blob_id in list_blobs(loader, node))
                yield from ((blob_id, BlobKind.DATA) for blob_id in content_ids(loader, node))


def _blobs_in(table: BlobTable, pack_id: bytes) -> set[bytes]:
    return {blob_id for blob_id, _ in table.blobs() if any(held == pack_id for held in _packs_of(table, blob_id))}


def _packs_of(table: BlobTable, blob_id: bytes) -> Iterator[bytes]:
    return (table.pack_of(copy.frame) for copy in table.copies(blob_id))
