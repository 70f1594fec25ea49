"""What a prune would do: which packs stay, which go and when, and what is worth copying. Nothing is changed here.

    live       needed in part      repacked if that gains enough for what it moves, else kept
               not needed          condemned: it goes when the grace time is over
    condemned  needed              the condemnations are taken back
               not needed          deleted once the grace time is over (doomed first, then looked at again)
    doomed     needed              a prune died before it looked: what is needed is copied out, then it is deleted
               not needed          deleted, by whoever finds it
    unnamed    in no index object: left by a crash, or a backup is writing them right now; as if not needed
    archived   not to be read without asking the archive and waiting: never copied, deleted like any other

Of what several packs have one copy is needed (repository/weighing.py). Before a live copy is given up the one that
stays is read, or damage would go unnoticed until it is all that is left.

All sizes are bytes as stored; the used part of a frame is its share by plaintext. docs/format.md ("Living together")
says why the steps make this safe; bfrepo/operations/prune.py takes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from bfrepo.core.errors import InvalidValue
from bfrepo.core.ids import BlobKind
from bfrepo.core.units import parse_size
from bfrepo.index.format import PackFlag, PackState
from bfrepo.index.marks import Marks
from bfrepo.index.table import BlobTable
from bfrepo.repository.weighing import PackUse, Weights

_PARTIAL_COST: Final = 3.0
"""How many times dearer it is to compress a byte anew than to move it as it is (zstd level 3, and AES)."""

_SMALL_PACKS: Final = 32
"""So many packs of less than a quarter of the usual size, of one kind, are joined: each costs requests and entries."""


@dataclass(frozen=True, slots=True)
class UnusedLimit:
    """How much may stay that nobody needs: `percent` of the repository's size, or `size` bytes; neither: anything."""

    percent: float | None = None
    size: int | None = None

    @classmethod
    def parse(cls, text: str) -> UnusedLimit:
        """From "5%", "10G" or "unlimited". Raises InvalidValue."""
        if text == "unlimited":
            return cls()
        if not text.endswith("%"):
            return cls(size=parse_size(text))
        try:
            percent = float(text[:-1])
        except ValueError:
            percent = -1
        if not 0 <= percent < 100:
            raise InvalidValue(f"{text!r} is not a percentage from 0% to 99%")
        return cls(percent=percent)

    def allowed(self, used: int) -> float:
        """Bytes that may stay unused beside `used` bytes."""
        if self.size is not None:
            return self.size
        if self.percent is not None:
            return used * self.percent / (100 - self.percent)
        return float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneLimits:
    """What a plan goes by. `grace` is how long a condemned pack stays, `most_repacked` is in bytes.

    `archived` packs cannot be read now, so nothing is copied out of them; they go when nobody needs anything of them.
    `spared` packs stay as they are, needed or not.
    """

    grace: timedelta
    max_unused: UnusedLimit
    max_repacked: int | None
    pack_size: int
    now: datetime
    archived: Collection[bytes] = frozenset()
    spared: Collection[bytes] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunePlan:
    """What is to be done, in the order in which it is done.

    `revive` are condemned packs that are needed, `rescue` doomed ones, `delete` goes now, `condemn` later, `repack` is
    copied and then goes too. `waiting` are condemned and within their grace time. `vanished` are named by the index and
    neither there nor needed; of these nobody has doomed those in `bury`. `suspicious` are damaged, and needed.
    `archived_unused` bytes are in archived packs, and stay for that reason alone.
    """

    total_size: int
    used: int
    duplicate: int
    unused: int
    packs: int
    revive: tuple[bytes, ...] = ()
    rescue: tuple[PackUse, ...] = ()
    delete: Mapping[bytes, int] = field(default_factory=dict)
    condemn: Mapping[bytes, int] = field(default_factory=dict)
    repack: tuple[PackUse, ...] = ()
    waiting: Mapping[bytes, int] = field(default_factory=dict)
    vanished: frozenset[bytes] = frozenset()
    bury: frozenset[bytes] = frozenset()
    suspicious: tuple[bytes, ...] = ()
    archived_unused: int = 0

    @property
    def repack_size(self) -> int:
        """Bytes of packs that are repacked."""
        return sum(pack.size for pack in self.repack)

    @property
    def moved(self) -> int:
        """Bytes that are copied, by what they take now."""
        return sum(pack.used for pack in (*self.repack, *self.rescue))

    @property
    def delete_size(self) -> int:
        """Bytes that go at once, before anything is copied."""
        return sum(self.delete.values())

    @property
    def condemn_size(self) -> int:
        """Bytes that go after the grace time."""
        return sum(self.condemn.values())

    @property
    def waiting_size(self) -> int:
        """Bytes that go when the grace time is over."""
        return sum(self.waiting.values())

    @property
    def size_after(self) -> int:
        """About how much there is when all of it is gone: also what waits for its grace time."""
        gained = sum(pack.unused for pack in (*self.repack, *self.rescue))
        return self.total_size - self.delete_size - self.condemn_size - self.waiting_size - gained

    def changes_anything(self) -> bool:
        """Whether there is anything to do now."""
        return bool(self.revive or self.rescue or self.delete or self.condemn or self.repack or self.vanished)


