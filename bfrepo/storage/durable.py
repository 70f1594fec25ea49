"""The steps by which a file gets onto the disk, each of which a power cut can follow."""

from __future__ import annotations

import errno
import os
from io import FileIO
from pathlib import Path

from bfrepo.core.protocols import Buffer

_FILE_MODE = 0o400
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_FSYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})


def open_private(path: str, flags: int) -> int:
    """Create the file read-only: nothing that opens it later can change it, while we write through the descriptor."""
    return os.open(path, flags, _FILE_MODE)


def link_new(temporary: Path, path: str) -> None:
    """Give the file a second name, which must be new. Raises FileExistsError, OSError."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _copy_new(temporary, path)


def _copy_new(temporary: Path, path: str) -> None:
    """`link_new` for FAT, exFAT and some shares: no less exclusive, but a crash can leave a part of the file.

    It serves only for the config of a repository that is being made and holds nothing yet.
    """
    data = temporary.read_bytes()
    with open(path, "xb", buffering=0, opener=open_private) as file:
        try:
            write_all(file, data)
            sync(file.fileno())
        except BaseException:
            os.unlink(path)
            raise


def write_all(file: FileIO, data: Buffer) -> None:
    """Write all of `data`, in as many steps as it takes. Raises OSError; ValueError if the file is closed."""
    rest = memoryview(data).cast("B")
    if file.closed:
        raise ValueError("the upload has ended")
    while rest:
        rest = rest[file.write(rest) :]


def sync_directory(directory: str | Path) -> None:
    """Make the names in `directory` durable: those made and those gone. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """fsync, where the file system has it. Raises OSError.

    Some network shares and FUSE file systems do not have it for directories, or at all; they keep what promise they
    can.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
