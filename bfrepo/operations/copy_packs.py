"""Which packs of file data a copy has to read, for whoever has to bring them back from an archive first.

All that the snapshots reach which are to be copied, but for what snapshots reach that the target has already. The copy
itself may read less: what other snapshots of the target hold is found out only on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import DamagedObject
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Progress
from bfrepo.index.marks import BY_CLAIM, BY_SNAPSHOT, Marks
from bfrepo.operations.marking import Marker
from bfrepo.operations.warming import NeededPacks
from bfrepo.repository.repository import Repository

_COPIED = BY_SNAPSHOT
_WANTED = BY_CLAIM
"""What is marked as copied is not walked again for what is wanted, and what cannot be reached is passed over."""


def packs_to_copy(
    repository: Repository, missing: Iterable[bytes], copied: Iterable[bytes], cancelled: Callable[[], bool]
) -> dict[bytes, int]:
    """The packs, with their sizes. `missing` and `copied` are the root trees of snapshots.

    Raises UnsupportedFormat, StorageError and Interrupted.
    """
    marks = Marks(repository.index.table)
    loader = repository.make_loader(repository.index)
    marker = Marker(marks, loader, repository.blob_hash, Progress(), cancelled, threads=native_threads())
    with suppress(DamagedObject):  # less is known to be copied then
        marker.mark(copied, _COPIED)
    marker.mark(missing, _WANTED)
    needed = NeededPacks(marks.table)
    needed.add(_wanted_frames(marks))
    return needed.sizes


def _wanted_frames(marks: Marks) -> Iterator[int]:
    table = marks.table
    for position in marks.needed():
        blob_id, place = table.at(position)
        if marks.why(blob_id) == _WANTED and table.kind_of(place.frame) is BlobKind.DATA:
            yield place.frame
