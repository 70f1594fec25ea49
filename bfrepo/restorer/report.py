"""What a restore tells: to an observer while it goes on, and as a summary when it is done."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

from bfrepo.core.errors import BackupForgeError, TargetError
from bfrepo.data.node import NodeType

Outcome: TypeAlias = Literal["created", "updated", "unchanged", "skipped"]
"""Made new; content or metadata mended; right as it was; left alone because the overwrite rule says so."""

_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


class RestoreObserver(Protocol):
    """Told what happens.

    Calls come from several threads, never two at a time. Paths begin at the root of the restore.
    """

    def on_total(self, files: int, size: int) -> None:
        """How many files, and bytes in them, the plan holds so far; grows while the tree is walked."""

    def on_bytes(self, count: int) -> None:
        """So many more bytes of file content are in place, written or found."""

    def on_item(self, path: bytes, outcome: Outcome, size: int) -> None:
        """One entry is done; on a dry run: would be."""

    def on_removed(self, path: bytes) -> None:
        """An entry that is not in the snapshot is gone, with what was in it; on a dry run: would be."""

    def on_error(self, path: bytes, error: BackupForgeError) -> None:
        """One item could not be restored, or not completely, or is not what was written."""


@dataclass(slots=True, kw_only=True)
class Counts:
    """Entries of one kind by what became of them."""

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0


@dataclass(slots=True, kw_only=True)
class RestoreSummary:
    """What was done, or on a dry run would be. Sizes are bytes of file content.

    `others` are symlinks, fifos, sockets and devices. A name that became a hard link counts as a file (or other)
    created. `bytes_total` is the size of all files selected, `bytes_written` what had to be written of it. `errors`
    counts items.
    """

    files: Counts = field(default_factory=Counts)
    directories: Counts = field(default_factory=Counts)
    others: Counts = field(default_factory=Counts)
    removed: int = 0
    errors: int = 0
    bytes_total: int = 0
    bytes_written: int = 0
    bytes_verified: int = 0


class Report:
    """Counts, and passes on to the observer, one call at a time. May be used from any thread."""

    def __init__(self, observer: RestoreObserver) -> None:
        self.summary = RestoreSummary()
        self._observer = observer
        self._lock = threading.Lock()
        self._files = 0

    def planned(self, size: int) -> None:
        """One more file is in the plan."""
        self._files += 1
        self.summary.bytes_total += size

    def tell_total(self) -> None:
        """Pass on how much the plan holds so far."""
        with self._lock:
            self._observer.on_total(self._files, self.summary.bytes_total)

    def item(self, kind: NodeType, path: bytes, outcome: Outcome, size: int = 0) -> None:
        """An entry is done."""
        summary = self.summary
        with self._lock:
            counts = summary.files if kind == "file" else summary.directories if kind == "dir" else summary.others
            setattr(counts, outcome, getattr(counts, outcome) + 1)
            self._observer.on_item(path, outcome, size)

    def made(self, files: Sequence[tuple[bytes, int]]) -> None:
        """Files have been made, given as (path, size), with all their content."""
        size = sum(size for _, size in files)
        with self._lock:
            self.summary.files.created += len(files)
            self.summary.bytes_written += size
            self._observer.on_bytes(size)
            for path, each in files:
                self._observer.on_item(path, "created", each)

    def moved(self, done: int, written: int) -> None:
        """Content is in place, and so much of it had to be written."""
        with self._lock:
            self.summary.bytes_written += written
            self._observer.on_bytes(done)

    def verified(self, count: int) -> None:
        """So many bytes were read back and are right."""
        with self._lock:
            self.summary.bytes_verified += count

    def removed(self, path: bytes) -> None:
        """An entry that is not in the snapshot is gone."""
        with self._lock:
            self.summary.removed += 1
            self._observer.on_removed(path)

    def failed(self, path: bytes, error: Exception | str) -> None:
        """An item could not be restored as it should. Raises TargetError when there is no room for anything more."""
        with self._lock:
            self.summary.errors += 1
            self._observer.on_error(path, _explain(error))
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise TargetError(
                f"no space left to restore {os.fsdecode(path)}",
                hint="make room and restore again: what is in place already is not written twice",
            ) from error


def _explain(error: Exception | str) -> BackupForgeError:
    if isinstance(error, BackupForgeError):
        return error
    if isinstance(error, OSError) and error.errno is not None:
        return TargetError(os.strerror(error.errno))
    return TargetError(str(error))
