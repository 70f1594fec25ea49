"""Bytes that wait until all of them are there, because where they go wants their name or their number first."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

from bfrepo.core.errors import StorageError
from bfrepo.core.protocols import Buffer

_MOST_IN_MEMORY: Final = 1 << 20


class Spool:
    """Collects what is written: a little in memory, more in a file without a name that is gone with the process.

    Packs of 64 MiB, several of which are open at a time, would otherwise need more memory than all the rest of a
    backup. The file lies where temporary files do (TMPDIR). Used by one thread until it is complete; then any number
    may read.
    """

    __slots__ = ("_file", "_memory", "size")

    def __init__(self) -> None:
        self.size = 0
        self._memory = bytearray()
        self._file: BinaryIO | None = None

    def write(self, data: Buffer) -> None:
        """Append. Raises StorageError where there is no room for temporary files."""
        view = memoryview(data).cast("B")
        if self._file is None and self.size + len(view) <= _MOST_IN_MEMORY:
            self._memory += view
        else:
            self._append(view)
        self.size += len(view)

    def read(self, offset: int, length: int) -> bytes:
        """The bytes from `offset` on, at most `length` of them: fewer at the end. Raises StorageError."""
        if self._file is None:
            return bytes(memoryview(self._memory)[offset : offset + length])
        try:
            return os.pread(self._file.fileno(), length, offset)
        except OSError as error:
            raise _failure(error) from error

    @contextmanager
    def view(self) -> Iterator[memoryview]:
        """All bytes, for the time of the block, without taking memory for them. Raises StorageError."""
        if self._file is None:
            yield memoryview(self._memory).toreadonly()
            return
        try:
            mapped = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _failure(error) from error
        try:
            with memoryview(mapped) as view:
                yield view
        finally:
            with suppress(BufferError):  # an error on its way holds a part of it, and lets go of it later
                mapped.close()

    def close(self) -> None:
        """Drop the bytes. May be called again."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()

    def _append(self, view: memoryview) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="backupforge-", buffering=0)  # noqa: SIM115
                _write_all(self._file, memoryview(self._memory))
                self._memory = bytearray()
            _write_all(self._file, view)
        except OSError as error:
            raise _failure(error) from error


def _write_all(file: BinaryIO, rest: memoryview) -> None:
    while rest:
        rest = rest[file.write(rest) :]


def _failure(error: OSError) -> StorageError:
    reason = error.strerror or type(error).__name__
    return StorageError(
        f"a temporary file in {tempfile.gettempdir()}: {reason[:1].lower()}{reason[1:]}",
        hint="set TMPDIR to a directory with room for a few packs",
    )
