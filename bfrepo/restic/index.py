"""Which blob is where in a restic repository: all of its index in memory, some 90 bytes for a blob."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from borghash import HashTable

from bfrepo.restic.records import IndexRecord
from bfrepo.restic.sealing import OVERHEAD

_NUMBER: Final = Struct("<I")
_TREE: Final = "tree"
_ID_SIZE: Final = 32


class Copy(NamedTuple):
    """A blob in a pack. `plain` is the length of its plaintext; `packed` says that it is compressed."""

    pack: int
    offset: int
    length: int
    plain: int
    packed: bool


class BlobIndex:
    """Blobs by ID. Copies of one blob in several packs are all kept: the first may be damaged."""

    def __init__(self) -> None:
        self.packs: list[str] = []
        self._numbers = HashTable(key_size=_ID_SIZE, value_size=_NUMBER.size)
        self._more: dict[int, list[int]] = {}
        self._ids = bytearray()
        self._pack = array("I")
        self._offset = array("I")
        self._length = array("I")
        self._plain = array("I")
        self._trees = bytearray()

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, record: IndexRecord) -> None:
        """Add what an index file says."""
        for pack in record.packs or ():
            number = len(self.packs)
            self.packs.append(pack.id)
            for blob in pack.blobs:
                self._add(
                    bytes.fromhex(blob.id),
                    number,
                    blob.offset,
                    blob.length,
                    blob.uncompressed_length,
                    blob.type == _TREE,
                )

    def find(self, blob_id: bytes) -> int | None:
        """The number of the first copy of a blob."""
        packed = self._numbers.get(blob_id)
        return _NUMBER.unpack(packed)[0] if packed is not None else None

    def id_of(self, number: int) -> bytes:
        """The blob that a number is of."""
        return bytes(self._ids[number * _ID_SIZE : (number + 1) * _ID_SIZE])

    def is_tree(self, number: int) -> bool:
        """Whether it is a tree."""
        return bool(self._trees[number])

    def copy(self, number: int) -> Copy:
        """Where a copy is."""
        length, plain = self._length[number], self._plain[number]
        return Copy(self._pack[number], self._offset[number], length, plain or length - OVERHEAD, bool(plain))

    def copies(self, number: int) -> Iterator[Copy]:
        """The copy, and all others of the same blob."""
        for each in (number, *self._more.get(number, ())):
            yield self.copy(each)

    def place(self, number: int) -> int:
        """What sorts copies by pack and by place in it."""
        return self._pack[number] << 32 | self._offset[number]

    def _add(self, blob_id: bytes, pack: int, offset: int, length: int, plain: int, is_tree: bool) -> None:
        if length < OVERHEAD:
            return  # it cannot be; whoever needs the blob is told that it is missing
        number = len(self._pack)
        first = self.find(blob_id)
        if first is None:
            self._numbers[blob_id] = _NUMBER.pack(number)
        elif self._is_known(first, pack, offset):
            return
        else:
            self._more.setdefault(first, []).append(number)
        self._ids += blob_id
        self._pack.append(pack)
        self._offset.append(offset)
        self._length.append(length)
        self._plain.append(plain)
        self._trees.append(is_tree)

    def _is_known(self, first: int, pack: int, offset: int) -> bool:
        """Whether two index files say the same."""
        name = self.packs[pack]
        return any(self.packs[copy.pack] == name and copy.offset == offset for copy in self.copies(first))
