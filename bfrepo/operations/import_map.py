"""What blobs of another repository are called in ours, by their ID there; kept in the cache for the next import.

    64 bytes for each blob: its ID there, its ID here

The file is only ever appended to, after what it names is durable. It may be lost, cut short or out of date without
harm: what ours no longer holds is not believed, and what is not in it is read from the source again.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from borghash import HashTable

from bfrepo.core.ids import ID_SIZE
from bfrepo.core.protocols import BlobSaver

NO_ID: Final = bytes(ID_SIZE)
_RECORD: Final = 2 * ID_SIZE
_STEP: Final = 4096 * _RECORD


class ImportMap:
    """IDs by IDs. Used by one thread."""

    def __init__(self, folder: Path | None, name: str, saver: BlobSaver) -> None:
        self._path = folder / f"import-{name}" if folder is not None else None
        self._ids = HashTable(key_size=ID_SIZE, value_size=ID_SIZE)
        self._new = bytearray()
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._load(self._path, saver)

    def get(self, theirs: bytes) -> bytes | None:
        """Our ID; NO_ID where it is being fetched or was lost; None for a blob that nobody asked for."""
        found: bytes | None = self._ids.get(theirs)
        return found

    def expect(self, theirs: bytes) -> None:
        """The blob is about to be fetched."""
        self._ids[theirs] = NO_ID

    def put(self, theirs: bytes, ours: bytes) -> None:
        """The blob is stored, or will be with the next flush."""
        self._ids[theirs] = ours
        self._new += theirs
        self._new += ours

    def keep(self) -> None:
        """Write down what is durable by now. A cache that cannot be written is done without."""
        new, self._new = self._new, bytearray()
        if self._path is None or not new:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(fd, "ab") as file:
                file.write(bytes(-file.tell() % _RECORD))  # what a crash has cut short
                file.write(new)

    def _load(self, path: Path, saver: BlobSaver) -> None:
        holds = saver.holds
        with path.open("rb") as file:
            while data := file.read(_STEP):
                for at in range(0, len(data) - _RECORD + 1, _RECORD):
                    ours = data[at + ID_SIZE : at + _RECORD]
                    if holds(ours):
                        self._ids[data[at : at + ID_SIZE]] = ours
