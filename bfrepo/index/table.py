"""The index in memory: where every blob is, in one compact hash table and a few arrays; no Python object per blob.

A blob takes 44 bytes and its share of the hash table, about 55 in all (_places.c); a frame 17; a pack about 50. Frames
are numbered in the order their packs were added, so ordering by frame number reads each pack from front to back. Safe
to use from several threads: each change is one call into the table under the interpreter's lock, and packs are added
under a lock of their own.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import IO, Final

from bfrepo.compression import Codec
from bfrepo.core.errors import DamagedObject, MissingBlob
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.protocols import BlobPlace, Buffer
from bfrepo.index._places import PlaceMap
from bfrepo.index.format import PackState
from bfrepo.pack.format import HEAD_SIZE, PackDirectory

_PLACE = struct.Struct("<III")
_PENDING: Final = 0xFFFF_FFFF
_RESERVED = _PLACE.pack(_PENDING, 0, 0)
_ENTRY = struct.Struct(f"{ID_SIZE}s{_PLACE.size}s")
_HEADER = struct.Struct("<QII")
_COUNT = struct.Struct("<Q")
_BATCH: Final = 65536
"""So many blobs at a time are written to the cache and read from it."""


@dataclass(frozen=True, slots=True)
class FramePlace:
    """Where a frame is and how to open it: the pack's name, its number there, and the range of stored bytes."""

    pack: str
    kind: BlobKind
    number: int
    offset: int
    stored_size: int
    plain_size: int
    codec: Codec


@dataclass(frozen=True, slots=True)
class PackInfo:
    """What the index knows of a pack."""

    id: bytes
    size: int
    kind: BlobKind
    state: PackState
    frames: range
    blobs: int


