"""What is left of a damaged pack: every blob that can still be proved, frame by frame.

A frame whose seal is broken is lost, its neighbours are not. Where the frames lie is said by the pack's own directory,
and by the copy of it that the index has, so a pack that was cut, or whose end was overwritten, gives all that is still
in it. Nothing is believed: a blob counts only when it hashes to its ID (INV-4), so any number of directories, right or
wrong, may be tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from bfrepo.compression import Codec, Expander
from bfrepo.core.errors import DamagedObject, StorageObjectMissing, UnsupportedFormat
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.index.format import PackEntry
from bfrepo.index.table import FramePlace
from bfrepo.pack.format import HEAD_SIZE, SALT_SIZE, PackCipher, PackDirectory, at_least, decode_directory
from bfrepo.pack.reader import read_directory
from bfrepo.repository.loader import open_frame
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind


class PackRemains:
    """One damaged pack. `blob_ids` are what it should hold by all that is known. Used by one thread."""

    def __init__(self, repository: Repository, pack: bytes, size: int, entries: Iterable[PackEntry]) -> None:
        self._repository = repository
        self._name = pack.hex()
        self._size = size
        self._cipher = self._make_cipher()
        self._directories = [decode_directory(entry.directory, pack=self._name[:8]) for entry in entries]
        self._directories += self._own_directory()
        self._expander = Expander()
        self._memory = bytearray(), bytearray(), bytearray()
        self.blob_ids = {blob_id for each in self._directories for blob_id in _ids(each, 0, len(each.blob_sizes))}

    @property
    def kind(self) -> BlobKind:
        """What the pack holds; data where nobody can tell."""
        return self._directories[0].kind if self._directories else BlobKind.DATA

    def blobs(self) -> Iterator[tuple[BlobKind, bytes, memoryview]]:
        """Every blob that is intact, once; the view is valid until the next one. Raises StorageError."""
        found: set[bytes] = set()
        for directory in self._directories:
            first = 0
            offsets = accumulate(directory.stored_sizes, initial=HEAD_SIZE)
            for number, (offset, count) in enumerate(zip(offsets, directory.blob_counts, strict=False)):
                blob_ids = _ids(directory, first, count)
                if not found.issuperset(blob_ids):
                    plain = self._open(_place(directory, self._name, number, offset))
                    sizes = directory.blob_sizes[first : first + count]
                    for blob_id, blob in self._prove(plain, blob_ids, sizes, found):
                        found.add(blob_id)
                        yield directory.kind, blob_id, blob
                first += count

    def _make_cipher(self) -> PackCipher | None:
        """What opens its frames. Of the head only the salt matters: the rest of it may be damaged."""
        if self._size < HEAD_SIZE:
            return None
        try:
            head = self._repository.backend.read(ObjectKind.PACK, self._name, 0, HEAD_SIZE)
        except (DamagedObject, StorageObjectMissing):
            return None
        return PackCipher(self._repository.keys.pack_key, head[-SALT_SIZE:], self._repository.id)

    def _own_directory(self) -> list[PackDirectory]:
        repository = self._repository
        try:
            return [
                read_directory(repository.backend, self._name, self._size, repository.keys.pack_key, repository.id)[1]
            ]
        except (DamagedObject, StorageObjectMissing, UnsupportedFormat):
            return []

    def _open(self, place: FramePlace) -> memoryview:
        """A frame's plaintext; empty when it cannot be had."""
        if self._cipher is None:
            return memoryview(b"")
        stored, packed, plain = self._memory = (
            at_least(self._memory[0], place.stored_size),
            at_least(self._memory[1], place.stored_size),
            at_least(self._memory[2], place.plain_size),
        )
        view, out = memoryview(stored)[: place.stored_size], memoryview(plain)[: place.plain_size]
        try:
            self._repository.backend.read_into(ObjectKind.PACK, place.pack, place.offset, view)
            open_frame(self._cipher, place, view, packed, self._expander, out)
        except (DamagedObject, StorageObjectMissing):
            return memoryview(b"")
        return out

    def _prove(
        self, plain: memoryview, blob_ids: list[bytes], sizes: Iterable[int], found: set[bytes]
    ) -> Iterator[tuple[bytes, memoryview]]:
        end = 0
        for blob_id, size in zip(blob_ids, sizes, strict=True):
            blob = plain[end : end + size]
            end += size
            if blob_id not in found and self._repository.blob_hash(blob) == blob_id:
                yield blob_id, blob


def _ids(directory: PackDirectory, first: int, count: int) -> list[bytes]:
    packed = bytes(directory.blob_ids[first * ID_SIZE : (first + count) * ID_SIZE])
    return [packed[at : at + ID_SIZE] for at in range(0, len(packed), ID_SIZE)]


def _place(directory: PackDirectory, pack: str, number: int, offset: int) -> FramePlace:
    return FramePlace(
        pack=pack,
        kind=directory.kind,
        number=number,
        offset=offset,
        stored_size=directory.stored_sizes[number],
        plain_size=directory.plain_sizes[number],
        codec=Codec(directory.codecs[number]),
    )
