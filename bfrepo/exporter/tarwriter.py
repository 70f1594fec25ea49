"""A tar archive, written to a stream as its entries come."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from bfrepo.exporter.content import Holes
from bfrepo.exporter.entries import Entry
from bfrepo.exporter.sinks import Sink
from bfrepo.exporter.tar import BLOCK, BROKEN_END, END, RECORD, TarHeaders, padding

_ENDING: Final = 2 * BLOCK


class TarWriter:
    """See EntryWriter. `finish` or `abort` ends the archive."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._headers = TarHeaders()
        self._written = 0
        self._at = 0
        self._end = 0
        self._left = 0
        """Bytes of content that the headers promise and that are not written yet."""
        self._holes: deque[tuple[int, int]] = deque()

    def wants_content(self, entry: Entry) -> bool:
        """See EntryWriter: a further name of a file has no content of its own."""
        return entry.link is None

    def begin(self, entry: Entry, holes: Holes) -> None:
        """See EntryWriter."""
        self._end_entry()
        path, node, link = entry
        self._at = 0
        self._end = self._left = node.size if node.type == "file" and link is None else 0
        kept = _whole_blocks(holes, node.size) if holes else []
        if not kept:
            self._put(self._headers.of(path, node, link=link))
            return
        self._left -= sum(end - start for start, end in kept)
        self._holes.extend(kept)
        self._put(self._headers.of_sparse(path, node, list(_between(kept, node.size))))

    def data(self, offset: int, content: bytes) -> None:
        """See EntryWriter."""
        if offset > self._at:
            self._fill(offset)
        self._put(content)
        self._left -= len(content)
        self._at = offset + len(content)

    def finish(self) -> None:
        """The end of the archive."""
        self._end_entry()
        size = _ENDING + -(self._written + _ENDING) % RECORD
        self._put(END[:size])
        self._sink.flush()

    def abort(self) -> None:
        """End the archive so that whoever reads it sees that it is not complete."""
        if not self._left:  # otherwise it is cut off in the middle of a file, which is as clear
            self._end_entry()
            self._put(BROKEN_END)
        self._sink.flush()

    def _end_entry(self) -> None:
        if self._at < self._end:
            self._fill(self._end)
        if self._written % BLOCK:
            self._put(padding(self._written))

    def _fill(self, end: int) -> None:
        """Go over a hole, from where the file is to `end`; of what the map does not leave out, zeros are written."""
        count = end - self._at
        while self._holes and self._holes[0][0] < end:
            start, stop = self._holes.popleft()
            count -= stop - start
        self._sink.zeros(count)
        self._written += count
        self._left -= count
        self._at = end

    def _put(self, data: bytes) -> None:
        self._sink.write(data)
        self._written += len(data)


def _whole_blocks(holes: Holes, size: int) -> list[tuple[int, int]]:
    """What of the holes can be left out: whole blocks, and whatever is at the end of the file."""
    kept: list[tuple[int, int]] = []
    for start, end in holes:
        start += -start % BLOCK
        if end < size:
            end -= end % BLOCK
        if start < end:
            kept.append((start, end))
    return kept


def _between(holes: Sequence[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """What the holes leave of a file; nothing at its end, if it ends with a hole, so that its size is told."""
    at = 0
    for start, end in holes:
        if start > at:
            yield at, start
        at = end
    yield at, size
