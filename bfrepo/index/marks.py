"""Which blobs are needed: a byte for each blob of a table, by its number there, never a set of IDs.

Ten million blobs take ten megabytes. Why a blob is needed is kept apart, because what only a claim needs may be out of
reach (its backup finds that out for itself), while what a snapshot needs may not.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import compress
from typing import Final

from bfrepo.index.table import BlobTable

BY_SNAPSHOT: Final = 1
"""A snapshot needs the blob."""
BY_CLAIM: Final = 2
"""A backup that is about to write its snapshot needs it."""
_WALKED_SHIFT: Final = 2  # the same two bits again: all that a tree refers to was marked for this reason
_NEEDED: Final = bytes(1 if value & (BY_SNAPSHOT | BY_CLAIM) else 0 for value in range(256))


class Marks:
    """The marks of the blobs of `table`. Used by one thread at a time."""

    def __init__(self, table: BlobTable) -> None:
        self.table = table
        self._marks = bytearray(len(table))

    def grow(self) -> None:
        """Take in blobs that were added to the table since. To be called before anything else then."""
        self._marks.extend(bytes(len(self.table) - len(self._marks)))

    def mark(self, packed_ids: bytes, why: int) -> list[bytes]:
        """Mark blobs, whose IDs lie one behind the other; gives back those that the table does not know."""
        return self.table.mark(packed_ids, self._marks, why)

    def is_needed(self, blob_id: bytes) -> bool:
        """Whether anybody needs the blob."""
        return self.why(blob_id) != 0

    def why(self, blob_id: bytes) -> int:
        """BY_SNAPSHOT, BY_CLAIM, both or 0."""
        try:
            position = self.table.position(blob_id)
        except KeyError:
            return 0
        return self._marks[position] & (BY_SNAPSHOT | BY_CLAIM)

    def begin_walks(self, packed_ids: bytes, why: int) -> tuple[list[int], list[bytes]]:
        """Mark trees that are about to be walked: the numbers of those that were not walked yet, and the IDs not known.

        What was walked for a snapshot need not be walked for a claim, but the other way round it must be.
        """
        walked = (why | BY_SNAPSHOT) << _WALKED_SHIFT
        return self.table.mark_new(packed_ids, self._marks, why | why << _WALKED_SHIFT, walked)

    def needed_sizes(self) -> array[int]:
        """For each frame of the table, how many bytes of it anybody needs; an empty blob counts one."""
        return self.table.marked_sizes(self._marks, BY_SNAPSHOT | BY_CLAIM)

    def needed(self) -> Iterator[int]:
        """The numbers of all blobs that anybody needs, ascending."""
        flags = self._marks.translate(_NEEDED)
        return compress(range(len(flags)), flags)
