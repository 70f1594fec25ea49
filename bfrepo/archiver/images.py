"""Saving disk images whose parts come side by side and in any order, cut into chunks of one size.

A chunk is handed on when all of it has come. What is not complete yet waits in memory, and beyond a limit in a
temporary file: a disk that is written to while it is copied sends those places early, and they may be anywhere. A chunk
of nothing but zeros becomes a hole. Per chunk 32 bytes of memory are kept, its ID.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import IO, Final

from bfrepo.archiver.filesaver import LARGE_CHUNK
from bfrepo.core.errors import SourceError
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.protocols import BlobSaver
from bfrepo.core.units import MIB
from bfrepo.data.node import Node
from bfrepo.data.records import save_records

_IN_MEMORY: Final = 64 * MIB
"""How many bytes of chunks that are not complete stay in memory."""

_UNDER_WAY: Final = 16
"""Chunks that may be with the saver."""

_HOLE: Final = ID_SIZE * b"\0"
_Key = tuple[int, int]
"""An image and the number of a chunk in it."""


class _Image:
    """One image: `ids` has the ID of each chunk, zeros where there is none, and `missing` the bytes of a chunk that
    have not come, of those of which some have.
    """

    __slots__ = ("ids", "missing", "node")

    def __init__(self, node: Node, chunk: int) -> None:
        self.node = node
        self.ids = bytearray(-(-node.size // chunk) * ID_SIZE)
        self.missing: dict[int, int] = {}


class ImageSaver:
    """Saves images. Used by one thread, as a context manager."""

    def __init__(self, saver: BlobSaver, nodes: Sequence[Node], chunk: int, *, in_memory: int = _IN_MEMORY) -> None:
        """`nodes` tell the sizes; `chunk` is bytes. Beyond `in_memory` bytes a temporary file is used."""
        self._saver = saver
        self._chunk = chunk
        self._images = [_Image(node, chunk) for node in nodes]
        self._zeros = bytes(chunk)
        self._most_open = max(in_memory // chunk, 1)
        self._open: dict[_Key, memoryview] = {}
        self._free: list[memoryview] = []
        self._under_way: deque[tuple[_Image, int, Future[bytes]]] = deque()
        self._spilled: dict[_Key, int] = {}
        self._slots: list[int] = []
        self._file: IO[bytes] | None = None

    def __enter__(self) -> ImageSaver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, image: int, offset: int, data: memoryview) -> None:
        """Some of an image, which is copied."""
        chunk = self._chunk
        while data:
            number, start = divmod(offset, chunk)
            count = min(len(data), chunk - start)
            self._write((image, number), start, data[:count])
            data = data[count:]
            offset += count

    def cover(self, image: int, start: int, end: int) -> None:
        """All that is other than zeros in [start, end) has been put. Each byte is covered once."""
        chunk, found = self._chunk, self._images[image]
        missing, size = found.missing, found.node.size
        while start < end:
            number = start // chunk
            length = min(chunk, size - number * chunk)
            stop = min(end, number * chunk + length)
            left = missing.get(number, length) - (stop - start)
            if left:
                missing[number] = left
            else:
                missing.pop(number, None)
                self._complete((image, number), length)
            start = stop

    def finish(self) -> list[Node]:
        """The complete nodes. Raises SourceError unless all of every image was covered."""
        while self._under_way:
            self._note_first()
        if self._open or self._spilled or any(image.missing for image in self._images):
            raise SourceError("not all of a disk has come")
        return [self._finish(image) for image in self._images]

    def _write(self, key: _Key, start: int, data: memoryview) -> None:
        slot = self._spilled.get(key)
        if slot is not None:
            os.pwrite(self._scratch(), data, slot * self._chunk + start)
            return
        buffer = self._open.get(key)
        if buffer is None:
            if len(self._open) >= self._most_open:
                self._spill(next(iter(self._open)))
            buffer = self._open[key] = self._empty_buffer()
        buffer[start : start + len(data)] = data

    def _complete(self, key: _Key, length: int) -> None:
        buffer = self._open.pop(key, None)
        slot = self._spilled.pop(key, None)
        if slot is not None:
            buffer = self._empty_buffer()
            os.preadv(self._scratch(), [buffer], slot * self._chunk)
            self._slots.append(slot)
        if buffer is not None:
            self._save(key, buffer, length)

    def _save(self, key: _Key, buffer: memoryview, length: int) -> None:
        image, number = self._images[key[0]], key[1]
        data = buffer[:length]
        if self._zeros.startswith(data):
            self._free.append(buffer)
        elif length < LARGE_CHUNK:
            image.ids[number * ID_SIZE : (number + 1) * ID_SIZE] = self._saver.save(BlobKind.DATA, data)
            self._free.append(buffer)
        else:
            future = self._saver.save_chunk(data, lambda: self._free.append(buffer))
            self._under_way.append((image, number, future))
            if len(self._under_way) > _UNDER_WAY:
                self._note_first()

    def _note_first(self) -> None:
        image, number, future = self._under_way.popleft()
        image.ids[number * ID_SIZE : (number + 1) * ID_SIZE] = future.result()

    def _empty_buffer(self) -> memoryview:
        if not self._free:
            return memoryview(bytearray(self._chunk))
        buffer = self._free.pop()
        buffer[:] = self._zeros
        return buffer

    def _spill(self, key: _Key) -> None:
        slot = self._slots.pop() if self._slots else len(self._spilled)
        buffer = self._open.pop(key)
        os.pwrite(self._scratch(), buffer, slot * self._chunk)
        self._spilled[key] = slot
        self._free.append(buffer)

    def _scratch(self) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the images)
        return self._file.fileno()

    def _finish(self, image: _Image) -> Node:
        node, chunk = image.node, self._chunk
        content, holes = bytearray(), bytearray()
        for number, start in enumerate(range(0, node.size, chunk)):
            blob_id = image.ids[number * ID_SIZE : (number + 1) * ID_SIZE]
            if blob_id != _HOLE:
                content += blob_id
            else:
                _add_hole(holes, start, min(chunk, node.size - start))
        node.holes, node.holes_depth = save_records(self._saver, bytes(holes), 16)
        node.content, node.content_depth = save_records(self._saver, bytes(content), ID_SIZE)
        return node


def _add_hole(holes: bytearray, start: int, length: int) -> None:
    """Add a hole to packed <u64 offset, u64 length> records, or make the last one longer."""
    if holes:
        before = int.from_bytes(holes[-16:-8], "little")
        before_length = int.from_bytes(holes[-8:], "little")
        if before + before_length == start:
            holes[-8:] = (before_length + length).to_bytes(8, "little")
            return
    holes += start.to_bytes(8, "little") + length.to_bytes(8, "little")
