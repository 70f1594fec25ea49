"""Changing what the index says of some packs, beside whoever else reads and writes it.

No index object is altered (INV-3): those that say something else of these packs are joined in new ones, which have all
the rest of what they said, flags and all. The new ones are durable before the old ones go (docs/format.md, "Living
together"), and the old ones go by way of the quarantine. A crash in between leaves both: nothing is forgotten, and the
next repair ends it. As others merge index objects too, what they bring back meanwhile is looked for once more.

The doom of a pack that is there is never moved, as in merge.py: somebody who lists at this moment may see neither the
old object nor the new one, and rely on a pack that a prune is about to delete. Prunes write dooms into objects of their
own, so none has to be, but for a pack that came back after a merge; then a prune has to have it first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final

from bfrepo.core.errors import BackupForgeError, DamagedObject, StorageObjectMissing
from bfrepo.core.ids import short_id
from bfrepo.core.units import MIB
from bfrepo.index.format import IndexContent, PackEntry, PackFlag, decode_index, encode_index
from bfrepo.pack.format import decode_directory
from bfrepo.repository.inventory import list_packs
from bfrepo.repository.quarantine import Quarantine
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind

_MOST_ROUNDS: Final = 10
_BATCH: Final = 32 * MIB
"""Bytes of directories in one index object: a million blobs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexChange:
    """What is to be so afterwards.

    `entries`: what the index says of each of these packs, None for nothing. `damaged`: index objects that are known not
    to decode, or of which only some entries do; what they still give is kept. `flags` are added.
    """

    entries: Mapping[bytes, PackEntry | None]
    damaged: Set[str] = frozenset()
    flags: Sequence[PackFlag] = ()


@dataclass(slots=True)
class _Joined:
    """What the index objects say together that are to be replaced."""

    names: list[str] = field(default_factory=list)
    packs: dict[PackEntry, None] = field(default_factory=dict)
    flags: dict[bytes, PackFlag] = field(default_factory=dict)
    revoked: set[bytes] = field(default_factory=set)


class IndexEdit:
    """One change at work. Used by one thread."""

    def __init__(self, repository: Repository, change: IndexChange, quarantine: Quarantine) -> None:
        self._repository = repository
        self._change = change
        self._quarantine = quarantine
        self._seen: set[str] = set()
        self._revoked: set[bytes] = set()
        self._said: set[bytes] = set()  # packs that a standing index object describes as is wanted

    def apply(self) -> None:
        """Make the change.

        Raises DamagedObject for an index object that is damaged and not in `damaged`, UnsupportedFormat for one of a
        newer version, BackupForgeError where a doom would have to be moved, and StorageError; what was there is still
        there then.
        """
        flags = {flag.id: flag for flag in self._change.flags}
        for _ in range(_MOST_ROUNDS):
            joined = self._join()
            wanted = [entry for entry in self._change.entries.values() if entry and entry.id not in self._said]
            if not (joined.names or wanted or flags):
                return
            self._write([*joined.packs, *wanted], {**joined.flags, **flags}, joined.revoked)
            self._said.update(entry.id for entry in wanted)
            flags = {}
            for name in joined.names:
                self._quarantine.remove(self._repository.backend, ObjectKind.INDEX, name)
        raise BackupForgeError(
            f"other programs keep changing the index of {self._repository.location}", hint="try again in a while"
        )

    def _join(self) -> _Joined:
        """Read the index objects that are new, and keep those that have to go."""
        joined = _Joined()
        dooms: dict[bytes, str] = {}
        new = self._repository.index_names() - self._seen
        for name, stored in self._repository.objects.load_many(ObjectKind.INDEX, sorted(new)):
            self._seen.add(name)
            content = self._decode(name, stored)
            if content is None:
                continue
            self._revoked.update(content.revoked)
            if name not in self._change.damaged and not self._contradicts(content):
                self._said.update(entry.id for entry in content.packs if entry.id in self._change.entries)
                continue
            joined.names.append(name)
            joined.packs.update(dict.fromkeys(entry for entry in content.packs if self._is_kept(entry)))
            joined.flags.update({flag.id: flag for flag in content.flags})
            joined.revoked.update(content.revoked)
            dooms.update(dict.fromkeys([flag.id for flag in content.flags if flag.state == "doomed"], name))
        self._refuse_to_move(joined, {flag: dooms[flag] for flag in dooms.keys() - self._revoked})
        return joined

    def _refuse_to_move(self, joined: _Joined, dooms: Mapping[bytes, str]) -> None:
        """Raise BackupForgeError if a flag dooms a pack that is there. `dooms` has the name of the object of each."""
        stored = list_packs(self._repository) if dooms else {}
        for flag, name in dooms.items():
            if joined.flags[flag].pack in stored:
                raise BackupForgeError(
                    f"index {name[:8]} says that pack {short_id(joined.flags[flag].pack)} is about to be deleted, and "
                    "cannot be replaced before it is",
                    hint="run 'backupforge prune' first, then the repair again",
                )

    def _decode(self, name: str, stored: bytes | BackupForgeError) -> IndexContent | None:
        """What an index object says: nothing when it is damaged as expected, None when it is gone."""
        if isinstance(stored, StorageObjectMissing):
            return None  # merged by somebody into one that the next round reads
        try:
            if isinstance(stored, BackupForgeError):
                raise stored
            return decode_index(stored, name=name)
        except DamagedObject:
            if name not in self._change.damaged:
                raise
            return IndexContent()

    def _contradicts(self, content: IndexContent) -> bool:
        wanted = self._change.entries
        return any(entry.id in wanted and wanted[entry.id] != entry for entry in content.packs)

    def _is_kept(self, entry: PackEntry) -> bool:
        """Whether an entry of an index object that goes is to stand in the new one."""
        return entry.id not in self._change.entries and decodes(entry)

    def _write(self, packs: Sequence[PackEntry], flags: Mapping[bytes, PackFlag], revoked: Collection[bytes]) -> None:
        """Flags first: nobody may take for live what is about to be named beside them."""
        if flags or revoked:
            self._save(IndexContent(flags=list(flags.values()), revoked=sorted(revoked)))
        for entries in _batches(packs):
            self._save(IndexContent(packs=entries))

    def _save(self, content: IndexContent) -> None:
        self._seen.add(self._repository.objects.save(ObjectKind.INDEX, encode_index(content)))


def decodes(entry: PackEntry) -> bool:
    """Whether the directory in an entry makes sense. Raises UnsupportedFormat for one of a newer version."""
    try:
        decode_directory(entry.directory, pack=entry.id.hex()[:8])
    except DamagedObject:
        return False
    return True


def entries_of(repository: Repository, packs: Set[bytes]) -> dict[bytes, list[PackEntry]]:
    """All that the index objects say of some packs: entries that differ, each once.

    Raises DamagedObject or UnsupportedFormat when an index object cannot be read.
    """
    found: dict[bytes, list[PackEntry]] = {pack: [] for pack in packs}
    for name, stored in repository.objects.load_many(ObjectKind.INDEX, sorted(repository.index_names())):
        if isinstance(stored, StorageObjectMissing):
            continue
        if isinstance(stored, BackupForgeError):
            raise stored
        for entry in decode_index(stored, name=name).packs:
            if entry.id in packs and entry not in found[entry.id]:
                found[entry.id].append(entry)
    return found


def _batches(entries: Iterable[PackEntry]) -> Iterator[list[PackEntry]]:
    batch: list[PackEntry] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += len(entry.directory)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
