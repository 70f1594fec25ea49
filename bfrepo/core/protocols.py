"""The narrow contracts between the two columns: what meaning (files) needs of keeping (bytes), and nothing more.

`bfrepo.repository` implements these; `archiver`, `restorer`, `checker` and `vfs` only see them. Every method may be
called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from bfrepo.core.ids import BlobKind

if TYPE_CHECKING:
    from concurrent.futures import Future

    from bfrepo.core.errors import DamagedObject

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Anything that holds bytes in one contiguous piece."""


class BlobSaver(Protocol):
    """Takes blobs in and gives their IDs back; what it holds already is not stored twice."""

    def save(self, kind: BlobKind, data: Buffer) -> bytes:
        """The ID of `data`, which is copied if it is new, so that the caller may reuse the memory at once.

        May block while the pipeline is full. Raises the error of whatever failed in the background since the last call.
        """

    def save_many(self, kind: BlobKind, data: memoryview, sizes: Sequence[int]) -> list[bytes]:
        """As `save` for small blobs that lie one after the other from the start of `data`; their IDs in order."""

    def holds(self, blob_id: bytes) -> bool:
        """Whether the blob need not be saved: a pack that nobody wants gone has it, or it was saved just now."""

    def save_chunk(self, data: memoryview, release: Callable[[], None]) -> Future[bytes]:
        """As `save` for one large chunk of a file, hashed and stored by another thread straight from `data`.

        `data` must stay as it is until `release` is called, exactly once, on success and on failure.
        """


class BlobPlace(NamedTuple):
    """Where a blob is:

    a frame, numbered so that order is pack by pack and front to back, and the range in its plaintext. A tuple, as it is
    made for every blob that anybody asks for.
    """

    frame: int
    offset: int
    size: int


class Chunker(Protocol):
    """Cuts a file's data into chunks by its content. Holds no state."""

    @property
    def minimum(self) -> int:
        """What is not longer than this many bytes is one chunk."""

    @property
    def maximum(self) -> int:
        """Bytes that no chunk exceeds."""

    def cut(self, data: Buffer, start: int, end: int, *, final: bool) -> Sequence[int]:
        """End offsets of the chunks in `data[start:end]`; unless `final`, the rest is left to the next call."""


class BlobLoader(Protocol):
    """Gives blobs back, always verified: a blob that does not hash to its ID is never returned (INV-4)."""

    def load(self, kind: BlobKind, blob_id: bytes) -> bytes:
        """One blob. Raises MissingBlob when no pack has it, DamagedBlob when no copy of it is intact."""

    def place(self, blob_id: bytes) -> BlobPlace:
        """Where the blob is, from the index alone. Raises MissingBlob."""

    def read_frame(self, frame: int, blob_ids: Sequence[bytes]) -> Iterator[tuple[bytes, memoryview | DamagedObject]]:
        """The blobs asked for out of one frame, which is read and opened once, in the order of `blob_ids`.

        Yields each ID with its plaintext or with the error that says why there is none; another copy is tried first.
        A view is valid until the same thread asks for its next frame.
        """

    @property
    def readers(self) -> int:
        """How many threads are worth reading with: more than there are processors where the storage is far away."""

    def runs(self, frames: Iterable[int]) -> list[list[int]]:
        """The frames in their order, in groups that are worth reading together, as they lie near each other."""

    def read_ahead(self, run: Sequence[int]) -> None:
        """Fetch such a group at once: the calls of `read_frame` for its frames that this thread makes next need not.

        What cannot be fetched is left to them. Raises what only a storage that fails raises.
        """


class BlobSizes(Protocol):
    """Tells how large blobs are, from the index alone and many at a time."""

    def data_sizes(self, blob_ids: Sequence[bytes]) -> list[int]:
        """Bytes of each blob's plaintext; -1 for one that the index does not name as data."""


class BlobViews(BlobLoader, BlobSizes, Protocol):
    """Gives blobs as views of opened frames, which are kept for a while: for whoever reads here and there.

    A view stays valid for as long as it is held, and holds the memory of its whole frame: let go of it soon.
    """

    def peek(self, blob_id: bytes) -> memoryview | None:
        """The blob if its frame is at hand, without waiting for anything. Raises MissingBlob and DamagedBlob."""

    def view(self, blob_id: bytes) -> memoryview:
        """The blob, read if need be. Raises MissingBlob, DamagedBlob and StorageError."""

    def prefetch(self, blob_ids: Iterable[bytes], after: bytes | None = None) -> None:
        """Begin to read what will be asked for soon, as far as there is room; errors are for who asks for it then.

        With `after`, a blob that was asked for already, they are read from one end to the other: views of two that
        follow each other then mostly lie side by side in memory.
        """

    def release(self, blob_id: bytes) -> None:
        """The blob will not be asked for soon: a frame that holds nothing else need not be kept."""
