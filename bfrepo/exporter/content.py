"""Content of many files, one after the other, read ahead by several threads.

What is to come is planned in batches of a few MiB: each frame that a batch needs is read and opened once, by whichever
thread is free, while the batches before it are written. Memory is bounded by the batches that are under way, whatever
the size of files.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from bfrepo.core.errors import DamagedBlob, DamagedObject, Interrupted
from bfrepo.core.ids import ID_SIZE
from bfrepo.core.protocols import BlobLoader
from bfrepo.core.units import MIB
from bfrepo.data.layout import Layout, unpack_holes
from bfrepo.data.records import load_records, split_ids
from bfrepo.exporter.entries import Entry

_BATCH: Final = 8 * MIB
_LARGEST_BATCH: Final = 16 * MIB
"""A batch goes on beyond the first as long as it stays in frames that it needs anyway, and ends at the second."""
_MOST_STEPS: Final = 8192
_AHEAD: Final = 3
"""Batches that are read while one is written."""

Holes: TypeAlias = Sequence[tuple[int, int]]
"""(start, end) of each hole of a file, in order and apart."""


class EntryWriter(Protocol):
    """Takes entries one after the other. Used by one thread."""

    def wants_content(self, entry: Entry) -> bool:
        """Whether `data` shall follow for a file."""

    def begin(self, entry: Entry, holes: Holes) -> None:
        """The next entry; the one before is complete."""

    def data(self, offset: int, content: bytes) -> None:
        """A piece of the file that was begun, in order; what is left out between pieces, and at the end, is a hole."""


_Piece: TypeAlias = tuple[int, bytes, int]
"""A frame, the ID of a blob in it, and where the blob goes in the file."""


@dataclass(slots=True)
class _Step:
    """A piece of the work: an entry begins, or its content goes on; or it ends with an error."""

    entry: Entry
    begins: bool
    holes: Holes = ()
    pieces: list[_Piece] = field(default_factory=list)
    error: DamagedObject | None = None


@dataclass(slots=True)
class _Batch:
    steps: list[_Step] = field(default_factory=list)
    needed: dict[int, list[bytes]] = field(default_factory=dict)
    frames: dict[int, Future[dict[bytes, bytes | DamagedObject]]] = field(default_factory=dict)
    size: int = 0

    def takes(self, frame: int) -> bool:
        """Whether a blob of that frame may still come into this batch."""
        return self.size < _BATCH or (self.size < _LARGEST_BATCH and frame in self.needed)

    def need(self, frame: int, blob_id: bytes, size: int) -> None:
        """Note a blob that is to be read."""
        self.size += size
        blob_ids = self.needed.get(frame)
        if blob_ids is None:
            self.needed[frame] = [blob_id]
        else:
            blob_ids.append(blob_id)


def write_entries(
    loader: BlobLoader,
    entries: Iterable[Entry],
    writer: EntryWriter,
    cancelled: Callable[[], bool],
) -> None:
    """Give entries and their content to a writer, in order, until one cannot be given as it was backed up.

    Raises DamagedObject, which names the file, when its content is not all there and right; Interrupted; and what the
    loader and the writer raise. What the writer was given until then is right.
    """
    plan = _Planner(loader, writer.wants_content).batches(entries)
    under_way: deque[_Batch] = deque()
    with ThreadPoolExecutor(loader.readers, thread_name_prefix="dump") as pool:
        try:
            while True:
                while len(under_way) <= _AHEAD and (batch := next(plan, None)) is not None:
                    for run in loader.runs(batch.needed):
                        batch.frames.update(dict.fromkeys(run, pool.submit(_read, loader, run, batch.needed)))
                    under_way.append(batch)
                if not under_way:
                    return
                if cancelled():
                    raise Interrupted("the dump was interrupted")
                _write(under_way.popleft(), writer)
        finally:
            pool.shutdown(cancel_futures=True)


def needed_frames(loader: BlobLoader, entries: Iterable[Entry]) -> Iterator[Iterable[int]]:
    """The frames that `write_entries` would read, some at a time, for a writer that wants each content once."""
    for batch in _Planner(loader, lambda entry: entry.link is None).batches(entries):
        yield batch.needed.keys()


def _read(
    loader: BlobLoader, run: Sequence[int], needed: Mapping[int, Sequence[bytes]]
) -> dict[bytes, bytes | DamagedObject]:
    loader.read_ahead(run)
    return {
        blob_id: data if isinstance(data, DamagedObject) else bytes(data)
        for frame in run
        for blob_id, data in loader.read_frame(frame, needed[frame])
    }


def _write(batch: _Batch, writer: EntryWriter) -> None:
    at, blobs = -1, {}
    for step in batch.steps:
        if step.error is not None:
            raise _named(step.entry, step.error)
        if step.begins:
            writer.begin(step.entry, step.holes)
        for frame, blob_id, offset in step.pieces:
            if frame != at:
                at, blobs = frame, batch.frames[frame].result()
            data = blobs[blob_id]
            if isinstance(data, DamagedObject):
                raise _named(step.entry, data) from data
            writer.data(offset, data)


def _named(entry: Entry, error: DamagedObject) -> DamagedObject:
    message = f"/{entry.path.decode(errors='backslashreplace')}: {error}"
    return DamagedBlob(message, hint=error.hint or "run 'backupforge check --read-data' to see what else is damaged")


class _Planner:
    """Finds out where content is."""

    def __init__(self, loader: BlobLoader, wants: Callable[[Entry], bool]) -> None:
        self._loader = loader
        self._wants = wants
        self._batch = _Batch()

    def batches(self, entries: Iterable[Entry]) -> Iterator[_Batch]:
        """The work. It ends with the first entry whose content is not all there."""
        for entry in entries:
            try:
                holes, pieces = self._content(entry)
            except DamagedObject as error:
                self._batch.steps.append(_Step(entry, False, error=error))
                break
            step = self._add(_Step(entry, True, holes))
            for size, piece in pieces:
                if not self._batch.takes(piece[0]):
                    yield self._cut()
                    step = self._add(_Step(entry, False))
                self._batch.need(piece[0], piece[1], size)
                step.pieces.append(piece)
            if len(self._batch.steps) >= _MOST_STEPS:
                yield self._cut()
        yield self._cut()

    def _add(self, step: _Step) -> _Step:
        self._batch.steps.append(step)
        return step

    def _cut(self) -> _Batch:
        batch, self._batch = self._batch, _Batch()
        return batch

    def _content(self, entry: Entry) -> tuple[Holes, Iterable[tuple[int, _Piece]]]:
        """The holes of a file, and its pieces with their sizes. Raises DamagedObject unless all add up to its size."""
        node, loader = entry.node, self._loader
        if node.type != "file" or not self._wants(entry):
            return (), ()
        if len(node.content) == ID_SIZE and not node.holes and not node.content_depth:
            place = loader.place(node.content)
            if place.size != node.size:
                raise DamagedObject(f"its content has {place.size} bytes, its size is {node.size}")
            return (), ((place.size, (place.frame, node.content, 0)),)
        holes = unpack_holes(node.size, load_records(loader, node.holes, node.holes_depth))
        blob_ids = split_ids(load_records(loader, node.content, node.content_depth))
        for _ in self._lay_out(node.size, holes, blob_ids):
            pass
        return holes, self._lay_out(node.size, holes, blob_ids)

    def _lay_out(
        self, size: int, holes: list[tuple[int, int]], blob_ids: Sequence[bytes]
    ) -> Iterator[tuple[int, _Piece]]:
        layout = Layout(size, holes)
        for blob_id in blob_ids:
            place = self._loader.place(blob_id)
            yield place.size, (place.frame, blob_id, layout.take(place.size))
        layout.finish()
