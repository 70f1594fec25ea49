"""Getting blobs back:

a frame is read and opened once, each blob in it is checked against its ID before anybody sees it (INV-4).

A prune may move blobs to other packs while somebody reads. It writes the copy and its index before it deletes, so
whoever finds a pack gone reads the index anew, and finds the blob where it is now.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from bfrepo.compression import Codec, Expander
from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import (
    BackupForgeError,
    DamagedBlob,
    DamagedObject,
    StorageObjectMissing,
    UnsupportedFormat,
)
from bfrepo.core.ids import BlobKind, short_id
from bfrepo.core.protocols import BlobPlace, Buffer
from bfrepo.core.units import KIB, MIB
from bfrepo.index.table import BlobTable, FramePlace
from bfrepo.pack.format import HEAD_SIZE, PackCipher, PackedFrame, at_least
from bfrepo.pack.reader import make_cipher, read_cipher
from bfrepo.storage.abilities import is_far
from bfrepo.storage.base import Backend, ObjectKind

CACHE_SIZE = 24 * MIB
"""Bytes of opened frames kept: trees are read one by one, and a frame holds hundreds of them."""

UNREADABLE = (DamagedObject, StorageObjectMissing, UnsupportedFormat)
"""Why a frame gives no blob. A pack that is newer than the configuration of its repository admits is damaged."""


_NEAR: Final = 256 * KIB
"""Bytes between two frames that are rather read with them than skipped: on a line of 20 MB/s, 13 ms."""
_LARGEST_RUN: Final = 16 * MIB
"""Bytes that are fetched by one request, and a frame more: so that a pack is one that was to have this size, and ends
with the frame that made it full. Every request costs some latency, and money at some services; each reader
needs memory for what it fetches, and opens it when all of it is there, while others fetch."""


class _Ahead:
    """A part of a pack that was fetched in advance."""

    def __init__(self) -> None:
        self._memory = bytearray()
        self._pack = ""
        self._start = self._end = 0

    def make_room(self, size: int) -> memoryview:
        """Memory for what is to be fetched; what was fetched before is gone."""
        self._pack = ""
        self._memory = at_least(self._memory, size)
        return memoryview(self._memory)[:size]

    def hold(self, pack: str, start: int, end: int) -> None:
        """The memory now holds this range of a pack."""
        self._pack, self._start, self._end = pack, start, end

    def find(self, pack: str, offset: int, size: int) -> memoryview | None:
        """A range of a pack, if it is here."""
        if pack != self._pack or offset < self._start or offset + size > self._end:
            return None
        return memoryview(self._memory)[offset - self._start : offset - self._start + size]


class _Scratch(threading.local):
    """Memory that one thread reads and opens frames with, again and again."""

    def __init__(self) -> None:
        self.expander = Expander()
        self.ahead = _Ahead()
        self.stored = bytearray()
        self.packed = bytearray()
        self.plain = bytearray()


class Loader:
    """Loads blobs by ID. May be used from any number of threads.

    `successor` makes a loader by the index of now, or gives None while that has not changed. Without it a loader knows
    the table alone.
    """

    def __init__(
        self,
        backend: Backend,
        table: BlobTable,
        blob_hash: Callable[[Buffer], bytes],
        pack_key: bytes | None,
        repository_id: bytes,
        successor: Callable[[], Loader | None] = lambda: None,
    ) -> None:
        self._backend = backend
        self.table = table
        self._hash = blob_hash
        self._pack_key = pack_key
        self._repository_id = repository_id
        self._scratch = _Scratch()
        self._lock = threading.Lock()
        self._ciphers: dict[str, PackCipher] = {}
        self._frames: OrderedDict[int, bytes] = OrderedDict()
        self._cached = 0
        self._make_successor = successor
        self._successor: Loader | None = None
        self._succeeding = threading.Lock()
        self._given_up: set[str] = set()
        self._heads_coming: dict[str, threading.Event] = {}
        """Packs whose head somebody fetches with what follows it; set when that has come, or failed."""

    def place(self, blob_id: bytes) -> BlobPlace:
        """See BlobLoader."""
        return self.table.place(blob_id)

    def load(self, kind: BlobKind, blob_id: bytes) -> bytes:
        """See BlobLoader."""
        place = self.table.place(blob_id)
        try:
            frame = self._cached_frame(place.frame)
            blob = frame[place.offset : place.offset + place.size]
            if self._hash(blob) == blob_id:
                return blob
            why = "does not hash to its ID"
        except UNREADABLE as error:
            why = str(error)
        return self._load_other_copy(blob_id, place.frame, DamagedBlob(self._describe(blob_id, place, why)))

    def read_frame(self, frame: int, blob_ids: Sequence[bytes]) -> Iterator[tuple[bytes, memoryview | DamagedObject]]:
        """See BlobLoader. The caller may use the loader for something else between two blobs."""
        try:
            plain: memoryview | None = self.open_frame(frame)
            why = "does not hash to its ID"
        except UNREADABLE as error:
            plain, why = None, str(error)
        scratch = self._scratch
        memory, scratch.plain = scratch.plain, bytearray()  # ours until the last blob is taken
        try:
            for blob_id in blob_ids:
                place = self._place_in(frame, blob_id)
                blob = plain[place.offset : place.offset + place.size] if plain is not None else None
                if blob is not None and self._hash(blob) == blob_id:
                    yield blob_id, blob
                else:
                    damaged = DamagedBlob(self._describe(blob_id, place, why))
                    yield blob_id, self._other_copy(blob_id, frame, damaged)
        finally:
            scratch.plain = memory

    @property
    def readers(self) -> int:
        """See BlobLoader."""
        return max(native_threads(), self._backend.connections) if self._is_far else native_threads()

    def runs(self, frames: Iterable[int]) -> list[list[int]]:
        """See BlobLoader. A disk reads one frame as well as several; no request would be saved."""
        if not self._is_far:
            return [[frame] for frame in frames]
        runs: list[list[int]] = []
        pack, start, end = "", 0, 0
        for frame in frames:
            place = self.table.frame(frame)
            stop = place.offset + place.stored_size
            if place.pack == pack and 0 <= place.offset - end <= _NEAR and place.offset - start <= _LARGEST_RUN:
                runs[-1].append(frame)
            else:
                runs.append([frame])
                pack, start = place.pack, place.offset
            end = stop
        return runs

    def read_ahead(self, run: Sequence[int]) -> None:
        """See BlobLoader. The head of the pack comes along where it is near, if nobody has read it yet."""
        if not self._is_far:
            return
        first, last = self.table.frame(run[0]), self.table.frame(run[-1])
        start, end = first.offset, last.offset + last.stored_size
        with_head = first.pack not in self._ciphers and start <= _NEAR
        start = 0 if with_head else start
        ahead = self._scratch.ahead
        memory = ahead.make_room(end - start)
        with suppress(*UNREADABLE), self._bringing_head(first.pack if with_head else None):
            # What is wrong is told by whoever reads a frame of it.
            self._backend.read_into(ObjectKind.PACK, first.pack, start, memory)
            ahead.hold(first.pack, start, end)
            if with_head:
                head = bytes(memory[:HEAD_SIZE])
                self._ciphers[first.pack] = make_cipher(head, first.pack, self._pack_key, self._repository_id)

    @contextmanager
    def _bringing_head(self, pack: str | None) -> Iterator[None]:
        """Have others wait for the head of a pack rather than ask for it, too."""
        if pack is None:
            yield
            return
        coming = self._heads_coming[pack] = threading.Event()
        try:
            yield
        finally:
            coming.set()

    def open_frame(self, number: int) -> memoryview:
        """A frame's plaintext, unchecked, in this thread's scratch memory: valid until its next frame."""
        place = self.table.frame(number)
        scratch = self._scratch
        scratch.plain = at_least(scratch.plain, place.plain_size)
        out = memoryview(scratch.plain)[: place.plain_size]
        self._open_into(place, out)
        return out

    def load_frame(self, number: int) -> bytearray:
        """A frame's plaintext, unchecked, in memory of its own."""
        frame = bytearray(self.table.frame(number).plain_size)
        self.fill_frame(number, memoryview(frame))
        return frame

    def fill_frame(self, number: int, out: memoryview) -> None:
        """Write a frame's plaintext, unchecked, to memory of its size."""
        self._open_into(self.table.frame(number), out)

    def is_intact(self, blob_id: bytes, data: Buffer) -> bool:
        """Whether `data` is the blob, by its hash."""
        return self._hash(data) == blob_id

    def open_packed(self, number: int) -> PackedFrame:
        """As `open_frame`, with the compressed bytes, which are as short-lived."""
        plain = self.open_frame(number)
        place = self.table.frame(number)
        if place.codec is Codec.NONE:
            return PackedFrame(plain, plain, place.codec)
        size = place.stored_size - self._cipher(place.pack).overhead
        return PackedFrame(plain, memoryview(self._scratch.packed)[:size], place.codec)

    def _open_into(self, place: FramePlace, out: memoryview) -> None:
        scratch = self._scratch
        if place.codec is not Codec.NONE:
            scratch.packed = at_least(scratch.packed, place.stored_size)
        stored = scratch.ahead.find(place.pack, place.offset, place.stored_size)
        try:
            if stored is None:
                stored = self._read_stored(place)
            open_frame(self._cipher(place.pack), place, stored, scratch.packed, scratch.expander, out)
        except DamagedObject:
            if not self._is_far:
                raise
            # A network may have changed it on the way.
            open_frame(self._cipher(place.pack), place, self._read_stored(place), scratch.packed, scratch.expander, out)

    def _read_stored(self, place: FramePlace) -> memoryview:
        scratch = self._scratch
        scratch.stored = at_least(scratch.stored, place.stored_size)
        stored = memoryview(scratch.stored)[: place.stored_size]
        self._backend.read_into(ObjectKind.PACK, place.pack, place.offset, stored)
        return stored

    @property
    def _is_far(self) -> bool:
        return is_far(self._backend)

    def _cached_frame(self, number: int) -> bytes:
        with self._lock:
            frame = self._frames.get(number)
            if frame is not None:
                self._frames.move_to_end(number)
                return frame
        frame = bytes(self.open_frame(number))
        with self._lock:
            if number not in self._frames:
                self._frames[number] = frame
                self._cached += len(frame)
            while self._cached > CACHE_SIZE and len(self._frames) > 1:
                self._cached -= len(self._frames.popitem(last=False)[1])
        return frame

    def _cipher(self, pack: str) -> PackCipher:
        cipher = self._ciphers.get(pack)
        if cipher is None and (coming := self._heads_coming.get(pack)) is not None:
            coming.wait()
            cipher = self._ciphers.get(pack)
        if cipher is None:
            cipher = read_cipher(self._backend, pack, self._pack_key, self._repository_id)
            self._ciphers[pack] = cipher
        return cipher

    def _place_in(self, frame: int, blob_id: bytes) -> BlobPlace:
        place = self.table.place(blob_id)
        if place.frame == frame:
            return place
        return next((copy for copy in self.table.copies(blob_id) if copy.frame == frame), place)

    def _other_copy(self, blob_id: bytes, frame: int, damaged: DamagedObject) -> memoryview | DamagedObject:
        try:
            return memoryview(self._load_other_copy(blob_id, frame, damaged))
        except DamagedObject as error:
            return error

    def _load_other_copy(self, blob_id: bytes, bad_frame: int, first: BackupForgeError) -> bytes:
        """The blob from any other frame, or from where it is now. Raises `first` when there is none that is intact."""
        for copy in self.table.copies(blob_id):
            if copy.frame == bad_frame:
                continue
            try:
                frame = self.load_frame(copy.frame)  # not the scratch memory: a caller may be in the middle of it
                blob = bytes(frame[copy.offset : copy.offset + copy.size])
            except UNREADABLE:
                continue  # this copy is no better; the error of the first one is reported
            if self._hash(blob) == blob_id:
                return blob
        moved = self._load_moved(blob_id, self.table.frame(bad_frame).pack)
        try:
            if moved is None:
                raise first
            return moved
        finally:
            del first  # or it would refer to itself by its traceback, and keep this loader with all that it has

    def _load_moved(self, blob_id: bytes, pack: str) -> bytes | None:
        """The blob by the index of now, if the pack that held it is gone; None if it is nowhere."""
        if pack in self._given_up or self._is_there(pack):
            return None
        try:
            with self._succeeding:
                if self._successor is None:
                    self._successor = self._make_successor()
            if self._successor is not None:
                return self._successor.load(BlobKind.DATA, blob_id)
        except UNREADABLE:
            return None  # the error of the first copy is reported; other blobs of the pack may have been kept
        self._given_up.add(pack)  # it is lost, and its other blobs are not looked for in vain
        return None

    def _is_there(self, pack: str) -> bool:
        try:
            self._backend.size(ObjectKind.PACK, pack)
        except StorageObjectMissing:
            return False
        return True

    def _describe(self, blob_id: bytes, place: BlobPlace, why: str) -> str:
        pack = self.table.pack_of(place.frame)
        return f"blob {short_id(blob_id)} in pack {short_id(pack)}: {why}"


def open_frame(
    cipher: PackCipher, place: FramePlace, stored: memoryview, packed: bytearray, expander: Expander, out: memoryview
) -> None:
    """Open and expand a frame's stored bytes into `out`, through the scratch `packed`. Raises DamagedObject."""
    try:
        if place.codec is Codec.NONE:
            if len(stored) != cipher.overhead + len(out):
                raise DamagedObject(f"is not stored as the {len(out)} bytes that were expected")
            cipher.open_frame(stored, place.kind, place.number, out)
            return
        length = cipher.open_frame(stored, place.kind, place.number, memoryview(packed))
        expander.expand_into(place.codec, memoryview(packed)[:length], out)
    except DamagedObject as error:
        raise DamagedObject(f"frame {place.number} of pack {place.pack[:8]}: {error}") from error
