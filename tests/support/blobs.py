"""A repository of blobs in memory, with real frames: what the meaning half sees of the keeping half, and nothing
else.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from itertools import accumulate

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import DamagedBlob, DamagedObject, MissingBlob
from bfrepo.core.ids import BlobKind, short_id
from bfrepo.core.protocols import BlobPlace, Buffer


class MemoryBlobs:
    """Both a BlobSaver and a BlobLoader. Small blobs share a frame, up to `frame_size` bytes of plaintext.

    `damaged` holds IDs that cannot be returned, `missing` those that no pack holds; `frames_read` counts what was asked
    for. `before_frame` is called before each frame is read.
    """

    def __init__(self, frame_size: int = 1 << 20) -> None:
        self.damaged: set[bytes] = set()
        self.missing: set[bytes] = set()
        self.frames_read: dict[int, int] = {}
        self.before_frame: Callable[[int], None] = lambda frame: None
        self._frame_size = frame_size
        self._places: dict[bytes, BlobPlace] = {}
        self._packed: list[bytes] = []
        self._open: dict[BlobKind, bytearray] = {kind: bytearray() for kind in BlobKind}
        self._numbers: dict[BlobKind, int] = {}
        self._lock = threading.Lock()
        self._thread = threading.local()

    def save(self, kind: BlobKind, data: Buffer) -> bytes:
        """See BlobSaver."""
        blob_id = blake2b(data, digest_size=32).digest()
        with self._lock:
            if blob_id not in self._places:
                self._append(kind, blob_id, data)
        return blob_id

    def save_many(self, kind: BlobKind, data: memoryview, sizes: Sequence[int]) -> list[bytes]:
        """See BlobSaver."""
        return [self.save(kind, data[end - size : end]) for end, size in zip(accumulate(sizes), sizes, strict=True)]

    def holds(self, blob_id: bytes) -> bool:
        """See BlobSaver."""
        return blob_id in self._places

    def save_chunk(self, data: memoryview, release: Callable[[], None]) -> Future[bytes]:
        """See BlobSaver."""
        future: Future[bytes] = Future()
        future.set_result(self.save(BlobKind.DATA, data))
        release()
        return future

    def load(self, kind: BlobKind, blob_id: bytes) -> bytes:
        """See BlobLoader."""
        del kind
        place = self.place(blob_id)
        if blob_id in self.damaged:
            raise DamagedBlob(f"blob {short_id(blob_id)}: does not hash to its ID")
        return self._plain(place.frame)[place.offset : place.offset + place.size]

    def place(self, blob_id: bytes) -> BlobPlace:
        """See BlobLoader."""
        if blob_id in self.missing or blob_id not in self._places:
            raise MissingBlob(f"blob {short_id(blob_id)} is in no pack")
        return self._places[blob_id]

    def read_frame(self, frame: int, blob_ids: Sequence[bytes]) -> Iterator[tuple[bytes, memoryview | DamagedObject]]:
        """See BlobLoader. Views become unusable as soon as the thread asks for its next frame."""
        self.before_frame(frame)
        views: list[memoryview] = getattr(self._thread, "views", [])
        while views:
            views.pop().release()
        self._thread.views = views
        with self._lock:
            self.frames_read[frame] = self.frames_read.get(frame, 0) + 1
        plain = memoryview(self._plain(frame))
        for blob_id in blob_ids:
            place = self._places[blob_id]
            if place.frame != frame:
                raise AssertionError("a blob was asked for in a frame that does not hold it")
            if blob_id in self.damaged:
                yield blob_id, DamagedBlob(f"blob {short_id(blob_id)}: does not hash to its ID")
                continue
            views.append(plain[place.offset : place.offset + place.size])
            yield blob_id, views[-1]

    @property
    def readers(self) -> int:
        """See BlobLoader."""
        return native_threads()

    def runs(self, frames: Iterable[int]) -> list[list[int]]:
        """See BlobLoader. Two at a time, so that everybody who reads is tested with more than one."""
        numbers = list(frames)
        return [numbers[start : start + 2] for start in range(0, len(numbers), 2)]

    def read_ahead(self, run: Sequence[int]) -> None:
        """See BlobLoader."""

    def _append(self, kind: BlobKind, blob_id: bytes, data: Buffer) -> None:
        frame = self._open[kind]
        if kind not in self._numbers or len(frame) + len(data) > self._frame_size:
            self._seal(kind)
            self._numbers[kind] = len(self._packed)
            self._packed.append(b"")
            frame = self._open[kind] = bytearray()
        self._places[blob_id] = BlobPlace(self._numbers[kind], len(frame), len(data))
        frame += data

    def _seal(self, kind: BlobKind) -> None:
        if kind in self._numbers:
            self._packed[self._numbers[kind]] = zlib.compress(bytes(self._open[kind]), 1)

    def _plain(self, frame: int) -> bytes:
        with self._lock:
            for kind, number in self._numbers.items():
                if number == frame:
                    return bytes(self._open[kind])
        return zlib.decompress(self._packed[frame])
