"""Files that stay open between reads, because many frames are read from one pack."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager


class OpenFile:
    """A descriptor to read from with `os.pread`, and the size in bytes that the file had when it was opened.

    It is closed by `close`, or when nobody has the object any more: whoever lets go of a backend need not close it.
    """

    __slots__ = ("descriptor", "size", "users")

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.descriptor).st_size
        self.users = 1

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor. Idempotent; nobody may be reading through it."""
        descriptor, self.descriptor = getattr(self, "descriptor", -1), -1
        if descriptor >= 0:
            os.close(descriptor)


class OpenFiles:
    """The files that were read last, at most `limit` of them beside those in use. Any thread may call anything.

    A descriptor is closed only when nobody reads through it: its number would be given to the next file opened, and a
    reader would get the bytes of another file.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, OpenFile] = OrderedDict()

    @contextmanager
    def borrow(self, path: str) -> Iterator[OpenFile]:
        """The open file, for the time of the block. Raises OSError."""
        file = self._take(path)
        try:
            yield file
        finally:
            self._give_back(path, file)

    def forget(self, path: str) -> None:
        """Open the file anew next time: it was deleted, replaced, or its descriptor has failed."""
        with self._lock:
            self._drop(self._kept.pop(path, None))

    def close(self) -> None:
        """Forget all files."""
        with self._lock:
            while self._kept:
                self._drop(self._kept.popitem()[1])

    def _take(self, path: str) -> OpenFile:
        with self._lock:
            file = self._kept.get(path)
            if file is not None:
                file.users += 1
                self._kept.move_to_end(path)
                return file
        opened = OpenFile(path)  # without the lock: on a network share this may take long
        with self._lock:
            # If another thread was faster its file stays, and this one is closed when it is given back.
            self._kept.setdefault(path, opened)
            while len(self._kept) > self._limit:
                self._drop(self._kept.popitem(last=False)[1])
        return opened

    def _give_back(self, path: str, file: OpenFile) -> None:
        with self._lock:
            file.users -= 1
            if self._kept.get(path) is not file:
                self._drop(file)

    def _drop(self, file: OpenFile | None) -> None:
        """Close a file that is no longer kept, or leave that to the last who reads it."""
        if file is not None and not file.users:
            file.close()
