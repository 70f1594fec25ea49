"""The contract between the archiver and whatever is backed up: a tree of directories that can be listed and files that
can be read.

A source leaves out what is excluded and reports what it cannot look at through the `on_error` it was made with; the
archiver never sees either. Listing, opening and reading raise OSError; the archiver turns it into a report and goes on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from bfrepo.data.node import Node, Stat

UNKNOWN_SIZE: Final = (1 << 63) - 1
"""The size that a file has in its stat and node when nobody knows it before the end, as with a stream. Reading goes on
until `read_into` gives less than it was asked for; no sum of sizes counts it."""


class OpenFile(Protocol):
    """A regular file that is being read. Used by one thread at a time."""

    def node(self) -> Node:
        """Everything but content and holes, read from the open file itself, so that it describes what is being read."""

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """(offset, length) of the data below `size`, in order; what lies between them are holes."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset` on; the number of bytes read, less than asked only at the end of the file."""

    def changed(self, node: Node) -> bool:
        """Whether the file has been written to since `node` was read from it."""

    def close(self) -> None:
        """Release it. Idempotent."""


class Entry(Protocol):
    """One name in a directory. Cheap: a listing makes one for every file."""

    @property
    def name(self) -> bytes: ...

    @property
    def path(self) -> bytes:
        """The whole path, for people."""

    @property
    def stat(self) -> Stat:
        """What listing the directory told."""

    def node(self) -> Node:
        """Everything about an entry that is no regular file, including a symlink's target; without a subtree."""

    def open_file(self) -> OpenFile:
        """Open a regular file for reading; raises OSError if it is no longer one."""

    def open_directory(self) -> Directory:
        """Open a directory; raises OSError if it is no longer one."""


class Directory(Protocol):
    """An open directory. `entries` may be called once; entries may be opened, from any thread, until `close`."""

    @property
    def path(self) -> bytes: ...

    def node(self) -> Node | None:
        """The directory's own metadata; None for the root of the snapshot's tree."""

    def entries(self) -> Sequence[Entry]:
        """What it holds, sorted by name, without what is excluded."""

    def read_small(self, entries: Sequence[Entry], limit: int, buffer: memoryview) -> Sequence[tuple[Node, int] | None]:
        """Read files of up to `limit` bytes whole into `buffer`, one after the other: each file's node and size.

        The result is parallel to `entries`, has at least one item, and is shorter where the next no longer fits. None
        stands for a file that is better read by itself, for whatever reason, and has left nothing in the buffer. A
        source for which this is no quicker gives None for all. May be called from any thread.
        """

    def close(self) -> None:
        """Release it. Idempotent."""


class Member(NamedTuple):
    """What comes with its path. `path` are the names from the root of the tree, at least one.

    `link` is the path of an earlier member of which this is another name. `file` is set for a regular file, and must
    be read before the next member is asked for.
    """

    path: tuple[bytes, ...]
    node: Node
    link: tuple[bytes, ...] | None = None
    file: OpenFile | None = None


class MemberSource(ABC):
    """Something that cannot be walked, as it comes in an order of its own and once: an archive."""

    @abstractmethod
    def members(self) -> Iterator[Member]:
        """Each member. Called once. Raises BackupForgeError where not all can be had."""


class ImagePart(NamedTuple):
    """Some of what disk images hold. When `pieces`, (image, offset, data) each, has ended, all of `ranges` has come.

    An image is named by its place in `ImageSource.images`; a range is (image, start, end), and what no piece has of it
    is zeros. Data is valid until the next piece is asked for.
    """

    ranges: Sequence[tuple[int, int, int]]
    pieces: Iterator[tuple[int, int, memoryview]]


class ImageSource(MemberSource):
    """A source with disk images behind its members, whose parts come side by side and in any order."""

    @abstractmethod
    def images(self) -> Sequence[Member]:
        """The images, as members without a file. Called when the members have ended."""

    @abstractmethod
    def parts(self) -> Iterator[ImagePart]:
        """All parts, each range once. Called once; the pieces of one part are read before the next is asked for.

        Raises BackupForgeError where not all can be had.
        """


class StaleFile(OSError):
    """The file changed between two parts of it, so that what was read is of no use: it has to be opened again."""


class StreamedSource(ABC):
    """A source that sends files one after the other, and is quick when it knows early which are wanted."""

    @abstractmethod
    def open_root(self) -> Directory:
        """See Source.open_root."""

    @abstractmethod
    def expect(self, entries: Sequence[Entry]) -> None:
        """These regular files will be read, in this order, behind those that were named before; by one thread, which
        need not be the one that lists directories and names files.
        """


class Source(Protocol):
    """Something that can be backed up."""

    def open_root(self) -> Directory:
        """The root of the tree that mirrors absolute paths."""
