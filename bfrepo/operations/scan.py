"""Finding out how much there is to back up, beside the backup, so that its display can tell how long it will take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.progress import Progress
from bfrepo.sources.base import Directory, Entry, Source

_DELAY_S: Final = 1.0
"""A backup that is over by then has nobody to tell, and need not share the machine."""


def scan(source: Source, cancelled: Callable[[], bool]) -> tuple[int, int] | None:
    """How many files there are, and their bytes; None when cancelled. What cannot be listed does not count."""
    files = size = 0
    levels = [_Level(source.open_root())]
    try:
        while levels:
            if cancelled():
                return None
            level = levels[-1]
            if level.subdirectories is None:
                found, level.subdirectories = _look(level.directory)
                files += len(found)
                size += sum(found)
            inner = _enter_next(level.subdirectories)
            if inner is not None:
                levels.append(_Level(inner))
            else:
                levels.pop().directory.close()
    finally:
        for level in levels:
            level.directory.close()
    return files, size


@dataclass(slots=True)
class _Level:
    directory: Directory
    subdirectories: Iterator[Entry] | None = None


def _look(directory: Directory) -> tuple[list[int], Iterator[Entry]]:
    """The sizes of the files in a directory, and its directories."""
    try:
        entries = directory.entries()
    except OSError:
        return [], iter(())
    sizes = [entry.stat.size for entry in entries if entry.stat.type == "file"]
    return sizes, iter([entry for entry in entries if entry.stat.type == "dir"])


def _enter_next(subdirectories: Iterator[Entry]) -> Directory | None:
    for entry in subdirectories:
        try:
            return entry.open_directory()
        except OSError:
            continue
    return None


class BackgroundScan:
    """Scans in a thread of its own while the context lasts, and then fills in the totals of `progress`."""

    def __init__(self, open_source: Callable[[], Source], progress: Progress) -> None:
        self._open_source = open_source
        self._progress = progress
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scan", daemon=True)

    def __enter__(self) -> BackgroundScan:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        if self._over.wait(_DELAY_S):
            return
        try:
            totals = scan(self._open_source(), self._over.is_set)
        except (OSError, BackupForgeError):
            return  # the backup itself meets the same and reports it
        if totals is not None:
            self._progress.files_total, self._progress.bytes_total = totals
