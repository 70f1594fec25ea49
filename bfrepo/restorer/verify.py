"""Reading back what was restored, and comparing it with the repository once more."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from bfrepo.core.errors import DamagedObject, TargetError
from bfrepo.localfs.sparse import nonzero_blocks
from bfrepo.restorer.files import REFUSED, Hands
from bfrepo.restorer.report import Report
from bfrepo.restorer.window import Item

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Verifier:
    """Compares files in the target with their content.

    May be used from any number of threads, each with its own Hands.
    """

    def __init__(self, report: Report) -> None:
        self._report = report

    def flush(self, hands: Hands) -> None:
        """Nothing waits."""

    def take(self, hands: Hands, item: Item, offset: int, data: memoryview | DamagedObject) -> None:
        """Compare one piece of content; what differs, or cannot be read, is reported once for each file."""
        if item.failed or item.directory.failed:
            return
        if isinstance(data, DamagedObject):
            self._fail(item, data)
            return
        try:
            self._compare(hands, item, offset, data)
        except REFUSED as error:
            self._fail(item, error)

    def _compare(self, hands: Hands, item: Item, offset: int, data: memoryview) -> None:
        size = len(data)
        fd = _open(hands.directories.open(item.directory), item.node.name)
        try:
            now = os.fstat(fd)
            if not stat.S_ISREG(now.st_mode) or now.st_size != item.node.size:
                self._fail(item, TargetError(f"verifying: it has {now.st_size} bytes, not {item.node.size}"))
                return
            os.posix_fadvise(fd, offset, size, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
            if not hands.read_at(fd, size, offset).startswith(data):
                self._fail(item, TargetError(f"verifying: it differs from the snapshot after byte {offset}"))
                return
            if offset == 0 or (item.holes and item.holes[0][0] == 0):
                self._check_holes(fd, item)
        finally:
            os.close(fd)
        self._report.verified(size)

    def _check_holes(self, fd: int, item: Item) -> None:
        for offset, _ in nonzero_blocks(fd, item.node.size, item.holes):
            self._fail(item, TargetError(f"verifying: it should be a hole at byte {offset}"))
            return

    def _fail(self, item: Item, error: Exception) -> None:
        if not item.failed:
            item.fail()
            self._report.failed(item.path, error)


def _open(dir_fd: int, name: bytes) -> int:
    """Open for reading, without touching the access time where that is ours to decide."""
    with contextlib.suppress(PermissionError):
        return os.open(name, _READ | os.O_NOATIME, dir_fd=dir_fd)
    return os.open(name, _READ, dir_fd=dir_fd)
