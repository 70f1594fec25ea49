"""The content of one file and nothing else."""

from __future__ import annotations

from bfrepo.exporter.content import Holes
from bfrepo.exporter.entries import Entry
from bfrepo.exporter.sinks import Sink


class RawWriter:
    """See EntryWriter. Made for a single file."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._at = 0
        self._end = 0

    def wants_content(self, entry: Entry) -> bool:
        """See EntryWriter."""
        return True

    def begin(self, entry: Entry, holes: Holes) -> None:
        """See EntryWriter."""
        self._end = entry.node.size

    def data(self, offset: int, content: bytes) -> None:
        """See EntryWriter."""
        self._sink.zeros(offset - self._at)
        self._sink.write(content)
        self._at = offset + len(content)

    def finish(self) -> None:
        """All of the file is written."""
        self._sink.zeros(self._end - self._at)
        self._sink.flush()

    def abort(self) -> None:
        """What is right has been written, and nothing follows it."""
        self._sink.flush()
