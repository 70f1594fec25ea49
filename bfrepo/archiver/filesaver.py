"""Reading files: small ones many at a time, large ones cut into chunks by their content, holes never.

A large file is read into buffers of 8 MiB that its chunks share: each chunk is handed on as a view, and the buffer is
used again when the last of its chunks is stored. The rest of a buffer that is not cut yet is carried to the front of
the next.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import takewhile
from struct import Struct
from typing import Final

from bfrepo.core.errors import Interrupted
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import BlobSaver, Chunker
from bfrepo.core.units import KIB, MIB
from bfrepo.data.node import Node
from bfrepo.data.records import save_records
from bfrepo.sources.base import Directory, Entry, OpenFile

LARGE_CHUNK: Final = 256 * KIB
"""Below this size a file or chunk shares a frame with others, so it is copied at once instead of being handed on."""

_BATCH_SIZE: Final = 1 * MIB

_BUFFER_SIZE: Final = 8 * MIB
_BUFFERS: Final = 3
_HOLE = Struct("<QQ")


@dataclass(slots=True)
class PendingFile:
    """A file that was read, and whose content is known when its large chunks are hashed:

    `parts` are IDs, now or later.
    """

    node: Node
    parts: list[bytes | Future[bytes]] = field(default_factory=list)

    def is_ready(self) -> bool:
        """Whether `finish` would not wait."""
        return all(part.done() for part in self.parts if isinstance(part, Future))

    def finish(self, saver: BlobSaver) -> Node:
        """The complete node."""
        ids = b"".join(part if isinstance(part, bytes) else part.result() for part in self.parts)
        self.node.content, self.node.content_depth = save_records(saver, ids, 32)
        return self.node


class FileSaver:
    """Saves the content of files. May be used from several threads."""

    def __init__(self, saver: BlobSaver, chunker: Chunker, cancelled: Callable[[], bool]) -> None:
        self._saver = saver
        self._chunker = chunker
        self._cancelled = cancelled
        self.small_file: Final = min(LARGE_CHUNK, chunker.minimum)
        self._local = threading.local()
        self._buffers = _BufferPool(max(_BUFFER_SIZE, 2 * chunker.maximum))

    def save_small(self, directory: Directory, entries: Sequence[Entry]) -> Sequence[Node | None]:
        """Read some of the first small files of `entries`, at least one, many in one call to the source.

        The result is parallel to `entries` and may be shorter; None stands for a file that `save` has to read.
        """
        limit = self.small_file
        small = list(takewhile(lambda entry: entry.stat.size <= limit, entries))
        if not small:
            return [None]
        view = self._small_buffer()
        found = directory.read_small(small, limit, view)
        full = [(node, size) for node, size in filter(None, found) if size]
        blob_ids = self._saver.save_many(BlobKind.DATA, view, [size for _, size in full])
        for (node, _), blob_id in zip(full, blob_ids, strict=True):
            node.content = blob_id
        return [read and read[0] for read in found]

    def save(self, entry: Entry) -> tuple[PendingFile, bool]:
        """Read one file of any size; whether it was written to meanwhile.

        Raises OSError if it cannot be opened or read.
        """
        file = entry.open_file()
        try:
            node = file.node()
            node.name = entry.name
            saved = PendingFile(node)
            self._read(file, saved)
            return saved, file.changed(node)
        finally:
            file.close()

    def save_open(self, file: OpenFile) -> PendingFile:
        """Read a file that is open already, as those of an archive are, and whose node says its name."""
        saved = PendingFile(file.node())
        self._read(file, saved)
        return saved

    def _read(self, file: OpenFile, saved: PendingFile) -> None:
        node, position = saved.node, 0
        holes = bytearray()
        for offset, length in file.extents(node.size):
            if offset > position:
                holes += _HOLE.pack(position, offset - position)
            position = offset + length
            end = self._cut_extent(file, offset, position, saved)
            if end < position:  # it became shorter since it was looked at, or is a stream that ends here
                node.size = position = end
                break
        if position < node.size:
            holes += _HOLE.pack(position, node.size - position)
        node.holes, node.holes_depth = save_records(self._saver, bytes(holes), _HOLE.size)

    def _cut_extent(self, file: OpenFile, start: int, end: int, saved: PendingFile) -> int:
        """Save the data of [start, end); where it really ended."""
        position, carried = start, b""
        while position < end:
            if self._cancelled():
                raise Interrupted("stopped while reading a file")
            buffer = self._buffers.take()
            try:
                view = buffer.view
                filled = len(carried)
                view[:filled] = carried
                wanted = min(len(view) - filled, end - position)
                read = file.read_into(view[filled : filled + wanted], position)
                position += read
                filled += read
                if read < wanted:
                    end = position
                cut = self._hand_on(buffer, filled, final=position >= end, parts=saved.parts)
                carried = bytes(view[cut:filled])
            finally:
                buffer.release()
        return end

    def _hand_on(self, buffer: _Buffer, filled: int, *, final: bool, parts: list[bytes | Future[bytes]]) -> int:
        """Save the chunks in the buffer; where the last one ends."""
        start = 0
        for end in self._chunker.cut(buffer.memory, 0, filled, final=final):
            chunk = buffer.view[start:end]
            if len(chunk) < LARGE_CHUNK:
                parts.append(self._saver.save(BlobKind.DATA, chunk))
            else:
                buffer.share()
                parts.append(self._saver.save_chunk(chunk, buffer.release))
            start = end
        return start

    def _small_buffer(self) -> memoryview:
        view: memoryview | None = getattr(self._local, "view", None)
        if view is None:
            view = self._local.view = memoryview(bytearray(_BATCH_SIZE))
        return view


class _Buffer:
    """A piece of memory that several chunks share; it goes back to its pool with the last of them."""

    def __init__(self, pool: _BufferPool, size: int) -> None:
        self.memory = bytearray(size)
        self.view = memoryview(self.memory)
        self._pool = pool
        self._users = 0
        self._lock = threading.Lock()

    def share(self) -> None:
        with self._lock:
            self._users += 1

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            self._pool.give_back(self)


class _BufferPool:
    """A few buffers, made when they are first needed. `take` waits while all are in use: that bounds the memory."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: queue.SimpleQueue[_Buffer | None] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(None)

    def take(self) -> _Buffer:
        buffer = self._free.get() or _Buffer(self, self._size)
        buffer.share()
        return buffer

    def give_back(self, buffer: _Buffer) -> None:
        self._free.put(buffer)
