"""Types of the kernel in _scan.c."""

from collections.abc import Callable
from typing import final

from bfrepo.data.node import NodeType

@final
class Stat:
    """One look at one entry of a file system. Immutable."""

    @property
    def name(self) -> bytes:
        """Raw bytes; empty when an open file was asked."""
    @property
    def type(self) -> NodeType: ...
    @property
    def mode(self) -> int:
        """Permission bits, setuid, setgid and sticky: the 0o7777 part."""
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes."""
    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since 1970, as all times here; held at the ends of 64 bits."""
    @property
    def ctime_ns(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def btime_ns(self) -> int | None:
        """Time of birth; None where the file system keeps none."""
    @property
    def inode(self) -> int: ...
    @property
    def device(self) -> int:
        """As st_dev of os.stat."""
    @property
    def links(self) -> int: ...
    @property
    def rdev(self) -> int:
        """As st_rdev of os.stat."""
    @property
    def flags(self) -> int:
        """FS_*_FL bits of Linux: compressed 0x4, immutable 0x10, append 0x20, nodump 0x40."""
    @property
    def blocks(self) -> int:
        """Blocks of 512 bytes that are taken up."""

def scan(
    dir_fd: int, leave_out: Callable[[bytes, NodeType], bool] | None = None, /
) -> tuple[list[Stat], list[tuple[bytes, int]]]:
    """Every entry of a directory that was opened for reading, sorted by name, and (name, errno) of those that could
    not be looked at.

    Names for which `leave_out(name, type)` is true are in neither, and are not touched. Raises OSError when the
    directory itself cannot be read, and whatever `leave_out` raises. One thread at a time for each descriptor.
    """

def stat_at(dir_fd: int, name: bytes, /) -> Stat:
    """One entry of an open directory; a symlink is not followed. Raises OSError."""

def stat_fd(fd: int, /) -> Stat:
    """Something open, O_PATH included. Raises OSError."""

def open_file(dir_fd: int, name: bytes, /) -> tuple[int, Stat, bytes]:
    """Open a regular file for reading: descriptor, a look at it, and the names of its xattrs, each ended by NUL.

    Never follows a symlink, never blocks on a fifo, leaves the access time alone where that is allowed. Raises
    OSError, with errno ELOOP for whatever is not a regular file.
    """

def read_small(dir_fd: int, names: tuple[bytes, ...], limit: int, buffer: memoryview, /) -> list[Stat | None]:
    """Read plain files whole, one after the other, into `buffer`, without the GIL.

    The result is parallel to `names`, and shorter where the next file no longer fits. A Stat says that the file's
    `size` bytes follow those of the one before; None, that it is not plain (no regular file, with holes or extended
    attributes, of more than `limit` bytes), changed while it was read, or could not be opened or read: then nothing
    of it is in the buffer.
    Raises ValueError for a limit beyond the size of the buffer.
    """