def copies_to_prove(plan: PrunePlan, weights: Weights, table: BlobTable, marks: Marks) -> dict[int, list[bytes]]:
    """Needed blobs of which a copy in a live pack is to go, and one in another pack to stay: those, by frame."""
    live = {pack.id for pack in weights.packs if pack.state is PackState.LIVE and pack.sound}
    going = live & {*plan.delete, *plan.condemn, *(pack.id for pack in plan.repack)}
    found: dict[int, list[bytes]] = {}
    for blob_id in table.duplicated() if going else ():
        stays, *others = (table.pack_of(place.frame) for place in table.copies(blob_id))
        if stays in live and not going.isdisjoint(others) and marks.is_needed(blob_id):
            found.setdefault(table.place(blob_id).frame, []).append(blob_id)
    return found


def make_plan(weights: Weights, flags: Mapping[bytes, Sequence[PackFlag]], limits: PruneLimits) -> PrunePlan:
    """What to do. `flags` are those that are not taken back, by pack."""
    work = _Planning(flags, limits)
    for pack in weights.packs:
        work.place(pack)
    for pack_id, size in weights.unnamed.items():
        work.place_unneeded(pack_id, size, _state_of(flags.get(pack_id, ())))
    kept = work.kept
    repack = _choose_repacks(kept, limits)
    everything = [pack for pack in weights.packs if pack.size]
    used = sum(pack.used for pack in everything)
    duplicate = sum(pack.duplicate for pack in everything)
    total = sum(pack.size for pack in everything) + sum(weights.unnamed.values())
    return PrunePlan(
        total_size=total, used=used, duplicate=duplicate, unused=max(total - used - duplicate, 0),
        packs=len(everything) + len(weights.unnamed), revive=tuple(work.revive), rescue=tuple(work.rescue),
        delete=work.delete, condemn=work.condemn, repack=tuple(repack), waiting=work.waiting,
        vanished=frozenset(work.vanished), bury=frozenset(work.bury),
        suspicious=tuple(pack.id for pack in kept if not pack.sound),
        archived_unused=sum(pack.unused for pack in kept if pack.id in limits.archived),
    )  # fmt: skip


