"""Joining index objects, and leaving out packs that are gone, beside whoever else reads and writes the index.

The new objects are written before the old ones go, so what is known is always in one of them; who finds one gone lists
again. Large objects that hold nothing to leave out stay as they are, and no new one grows beyond some 32 MiB.

What happens to flags:
- A doom of a pack that is there is never moved: its object stays until the pack is gone. Another prune, or a backup,
  may list while objects are joined, and see neither the old nor the new one; of all things it must not miss that.
- The doom of a pack that is gone outlives its entry by a month, one flag of some 60 bytes for each. A merge that began
  earlier may bring the entry back, and a backup that began earlier may rely on the pack. Safety does not rest on that
  month, which ends by a clock: whoever looks, prune or backup, lists the packs after the index, and takes none for
  granted that is not there.
- What is taken back goes together with its revocation. Should an older merge bring it back alone, a pack is condemned
  or doomed once more, which at worst has its blobs copied.

Each merge writes 16 random bytes as a revocation of nothing. So no new object is ever the same as an old one, where
nothing is encrypted, and whoever compares two listings sees that something happened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from bfrepo.core.errors import StorageObjectMissing
from bfrepo.core.units import KIB, MIB
from bfrepo.index.format import FLAG_ID_SIZE, IndexContent, PackEntry, PackFlag, encode_index
from bfrepo.index.index import Index
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind

_OBJECT_SIZE: Final = 32 * MIB
"""Bytes of directories in one index object: about a million blobs."""

_SMALL: Final = 256 * KIB
_MOST_SMALL: Final = 16
"""When more objects than that take less than `_SMALL` bytes, they are joined although nothing is to be left out."""

_READ_AT_ONCE: Final = 16

_TOMBSTONE_STAYS: Final = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Merged:
    """How many index objects became how many."""

    replaced: int = 0
    written: int = 0


def merge_index(repository: Repository, index: Index) -> Merged:
    """Join index objects where it is worth it. `index` is what was read last. Raises StorageError."""
    flags = index.active_flags()
    stored = {bytes.fromhex(info.name) for info in repository.backend.list(ObjectKind.PACK)}
    gone = {pack_id for pack_id, of_pack in flags.items() if _dooms(of_pack) and pack_id not in stored}
    listed = repository.backend.list(ObjectKind.INDEX)
    sizes = {info.name: info.size for info in listed if info.name in index.objects}  # whose flags are known
    small = {name for name, size in sizes.items() if size < _SMALL}
    if not _names_any(index, gone) and len(small) <= _MOST_SMALL:
        return Merged()
    merge = _Merge(repository, index, gone, stored)
    try:
        return merge.run(sorted(sizes), small)
    except StorageObjectMissing:
        return Merged()  # somebody else is merging: one is enough, and what was written twice does no harm


def drop_condemnations(repository: Repository, index: Index) -> int:
    """Delete the index objects that hold nothing but condemnations, to make room where there is none; how many.

    Their packs are live again, which is always safe, and condemned once more by a later prune. Raises StorageError.
    """
    listed = repository.backend.list(ObjectKind.INDEX)
    small = sorted(info.name for info in listed if info.size < _SMALL and info.name in index.objects)
    dropped = 0
    for name, content in repository.read_index(small):
        only_condemns = content.flags and not (content.packs or content.revoked or _dooms(content.flags))
        if only_condemns:
            repository.backend.delete(ObjectKind.INDEX, name)
            dropped += 1
    return dropped


def _dooms(flags: Iterable[PackFlag]) -> bool:
    return any(flag.state == "doomed" for flag in flags)


def _names_any(index: Index, packs: AbstractSet[bytes]) -> bool:
    return any(index.table.pack(pack) is not None for pack in packs)


@dataclass(slots=True)
class _Merge:
    """One merge at work."""

    repository: Repository
    index: Index
    gone: AbstractSet[bytes]
    stored: AbstractSet[bytes]
    replaced: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    packs: list[PackEntry] = field(default_factory=list)
    size: int = 0
    flags: dict[bytes, PackFlag] = field(default_factory=dict)
    revoked: set[bytes] = field(default_factory=set)

    def run(self, names: Sequence[str], small: AbstractSet[str]) -> Merged:
        for name, content in self._read(names):
            if self._stays(content) or not (name in small or self._concerns(content)):
                continue
            self.replaced.append(name)
            self.flags.update({flag.id: flag for flag in content.flags})
            self.revoked.update(content.revoked)
            for entry in content.packs:
                self._take(entry)
        self._write(self._kept_flags(), self._kept_revocations())
        for name in self.replaced:
            self.repository.backend.delete(ObjectKind.INDEX, name)
        return Merged(len(self.replaced), len(self.written))

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, IndexContent]]:
        """A few at a time: all of them together may take gigabytes."""
        for at in range(0, len(names), _READ_AT_ONCE):
            yield from self.repository.read_index(names[at : at + _READ_AT_ONCE])

    def _stays(self, content: IndexContent) -> bool:
        """Whether it dooms a pack that is there."""
        return any(
            flag.state == "doomed" and flag.pack in self.stored and flag.id not in self.index.revoked
            for flag in content.flags
        )

    def _concerns(self, content: IndexContent) -> bool:
        return bool(content.flags or content.revoked) or any(entry.id in self.gone for entry in content.packs)

    def _take(self, entry: PackEntry) -> None:
        if entry.id in self.gone or entry.id in self.seen:
            return
        self.seen.add(entry.id)
        self.packs.append(entry)
        self.size += len(entry.directory)
        if self.size >= _OBJECT_SIZE:
            self._write([], [])

    def _write(self, flags: list[PackFlag], revoked: list[bytes]) -> None:
        content = IndexContent(packs=self.packs, flags=flags, revoked=[*revoked, os.urandom(FLAG_ID_SIZE)])
        self.written.append(self.repository.objects.save(ObjectKind.INDEX, encode_index(content)))
        self.packs, self.size = [], 0

    def _kept_flags(self) -> list[PackFlag]:
        """All that still say something: of a pack that is gone, one doom, for a while."""
        kept: dict[bytes, PackFlag] = {}
        now = self.repository.clock.now()
        for flag in self.flags.values():
            if flag.id in self.index.revoked:
                continue
            if flag.pack not in self.gone:
                kept[flag.id] = flag
            elif flag.state == "doomed" and not _lapsed(flag, now):
                kept[flag.pack] = flag
        return list(kept.values())

    def _kept_revocations(self) -> list[bytes]:
        """Those of flags that are in objects that stay."""
        elsewhere = self.index.flags.keys() - self.flags.keys()
        return sorted(self.revoked & elsewhere)


def _lapsed(flag: PackFlag, now: datetime) -> bool:
    try:
        when = datetime.fromisoformat(flag.time)
    except ValueError:
        return False
    return when.tzinfo is not None and now - when > _TOMBSTONE_STAYS
