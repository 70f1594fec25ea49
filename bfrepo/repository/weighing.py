"""How much of each pack is needed, and which of several copies of a blob is the one that counts.

A blob that lies in several packs is needed in one of them: a live one that is there and whole, and of these the one
with most other use. Frames and packs are counted, never blobs: what is kept per blob is a byte in the marks.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import BlobPlace
from bfrepo.index.format import PackState
from bfrepo.index.marks import Marks
from bfrepo.index.table import BlobTable, PackInfo

_UNSOUND_RANK: Final = 3
_MISSING_RANK: Final = 4


@dataclass(slots=True)
class PackUse:
    """How much of a pack is needed. `size` is what the storage has, 0 if it is not there.

    `used` counts what is needed here, `duplicate` what is needed and kept elsewhere, `partial` the used bytes in frames
    that are used in part.
    """

    id: bytes
    size: int
    kind: BlobKind
    state: PackState
    frames: range
    used: int = 0
    duplicate: int = 0
    partial: int = 0
    needed: bool = False
    sound: bool = True

    @property
    def unused(self) -> int:
        """Bytes that a copy of what is used would not take."""
        return max(self.size - self.used, 0)


@dataclass(frozen=True, slots=True)
class Weights:
    """What is needed, pack by pack. `unnamed` are the packs that no index object names, with their sizes."""

    packs: list[PackUse]
    unnamed: dict[bytes, int]
    frame_used: array[int]
    """Bytes of plaintext that are needed of each frame."""


def weigh(
    table: BlobTable, marks: Marks, stored: Mapping[bytes, int], damaged: Collection[bytes] = frozenset()
) -> Weights:
    """How much of each pack is needed. `stored` are the packs there are, with their sizes, `damaged` some of them.

    Changes which copy of a blob the table uses: from then on the best one.
    """
    packs = [_pack_use(pack, stored.get(pack.id), damaged) for pack in table.packs()]
    ranks = {pack.id: _rank(pack) for pack in packs}
    many = [blob_id for blob_id in table.duplicated() if marks.is_needed(blob_id)]
    used = marks.needed_sizes()
    duplicates = _choose_copies(table, many, used, ranks)
    for pack in packs:
        _weigh_pack(pack, table, used, duplicates)
    named = {pack.id for pack in packs}
    return Weights(packs, {pack: size for pack, size in stored.items() if pack not in named}, used)


def _pack_use(pack: PackInfo, stored: int | None, damaged: Collection[bytes]) -> PackUse:
    sound = stored == pack.size and pack.id not in damaged
    return PackUse(pack.id, stored or 0, pack.kind, pack.state, pack.frames, sound=sound)


def _rank(pack: PackUse) -> int:
    """How little one may rely on the pack: as its state says; least where it is not as it was written, or not there."""
    if not pack.sound:
        return _UNSOUND_RANK if pack.size else _MISSING_RANK
    return pack.state


def _choose_copies(
    table: BlobTable, blob_ids: Sequence[bytes], used: array[int], ranks: Mapping[bytes, int]
) -> dict[int, int]:
    """Of each blob that is in several places use the best; bytes of plaintext in each frame that are duplicates."""
    duplicates: dict[int, int] = {}
    weight: dict[bytes, int] = {}
    for blob_id in blob_ids:
        current = table.place(blob_id)
        used[current.frame] -= current.size or 1
    for blob_id in blob_ids:
        places = table.copies(blob_id)
        best = _best_copy(places, ranks, weight, table, used)
        table.use_copy(blob_id, best)
        used[best.frame] += best.size or 1
        pack_id = table.pack_of(best.frame)
        if pack_id in weight:
            weight[pack_id] += best.size
        for place in places:
            if place != best:
                duplicates[place.frame] = duplicates.get(place.frame, 0) + place.size
    return duplicates


def _best_copy(
    places: Sequence[BlobPlace],
    ranks: Mapping[bytes, int],
    weight: dict[bytes, int],
    table: BlobTable,
    used: array[int],
) -> BlobPlace:
    """The copy in the pack of the lowest rank; of several such the one whose pack has most other use."""
    packs = [table.pack_of(place.frame) for place in places]
    least = min([ranks[pack_id] for pack_id in packs])
    best = [(pack_id, place) for pack_id, place in zip(packs, places, strict=True) if ranks[pack_id] == least]
    if len(best) == 1:
        return best[0][1]
    return min(best, key=lambda each: (-_weight(each[0], weight, table, used), each[0]))[1]


def _weight(pack_id: bytes, weight: dict[bytes, int], table: BlobTable, used: array[int]) -> int:
    """Bytes of a pack that are needed, as far as it is decided."""
    if pack_id not in weight:
        pack = table.pack(pack_id)
        weight[pack_id] = sum(used[pack.frames.start : pack.frames.stop]) if pack else 0
    return weight[pack_id]


def _weigh_pack(pack: PackUse, table: BlobTable, used: array[int], duplicates: Mapping[int, int]) -> None:
    stored, plain = table.frame_sizes(pack.frames)
    mine = used[pack.frames.start : pack.frames.stop]
    pack.needed = any(mine)
    if pack.needed and mine == plain:
        pack.used = pack.size
        return
    for number, stored_size, plain_size, used_size in zip(pack.frames, stored, plain, mine, strict=True):
        share = stored_size / max(plain_size, 1)
        if used_size:
            pack.used += round(used_size * share)
            pack.partial += round(used_size * share) if used_size != plain_size else 0
        if number in duplicates:
            pack.duplicate += round(duplicates[number] * share)
    frames = max(sum(stored), 1)
    pack.used = min(round(pack.used * max(pack.size / frames, 1)), pack.size)  # with its share of head and directory


def wanted_after_all(weights: Weights, table: BlobTable, marks: Marks) -> set[bytes]:
    """The packs that may not be deleted: each that holds a needed blob of which no live pack has a copy."""
    live = {pack.id for pack in weights.packs if pack.state is PackState.LIVE and pack.sound}
    wanted = {pack.id for pack in weights.packs if pack.needed}
    others = {pack.id for pack in weights.packs if pack.id not in live}
    for blob_id, _ in table.frames_in(table.duplicated(), others):  # weighing prefers live packs
        packs = {table.pack_of(place.frame) for place in table.copies(blob_id)}
        if not packs & live and marks.is_needed(blob_id):
            wanted |= packs
    return wanted
