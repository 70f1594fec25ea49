"""What the index says and what the storage has, taken anew and side by side, with all that cannot be read.

Whoever opens a repository stops at the first index object that is damaged, and trusts the cache. A check does neither.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final

from bfrepo.core.errors import BackupForgeError, Interrupted, StorageObjectMissing
from bfrepo.index.format import IndexContent, PackState, decode_index
from bfrepo.index.index import Index
from bfrepo.repository.loader import Loader
from bfrepo.repository.repository import Repository
from bfrepo.repository.verify import fingerprint
from bfrepo.storage.base import ObjectKind

_MOST_LISTINGS: Final = 5

CONTRADICTED: Final = "contradicted"
"""In place of the fingerprint of a pack that two index objects describe differently."""


@dataclass(slots=True)
class Inventory:
    """`index` and `loader` know what could be read, `errors` the index objects that could not, by name.

    `fingerprints` are what the index says of each pack (see `verify.fingerprint`), `stored` the packs that the storage
    lists, with their sizes in bytes.
    """

    index: Index
    loader: Loader
    stored: dict[bytes, int]
    fingerprints: dict[bytes, str] = field(default_factory=dict)
    errors: dict[str, BackupForgeError] = field(default_factory=dict)

    def missing(self) -> set[bytes]:
        """Packs that the index names and the storage does not have."""
        return self.fingerprints.keys() - self.stored.keys()

    def wrong_sizes(self) -> set[bytes]:
        """Packs that are there with another size than the index says."""
        named = ((pack.id, pack.size) for pack in self.index.table.packs())
        return {pack for pack, size in named if self.stored.get(pack, size) != size}

    def unnamed(self) -> set[bytes]:
        """Packs that no index object names; none while some index object cannot be read, as it may name them."""
        return set() if self.errors else self.stored.keys() - self.fingerprints.keys()

    def leaving(self) -> set[bytes]:
        """Packs that are condemned or doomed."""
        return {pack.id for pack in self.index.table.packs() if pack.state is not PackState.LIVE}

    def given_up(self) -> set[bytes]:
        """Packs that a repair has given up: they are there, hold nothing by the index, and wait to be deleted."""
        return {pack.id for pack in self.index.table.packs() if not pack.blobs and pack.state is not PackState.LIVE}

    def packs_of(self, blob_id: bytes) -> list[bytes]:
        """The packs that hold a blob, the one that is read first at the front."""
        table = self.index.table
        return [table.pack_of(copy.frame) for copy in table.copies(blob_id)]

    def is_readable(self, blob_id: bytes) -> bool:
        """Whether any copy of a blob can be read, found out by reading it."""
        try:
            self.loader.load(self.index.table.kind_of(self.loader.place(blob_id).frame), blob_id)
        except BackupForgeError:
            return False
        return True


def list_packs(repository: Repository) -> dict[bytes, int]:
    """The packs that the storage has, with their sizes in bytes. Raises StorageError."""
    return {bytes.fromhex(info.name): info.size for info in repository.backend.list(ObjectKind.PACK)}


def take_inventory(repository: Repository, *, settled: bool = True) -> Inventory:
    """Read every index object, then list the packs. Raises StorageError when listing fails.

    Index objects come and go while others back up and prune; those that vanish stand merged in new ones, which are read
    too. `settled` asks once more whether there are none that the first listing had not: it may have been made while
    others merged, and nothing must be deleted by what it says. Who only looks can do without.
    """
    index = Index()
    inventory = Inventory(index, repository.make_loader(index), {})
    gone: dict[str, BackupForgeError] = {}
    for _ in range(_MOST_LISTINGS):
        new = repository.index_names() - index.objects - inventory.errors.keys()
        if not new:
            break
        gone.clear()
        for name, content in repository.objects.load_many(ObjectKind.INDEX, sorted(new)):
            if isinstance(content, StorageObjectMissing):
                gone[name] = content
                continue
            try:
                if isinstance(content, BackupForgeError):
                    raise content
                _add(inventory, name, decode_index(content, name=name))
            except BackupForgeError as error:
                inventory.errors[name] = error
        if not (settled or gone):
            break
    else:
        inventory.errors.update(gone)  # listed every time, and never there
    index.apply_flags()
    inventory.stored = list_packs(repository)
    return inventory


def _add(inventory: Inventory, name: str, content: IndexContent) -> None:
    """Take in one index object. Raises DamagedObject or UnsupportedFormat at the first pack that makes no sense."""
    for entry in content.packs:
        known = inventory.fingerprints.get(entry.id)
        found = fingerprint(entry.size, entry.directory)
        inventory.index.add(name, IndexContent(packs=[entry]))
        inventory.fingerprints[entry.id] = found if known in (None, found) else CONTRADICTED
    inventory.index.add(name, IndexContent(flags=content.flags, revoked=content.revoked))


def lost_blobs(inventory: Inventory, packs: Collection[bytes], cancelled: Callable[[], bool]) -> dict[bytes, bytes]:
    """The blobs that the index has in `packs` and nowhere can be read, each with its pack. Raises Interrupted."""
    table, loader = inventory.index.table, inventory.loader
    frames = {frame: pack.id for pack in table.packs() if pack.id in packs for frame in pack.frames}
    wanted: dict[int, list[bytes]] = defaultdict(list)
    for blob_id, place in table.blobs():
        if place.frame in frames:
            wanted[place.frame].append(blob_id)
    lost: dict[bytes, bytes] = {}
    for frame in sorted(wanted):
        if cancelled():
            raise Interrupted("stopped while looking for what is lost")
        lost.update(dict.fromkeys(_unreadable(loader, frame, wanted[frame]), frames[frame]))
    return lost


def _unreadable(loader: Loader, frame: int, blob_ids: list[bytes]) -> set[bytes]:
    unread = set(blob_ids)
    try:
        for blob_id, data in loader.read_frame(frame, blob_ids):
            if not isinstance(data, BackupForgeError):
                unread.discard(blob_id)
    except BackupForgeError:
        return (
            unread  # the storage failed, or the pack is of a newer version: what was not read by then is out of reach
        )
    return unread