class _Planning:
    """Puts each pack where it belongs."""

    def __init__(self, flags: Mapping[bytes, Sequence[PackFlag]], limits: PruneLimits) -> None:
        self._flags = flags
        self._limits = limits
        self.kept: list[PackUse] = []
        self.revive: list[bytes] = []
        self.rescue: list[PackUse] = []
        self.delete: dict[bytes, int] = {}
        self.condemn: dict[bytes, int] = {}
        self.waiting: dict[bytes, int] = {}
        self.vanished: set[bytes] = set()
        self.bury: set[bytes] = set()

    def place(self, pack: PackUse) -> None:
        """A pack that the index names."""
        if not pack.size:
            if not pack.needed:
                self.vanished.add(pack.id)
                if pack.state is not PackState.DOOMED:
                    self.bury.add(pack.id)
            return
        if pack.id in self._limits.spared and pack.state is PackState.LIVE:
            self.kept.append(pack)
        elif not pack.needed:
            self.place_unneeded(pack.id, pack.size, pack.state)
        elif pack.state is PackState.DOOMED and pack.id not in self._limits.archived:
            self.rescue.append(pack)
        else:
            self.kept.append(pack)
            if pack.state is PackState.CONDEMNED:
                self.revive.append(pack.id)

    def place_unneeded(self, pack_id: bytes, size: int, state: PackState) -> None:
        """A pack that nobody needs."""
        flags = self._flags.get(pack_id, ())
        if state is PackState.DOOMED or not self._limits.grace or _is_over(flags, self._limits):
            self.delete[pack_id] = size
        elif state is PackState.LIVE or not _has_begun(flags, self._limits.now):
            self.condemn[pack_id] = size
        else:
            self.waiting[pack_id] = size


def _is_over(flags: Iterable[PackFlag], limits: PruneLimits) -> bool:
    """Whether the grace time of a condemned pack is over, by any of its flags."""
    return any(limits.now - when >= limits.grace for when in _times(flags))


def _has_begun(flags: Iterable[PackFlag], now: datetime) -> bool:
    """Whether any condemnation is of the past. One of the future would keep the pack for long, so another is made."""
    return any(when <= now for when in _times(flags))


def _times(flags: Iterable[PackFlag]) -> list[datetime]:
    """When the flags were set. A time that makes no sense counts for nothing: safety does not rest on it."""
    found = []
    for flag in flags:
        try:
            when = datetime.fromisoformat(flag.time)
        except ValueError:
            continue
        if when.tzinfo is not None:
            found.append(when)
    return found


def _state_of(flags: Iterable[PackFlag]) -> PackState:
    """The state of a pack that no index object names."""
    states = {flag.state for flag in flags}
    return PackState.DOOMED if "doomed" in states else PackState.CONDEMNED if states else PackState.LIVE


def _choose_repacks(kept: Sequence[PackUse], limits: PruneLimits) -> list[PackUse]:
    """The packs whose copying gains most for what it costs, until little enough is unused; and many small ones."""
    fixed = {*limits.archived, *limits.spared}
    live = [pack for pack in kept if pack.state is PackState.LIVE and pack.id not in fixed]
    wasteful = sorted((pack for pack in live if pack.unused), key=lambda pack: (-pack.unused / _cost(pack), pack.id))
    unused = sum(pack.unused for pack in wasteful)
    allowed = limits.max_unused.allowed(sum(pack.used for pack in kept if pack.id not in fixed))
    budget = float("inf") if limits.max_repacked is None else limits.max_repacked
    chosen: dict[bytes, PackUse] = {}
    for pack in wasteful:
        if unused <= allowed:
            break
        if pack.used <= budget:
            chosen[pack.id] = pack
            budget -= pack.used
            unused -= pack.unused
    for pack in _small_packs(live, limits.pack_size):
        if pack.id not in chosen and pack.used <= budget:
            chosen[pack.id] = pack
            budget -= pack.used
    return list(chosen.values())


def _cost(pack: PackUse) -> float:
    return pack.used + (_PARTIAL_COST - 1) * pack.partial + 1


def _small_packs(live: Sequence[PackUse], pack_size: int) -> list[PackUse]:
    """Packs that are far below the usual size, of each kind where they are many."""
    small: list[PackUse] = []
    for kind in BlobKind:
        found = [pack for pack in live if pack.kind is kind and pack.size < pack_size // 4]
        if len(found) >= _SMALL_PACKS:
            small += found
    return small
