"""A cache of opened frames for whoever reads here and there: a mount, most of all.

A frame is read and opened once, by one thread, however many wait for it; each blob in it is hashed once, before anybody
sees it for the first time (INV-4), and given out as a view, without a copy. Frames that are needed soon are opened in
advance by threads of their own: those that a caller names, and those that follow two that were used one after the
other, as the files of a directory stand in the order in which they are read.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, TypeAlias

from bfrepo.core.errors import BackupForgeError, DamagedObject, MissingBlob
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import BlobPlace
from bfrepo.core.units import KIB, MIB
from bfrepo.repository.loader import UNREADABLE, Loader

_QUICK: Final = 256 * KIB
"""Bytes that are hashed at once, in the time it would take to hand them to another thread (about 0.1 ms)."""

_FOLLOWING: Final = 2
"""Frames that are opened in advance where files are read in their order."""

_TOGETHER: Final = 8 * MIB
"""Bytes of memory for frames that are read one after the other."""
_MOST_SPARE: Final = 16 * MIB
_STEP: Final = 256 * KIB
"""Bytes of memory that are kept for other frames, as fresh memory is dear, and in what steps it grows, so that it fits.
"""


class _Memory:
    """Memory for frames, one behind the other: `taken` bytes of it are, by frames of which `frames` are still kept."""

    __slots__ = ("data", "frames", "taken")

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.frames = self.taken = 0

    def reuse(self) -> bool:
        """Begin again from its front, unless somebody still holds a view of a frame that was in it."""
        try:
            self.data.pop()  # a bytearray does not change its length while there is a view
        except BufferError:
            return False
        self.data.append(0)
        self.taken = 0
        return True


class _Frame:
    """The plaintext of a frame, somewhere in a piece of memory: `size` bytes of `taken` that it takes there.

    `checked` are the offsets of the blobs in it that hash to their IDs.
    """

    __slots__ = ("checked", "memory", "size", "start", "taken", "used")

    def __init__(self, memory: _Memory, size: int, taken: int) -> None:
        self.memory = memory
        self.start, self.size, self.taken = memory.taken, size, taken
        memory.taken += taken
        memory.frames += 1
        self.checked: set[int] = set()
        self.used = False

    @property
    def view(self) -> memoryview:
        """All of it."""
        return memoryview(self.memory.data)[self.start : self.start + self.size]

    def leaves(self, size: int) -> bool:
        """Whether there is so much memory right behind it."""
        memory = self.memory
        return self.start + self.taken == memory.taken and memory.taken + size <= len(memory.data)


_Held: TypeAlias = tuple[_Frame, memoryview]
"""A frame with a view of it, without which its memory might become another frame's at any moment."""