class BlobTable:
    """Blobs, frames and packs, and how to get from one to the other."""

    def __init__(self) -> None:
        self._blobs = PlaceMap()
        self._copies: dict[bytes, list[bytes]] = {}
        self._frame_packs = array("I")
        self._frame_offsets = array("I")
        self._frame_stored = array("I")
        self._frame_plain = array("I")
        self._frame_codecs = bytearray()
        self._pack_numbers: dict[bytes, int] = {}
        self._pack_ids: list[bytes] = []
        self._pack_sizes = array("Q")
        self._pack_blobs = array("I")
        self._pack_first = array("I")
        self._pack_kinds = bytearray()
        self._pack_states = bytearray()
        self._any_leaving = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._blobs)

    def __contains__(self, blob_id: bytes) -> bool:
        return blob_id in self._blobs

    def holds(self, blob_id: bytes) -> bool:
        """Whether a live pack holds the blob, or it was reserved to be stored."""
        if not self._any_leaving:
            return blob_id in self._blobs
        value = self._blobs.get(blob_id)
        return value is not None and (value == _RESERVED or self._is_live(value))

    def reserve(self, blob_id: bytes) -> bool:
        """Whether the blob has yet to be stored, in which case the caller now must store it.

        A blob counts as stored when a live pack holds it, or when it was reserved before.
        """
        return self.reserve_many((blob_id,))[0]

    def reserve_many(self, blob_ids: Iterable[bytes]) -> list[bool]:
        """As `reserve`, one after the other: of two that are the same, the first is to be stored."""
        blobs, answers = self._blobs, []
        with self._lock:
            for blob_id in blob_ids:
                value = blobs.get(blob_id)
                wanted = value is None or not (value == _RESERVED or self._is_live(value))
                if wanted:
                    if value is not None:
                        self._copies.setdefault(blob_id, []).append(value)
                    blobs.set(blob_id, _RESERVED)
                answers.append(wanted)
        return answers

    def add_pack(self, pack_id: bytes, size: int, directory: PackDirectory, state: PackState = PackState.LIVE) -> None:
        """Take in a pack and all its blobs. A pack that is there already is left as it is."""
        with self._lock:
            if pack_id in self._pack_numbers:
                return
            first = self._add_frames(pack_id, size, directory, state)
            self._add_blobs(first, directory)

    def place(self, blob_id: bytes) -> BlobPlace:
        """Where the blob is; one that is being stored again is where it was. Raises MissingBlob if no pack has it."""
        value = self._blobs.get(blob_id)
        if value == _RESERVED:
            value = next(iter(self._copies.get(blob_id, ())), None)
        if value is None:
            raise MissingBlob(
                f"blob {short_id(blob_id)} is in no pack that the index names",
                hint="run 'backupforge check' to see what depends on it",
            )
        return BlobPlace(*_PLACE.unpack(value))

    def size(self, blob_id: bytes) -> int:
        """Bytes of the blob's plaintext. Raises MissingBlob."""
        return self.place(blob_id).size

    def data_sizes(self, blob_ids: Sequence[bytes]) -> list[int]:
        """See BlobSizes."""
        numbers = self._numbers(blob_ids)
        frames, sizes = numbers[::3], numbers[2::3]
        others = {frame for frame in set(frames) if frame == _PENDING or self.kind_of(frame) is not BlobKind.DATA}
        return [-1 if frame in others else size for frame, size in zip(frames, sizes, strict=True)]

    def copies(self, blob_id: bytes) -> list[BlobPlace]:
        """Every place the blob is in, the one that is used first at the front."""
        first = self._blobs.get(blob_id)
        values = [first] if first is not None and first != _RESERVED else []
        return [BlobPlace(*_PLACE.unpack(value)) for value in values + self._copies.get(blob_id, [])]

    def position(self, blob_id: bytes) -> int:
        """A blob's number in this table, which it keeps for as long as the table lives. Raises KeyError."""
        return self._blobs.position(blob_id)

    def at(self, position: int) -> tuple[bytes, BlobPlace]:
        """The blob with that number, and the place that is used. Raises IndexError."""
        blob_id, value = self._blobs.at(position)
        return blob_id, BlobPlace(*_PLACE.unpack(value))

    def places_at(self, positions: Iterable[int]) -> Iterator[tuple[int, int]]:
        """The frame and the size of each blob by its number, at the place that is used."""
        for position in positions:
            frame, _, size = _PLACE.unpack(self._blobs.at(position)[1])
            yield frame, size

    def mark(self, packed_ids: Buffer, marks: bytearray, bits: int) -> list[bytes]:
        """Set bits in the marks of blobs, a byte for each by its number; the IDs, of these, that are not known."""
        return self._blobs.mark(packed_ids, marks, bits)

    def mark_new(self, packed_ids: Buffer, marks: bytearray, bits: int, unless: int) -> tuple[list[int], list[bytes]]:
        """As `mark`, but for blobs that have any bit of `unless`; the numbers of those marked, the IDs not known."""
        return self._blobs.mark_new(packed_ids, marks, bits, unless)

    def marked_sizes(self, marks: bytearray, bits: int) -> array[int]:
        """For each frame, the bytes of its blobs whose marks have any of `bits`; an empty blob counts one."""
        sums = array("I", bytes(4 * self.frames))
        self._blobs.add_sizes(marks, bits, sums)
        return sums

    def frames_in(self, blob_ids: Sequence[bytes], packs: Container[bytes]) -> Iterator[tuple[bytes, int]]:
        """Of some blobs those whose place in use is in one of `packs`, each with its frame."""
        frames = self._numbers(blob_ids)[::3]
        wanted = {frame for frame in set(frames) if frame != _PENDING and self.pack_of(frame) in packs}
        return ((blob_id, frame) for blob_id, frame in zip(blob_ids, frames, strict=True) if frame in wanted)

    def duplicated(self) -> list[bytes]:
        """The blobs that are in several places."""
        return list(self._copies)

    def use_copy(self, blob_id: bytes, place: BlobPlace) -> None:
        """Use this one of the blob's copies from now on."""
        current, wanted = self._blobs.get(blob_id), _PLACE.pack(place.frame, place.offset, place.size)
        if current is not None and current != wanted:
            values = self._copies[blob_id]
            values[values.index(wanted)] = current
            self._blobs.set(blob_id, wanted)

    @property
    def frames(self) -> int:
        """How many frames there are: their numbers are below it."""
        return len(self._frame_packs)

    def frame_sizes(self, frames: range) -> tuple[Sequence[int], Sequence[int]]:
        """Of frames that follow one another: bytes they take in their packs, and bytes of plaintext."""
        return self._frame_stored[frames.start : frames.stop], self._frame_plain[frames.start : frames.stop]

    def frame(self, number: int) -> FramePlace:
        """Where a frame is."""
        pack = self._frame_packs[number]
        return FramePlace(
            pack=self._pack_ids[pack].hex(),
            kind=BlobKind(self._pack_kinds[pack]),
            number=number - self._pack_first[pack],
            offset=self._frame_offsets[number],
            stored_size=self._frame_stored[number],
            plain_size=self._frame_plain[number],
            codec=Codec(self._frame_codecs[number]),
        )

    def pack_of(self, frame: int) -> bytes:
        """The ID of the pack that holds a frame."""
        return self._pack_ids[self._frame_packs[frame]]

    def packs(self) -> Iterator[PackInfo]:
        """Every pack, in the order of their frames."""
        for pack_id, number in list(self._pack_numbers.items()):
            yield self._pack_info(pack_id, number)

    def pack(self, pack_id: bytes) -> PackInfo | None:
        """One pack, if the index names it."""
        number = self._pack_numbers.get(pack_id)
        return None if number is None else self._pack_info(pack_id, number)

    def blobs(self) -> Iterator[tuple[bytes, BlobPlace]]:
        """Every blob with the place that is used, in the order in which they came."""
        for ids, places in self._rows():
            for at, place in enumerate(_PLACE.iter_unpack(places)):
                yield ids[at * ID_SIZE : (at + 1) * ID_SIZE], BlobPlace(*place)

    def kind_of(self, frame: int) -> BlobKind:
        """Whether a frame holds data or trees."""
        return BlobKind(self._pack_kinds[self._frame_packs[frame]])

    def set_state(self, pack_id: bytes, state: PackState) -> None:
        """Record what the flags say of a pack."""
        number = self._pack_numbers.get(pack_id)
        if number is not None:
            self._pack_states[number] = state
            self._any_leaving = self._any_leaving or state is not PackState.LIVE

    def prefer_live(self) -> None:
        """After the states are known:

        where the place in use is in a pack that leaves, use a live copy if there is one.
        """
        if not self._any_leaving:
            return
        leaving = {pack_id for pack_id, number in self._pack_numbers.items() if self._pack_states[number]}
        for blob_id, _ in self.frames_in(self.duplicated(), leaving):
            values = self._copies[blob_id]
            live = next((at for at, value in enumerate(values) if self._is_live(value)), None)
            current = self._blobs.get(blob_id)
            if live is not None and current is not None:
                self._blobs.set(blob_id, values[live])
                values[live] = current

    def write_to(self, file: IO[bytes]) -> None:
        """Write everything but the states, and what is only reserved, to a cache file."""
        packs = len(self._pack_numbers)
        file.write(_HEADER.pack(len(self._blobs), len(self._frame_packs), packs))
        file.write(b"".join(self._pack_ids))
        for column in self._columns():
            file.write(column)
        for ids, places in self._rows():
            file.write(_COUNT.pack(len(places) // _PLACE.size))
            file.write(ids)
            file.write(places)
        file.write(_COUNT.pack(0))
        extra = [blob_id + value for blob_id, values in self._copies.items() for value in values]
        file.write(_COUNT.pack(len(extra)))
        file.write(b"".join(extra))

    @classmethod
    def read_from(cls, file: IO[bytes]) -> BlobTable:
        """The table that `write_to` wrote. Raises DamagedObject when the file is not whole."""
        table = cls()
        blobs, frames, packs = _HEADER.unpack(_exactly(file, _HEADER.size))
        names = _exactly(file, packs * ID_SIZE)
        table._pack_ids = [names[at * ID_SIZE : (at + 1) * ID_SIZE] for at in range(packs)]
        table._pack_numbers = {pack_id: number for number, pack_id in enumerate(table._pack_ids)}
        for column, count in zip(table._columns(), (packs,) * 4 + (frames,) * 5, strict=True):
            if isinstance(column, array):
                column.frombytes(_exactly(file, count * column.itemsize))
            else:
                column += _exactly(file, count)
        table._pack_states = bytearray(packs)
        table._blobs = PlaceMap(blobs)
        while count := _COUNT.unpack(_exactly(file, _COUNT.size))[0]:
            table._blobs.extend(_exactly(file, count * ID_SIZE), _exactly(file, count * _PLACE.size))
        extra = _exactly(file, _COUNT.unpack(_exactly(file, _COUNT.size))[0] * _ENTRY.size)
        for blob_id, value in _ENTRY.iter_unpack(extra):
            if blob_id in table._blobs:
                table._copies.setdefault(blob_id, []).append(value)
            else:  # it was being stored again
                table._blobs.set(blob_id, value)
        return table

    def _numbers(self, blob_ids: Sequence[bytes]) -> tuple[int, ...]:
        """Frame, offset and size of the places in use, one behind the other; no frame where there is none."""
        return struct.unpack(f"<{3 * len(blob_ids)}I", self._blobs.places(b"".join(blob_ids)))

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Every blob but those that are only reserved, many at a time: their IDs and their places."""
        for start in range(0, len(self._blobs), _BATCH):
            yield self._blobs.rows(start, min(start + _BATCH, len(self._blobs)))

    def _columns(self) -> tuple[array[int] | bytearray, ...]:
        return (
            self._pack_sizes, self._pack_blobs, self._pack_first, self._pack_kinds,
            self._frame_packs, self._frame_offsets, self._frame_stored, self._frame_plain, self._frame_codecs,
        )  # fmt: skip

    def _add_frames(self, pack_id: bytes, size: int, directory: PackDirectory, state: PackState) -> int:
        first, number = len(self._frame_packs), len(self._pack_sizes)
        self._pack_sizes.append(size)
        self._pack_blobs.append(len(directory.blob_sizes))
        self._pack_first.append(first)
        self._pack_kinds.append(directory.kind)
        self._pack_states.append(state)
        self._any_leaving = self._any_leaving or state is not PackState.LIVE
        count = len(directory.stored_sizes)
        self._frame_packs.extend([number] * count)
        offsets = list(accumulate(directory.stored_sizes, initial=HEAD_SIZE))
        self._frame_offsets.extend(offsets[:-1])
        self._frame_stored.extend(directory.stored_sizes)
        self._frame_plain.extend(directory.plain_sizes)
        self._frame_codecs += directory.codecs
        self._pack_ids.append(pack_id)
        self._pack_numbers[pack_id] = number
        return first

    def _add_blobs(self, first_frame: int, directory: PackDirectory) -> None:
        known = self._blobs.add_frames(directory.blob_ids, directory.blob_counts, directory.blob_sizes, first_frame)
        for blob_id, value in known:
            self._copies.setdefault(blob_id, []).append(value)

    def _is_live(self, value: bytes) -> bool:
        if not self._any_leaving:
            return True
        frame: int = _PLACE.unpack(value)[0]
        return self._pack_states[self._frame_packs[frame]] == PackState.LIVE

    def _pack_info(self, pack_id: bytes, number: int) -> PackInfo:
        last = self._pack_first[number + 1] if number + 1 < len(self._pack_first) else len(self._frame_packs)
        return PackInfo(
            id=pack_id,
            size=self._pack_sizes[number],
            kind=BlobKind(self._pack_kinds[number]),
            state=PackState(self._pack_states[number]),
            frames=range(self._pack_first[number], last),
            blobs=self._pack_blobs[number],
        )


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise DamagedObject("the index cache is cut short")
    return data
