"""Reading files: small ones in one go, large ones cut into chunks by their content, holes never.

A large file is read into buffers of 8 MiB that its chunks share: each chunk is handed on as a view, and the buffer is
used again when the last of its chunks is stored. The rest of a buffer that is not cut yet is carried to the front of
the next.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from bfrepo.core.errors import Interrupted
from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import BlobSaver, Chunker
from bfrepo.core.units import KIB, MIB
from bfrepo.data.node import Node
from bfrepo.data.records import save_records
from bfrepo.sources.base import Entry, OpenFile

SMALL_FILE: Final = 256 * KIB
"""Up to this size a file is one blob (the chunker's minimum by default), read in one go."""

_BUFFER_SIZE: Final = 8 * MIB
_BUFFERS: Final = 3
_HOLE = Struct("<QQ")


@dataclass(slots=True)
class SavedFile:
    """A file that was read. `node` lacks its content until `finish`, which may have to wait for chunks to be hashed.

    `torn` says that the file was written to meanwhile; `reused` is the parent's content and its depth, not read again.
    """

    node: Node
    parts: list[bytes | Future[bytes]] = field(default_factory=list)
    torn: bool = False
    reused: tuple[bytes, int] | None = None

    def finish(self, saver: BlobSaver) -> Node:
        """The complete node."""
        if self.reused is not None:
            self.node.content, self.node.content_depth = self.reused
            return self.node
        ids = b"".join(part if isinstance(part, bytes) else part.result() for part in self.parts)
        self.node.content, self.node.content_depth = save_records(saver, ids, 32)
        return self.node


class FileSaver:
    """Saves the content of files. May be used from several threads."""

    def __init__(self, saver: BlobSaver, chunker: Chunker, cancelled: Callable[[], bool]) -> None:
        self._saver = saver
        self._chunker = chunker
        self._cancelled = cancelled
        self._local = threading.local()
        self._buffers = _BufferPool(max(_BUFFER_SIZE, 2 * chunker.maximum))

    def save(self, entry: Entry) -> SavedFile:
        """Read one file. Raises OSError when it cannot be opened or read."""
        file = entry.open_file()
        try:
            node = file.node()
            node.name = entry.name
            saved = SavedFile(node)
            if node.size <= SMALL_FILE:
                self._read_small(file, saved)
            else:
                self._read_large(file, saved)
            saved.torn = file.changed(node)
        finally:
            file.close()
        return saved

    def _read_small(self, file: OpenFile, saved: SavedFile) -> None:
        size = saved.node.size
        view = self._small_buffer()
        position, holes = 0, b""
        for offset, length in file.extents(size):
            if offset > position:
                holes += _HOLE.pack(position, offset - position)
            read = file.read_into(view[:length], offset)
            if read:
                saved.parts.append(self._saver.save(BlobKind.DATA, view[:read]))
            position = offset + length
            if read < length:  # it became shorter since it was looked at
                saved.node.size = size = position = offset + read
                break
        if position < size:
            holes += _HOLE.pack(position, size - position)
        saved.node.holes = holes

    def _read_large(self, file: OpenFile, saved: SavedFile) -> None:
        node, position = saved.node, 0
        holes = bytearray()
        for offset, length in file.extents(node.size):
            if offset > position:
                holes += _HOLE.pack(position, offset - position)
            position = offset + length
            end = self._cut_extent(file, offset, position, saved)
            if end < position:
                node.size = position = end
                break
        if position < node.size:
            holes += _HOLE.pack(position, node.size - position)
        node.holes, node.holes_depth = save_records(self._saver, bytes(holes), _HOLE.size)

    def _cut_extent(self, file: OpenFile, start: int, end: int, saved: SavedFile) -> int:
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
            if len(chunk) < SMALL_FILE:
                parts.append(self._saver.save(BlobKind.DATA, chunk))
            else:
                buffer.share()
                parts.append(self._saver.save_chunk(chunk, buffer.release))
            start = end
        return start

    def _small_buffer(self) -> memoryview:
        view: memoryview | None = getattr(self._local, "view", None)
        if view is None:
            view = self._local.view = memoryview(bytearray(SMALL_FILE))
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