class _Known:
    """The frames of one loader, by their numbers in its table; oldest use first.

    `coming` are those that have memory, and nothing in it yet. `size` is what all take, in bytes, `ahead` what of
    it, or still to come, nobody has asked for yet.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        self.frames: OrderedDict[int, _Frame] = OrderedDict()
        self.loading: dict[int, Future[_Held]] = {}
        self.coming: dict[int, _Frame] = {}
        self.waiting: set[int] = set()
        self.size = 0
        self.ahead = 0


_Order: TypeAlias = tuple[_Known, int, int, bytes | None]
"""A frame to open in advance, its bytes, and a blob in it to check as well."""


class FrameCache:
    """Implements BlobViews over a loader. May be used from any number of threads; `close` it.

    `limit` is the most that is kept, in bytes; a single frame may be larger.
    """

    def __init__(self, loader: Loader, limit: int, *, threads: int | None = None) -> None:
        self._limit = limit
        self._closed = False
        self._spare: list[_Memory] = []
        self._known = _Known(loader)
        self._lock = threading.Lock()
        self._orders: SimpleQueue[_Order | None] = SimpleQueue()
        self._threads = threads or loader.readers
        for number in range(self._threads):  # nobody waits for them in the end: a storage may hang
            threading.Thread(target=self._fetch_all, name=f"frames-{number}", daemon=True).start()

    def close(self) -> None:
        """Begin no more frames in advance; those that are begun end by themselves. Idempotent."""
        self._closed = True
        for _ in range(self._threads):
            self._orders.put(None)

    def follow(self, loader: Loader) -> None:
        """Read by another loader from now on, whose index numbers frames in its own way."""
        with self._lock:
            if self._known.loader is not loader:
                self._known = _Known(loader)

    def load(self, kind: BlobKind, blob_id: bytes) -> bytes:
        """See BlobLoader."""
        return bytes(self.view(blob_id))

    def place(self, blob_id: bytes) -> BlobPlace:
        """See BlobLoader."""
        return self._known.loader.place(blob_id)

    def read_frame(self, frame: int, blob_ids: Sequence[bytes]) -> Iterator[tuple[bytes, memoryview | DamagedObject]]:
        """See BlobLoader. Passes the cache by."""
        return self._known.loader.read_frame(frame, blob_ids)

    @property
    def readers(self) -> int:
        """See BlobLoader."""
        return self._known.loader.readers

    def runs(self, frames: Iterable[int]) -> list[list[int]]:
        """See BlobLoader."""
        return self._known.loader.runs(frames)

    def read_ahead(self, run: Sequence[int]) -> None:
        """See BlobLoader."""
        self._known.loader.read_ahead(run)

    def data_sizes(self, blob_ids: Sequence[bytes]) -> list[int]:
        """See BlobSizes."""
        return self._known.loader.table.data_sizes(blob_ids)

    def peek(self, blob_id: bytes) -> memoryview | None:
        """See BlobViews."""
        known = self._known
        place = known.loader.table.place(blob_id)
        held = self._use(known, place.frame)
        if held is None or (place.offset not in held[0].checked and place.size > _QUICK):
            return None
        return self._checked(known, held, blob_id, place)

    def view(self, blob_id: bytes) -> memoryview:
        """See BlobViews."""
        known = self._known
        place = known.loader.table.place(blob_id)
        held = self._use(known, place.frame)
        if held is None:
            try:
                held = self._load(known, place.frame, blob_id)
            except UNREADABLE:
                return memoryview(known.loader.load(BlobKind.DATA, blob_id))  # another copy, or the error in full
            self._use(known, place.frame)
        return self._checked(known, held, blob_id, place)

    def prefetch(self, blob_ids: Iterable[bytes], after: bytes | None = None) -> None:
        """See BlobViews."""
        known = self._known
        for blob_id in blob_ids:
            with suppress(BackupForgeError):
                place = known.loader.table.place
                before = None if after is None else place(after).frame
                self._begin(known, place(blob_id).frame, blob_id, before)
            after = None if after is None else blob_id

    def release(self, blob_id: bytes) -> None:
        """See BlobViews. The memory of the frame, which is still near the processor, is used for the next one."""
        known = self._known
        with suppress(MissingBlob):
            place = known.loader.table.place(blob_id)
            if place.size == known.loader.table.frame(place.frame).plain_size:
                with self._lock:
                    frame = known.frames.pop(place.frame, None)
                    if frame is not None:
                        self._let_go(known, frame)

    def _check(self, known: _Known, frame: _Frame, blob_id: bytes) -> None:
        place = known.loader.table.place(blob_id)
        if known.loader.is_intact(blob_id, frame.view[place.offset : place.offset + place.size]):
            frame.checked.add(place.offset)

    def _checked(self, known: _Known, held: _Held, blob_id: bytes, place: BlobPlace) -> memoryview:
        frame, data = held
        blob = data[place.offset : place.offset + place.size]
        if place.offset not in frame.checked:
            if not known.loader.is_intact(blob_id, blob):
                return memoryview(known.loader.load(BlobKind.DATA, blob_id))
            frame.checked.add(place.offset)
        return blob

    def _use(self, known: _Known, number: int) -> _Held | None:
        """A frame that is at hand. The first use of one that follows another in use begins those that come then."""
        with self._lock:
            frame = known.frames.get(number)
            if frame is None:
                return None
            known.frames.move_to_end(number)
            held = frame, frame.view
            if frame.used:
                return held
            frame.used = True
            known.ahead -= frame.taken
            before = known.frames.get(number - 1)
        if before is not None and before.used:
            table = known.loader.table
            for following in range(number + 1, min(number + 1 + _FOLLOWING, table.frames)):
                if table.pack_of(following) == table.pack_of(number):
                    self._begin(known, following)
        return held

    def _begin(self, known: _Known, number: int, blob_id: bytes | None = None, before: int | None = None) -> None:
        """Have a frame opened by another thread, unless half of the cache holds what nobody has asked for yet.

        Behind the one `before` in memory, if that can be.
        """
        size = known.loader.table.frame(number).plain_size
        with self._lock:
            at_hand = number in known.frames or number in known.loading or number in known.waiting
            if at_hand or known.ahead + size > self._limit // 2:
                return
            known.ahead += size
            known.waiting.add(number)
            if before is not None and size <= _TOGETHER:
                neighbour = known.frames.get(before) or known.coming.get(before)
                behind = neighbour is not None and neighbour.leaves(size)
                memory = neighbour.memory if neighbour is not None and behind else self._memory(_TOGETHER)
                known.coming[number] = _Frame(memory, size, size)
        self._orders.put((known, number, size, blob_id))

    def _fetch_all(self) -> None:
        """Runs in threads of its own. What fails here fails again for whoever asks for it, who is told."""
        while (order := self._orders.get()) is not None:
            known, number, size, blob_id = order
            with self._lock:
                known.ahead -= size
                known.waiting.discard(number)
            if self._closed or known is not self._known:
                continue
            with suppress(Exception):
                self._load(known, number, blob_id)

    def _load(self, known: _Known, number: int, blob_id: bytes | None) -> _Held:
        """A frame. Who begins it checks a blob in it before the others who wait for it get it: they want the same."""
        mine = Future[_Held]()
        with self._lock:
            frame = known.frames.get(number)
            if frame is not None:
                return frame, frame.view
            loading = known.loading.setdefault(number, mine)
        if loading is mine:
            self._fulfil(mine, known, number, blob_id)
        try:
            return loading.result()
        finally:
            del mine, loading  # or an error would refer to itself by them, and keep the whole cache

    def _fulfil(self, waiting: Future[_Held], known: _Known, number: int, blob_id: bytes | None) -> None:
        """Read a frame for all who wait for it."""
        try:
            frame = self._read(known, number)
            if blob_id is not None:
                self._check(known, frame, blob_id)
            held = frame, frame.view
            self._keep(known, number, frame)
            waiting.set_result(held)
        except BaseException as error:
            with self._lock:
                known.loading.pop(number, None)
                if number in known.coming:
                    self._leave(known.coming.pop(number))
            waiting.set_exception(error)
        finally:
            del waiting  # as above

    def _read(self, known: _Known, number: int) -> _Frame:
        with self._lock:
            frame = known.coming.get(number)
            if frame is None:
                size = known.loader.table.frame(number).plain_size
                memory = self._memory(-(-size // _STEP) * _STEP)
                frame = known.coming[number] = _Frame(memory, size, len(memory.data))
        known.loader.fill_frame(number, frame.view)
        return frame

    def _keep(self, known: _Known, number: int, frame: _Frame) -> None:
        with self._lock:
            del known.loading[number], known.coming[number]
            if known is not self._known:
                return
            known.frames[number] = frame
            known.size += frame.taken
            known.ahead += frame.taken
            while known.size > self._limit and len(known.frames) > 1:
                self._let_go(known, known.frames.popitem(last=False)[1])

    def _let_go(self, known: _Known, frame: _Frame) -> None:
        """Count a frame out."""
        known.size -= frame.taken
        if not frame.used:
            known.ahead -= frame.taken
        self._leave(frame)

    def _memory(self, size: int) -> _Memory:
        """Memory for so much, and not for much more."""
        fitting = [memory for memory in self._spare if size <= len(memory.data) <= 2 * size]
        memory = min(fitting, key=lambda memory: len(memory.data), default=None)
        if memory is None:
            return _Memory(size)
        self._spare.remove(memory)
        return memory

    def _leave(self, frame: _Frame) -> None:
        """Keep the memory of a frame for others if it was the last one there."""
        memory = frame.memory
        memory.frames -= 1
        if not memory.frames and memory.reuse():
            self._spare.append(memory)
            while sum(len(each.data) for each in self._spare) > _MOST_SPARE:
                del self._spare[0]
