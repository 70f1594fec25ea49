"""Which key slot opened a repository the last time on this machine, so that the next time it is tried first.

Only its name is kept, and where the repository was: what is in the slot comes from the storage each time. A name that
is wrong costs a request.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from bfrepo.core.ids import is_object_name

_FILE: Final = "slot"
_MOST_BYTES: Final = 8192


class UsualSlot:
    """The slot's name, kept in the repository's folder of the cache; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / _FILE if folder is not None else None
        self._known = _read(self._path) if self._path is not None else None

    @property
    def name(self) -> str | None:
        """None where none is known."""
        return self._known[0] if self._known is not None else None

    def remember(self, name: str, location: str) -> None:
        """This slot has opened the repository, which is at `location`.

        A cache: where it cannot be written it is done without.
        """
        if self._path is None or self._known == (name, location):
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.write_bytes(f"{name}\n{location}\n".encode(errors="surrogateescape"))


def usual_slot_at(cache_dir: Path | None, location: str) -> str | None:
    """The name of the slot that opened what was at a location when it was last used from here."""
    if cache_dir is None:
        return None
    with suppress(OSError), os.scandir(cache_dir) as folders:
        for folder in folders:
            known = _read(Path(folder.path) / _FILE)
            if known is not None and known[1] == location:
                return known[0]
    return None


def _read(path: Path) -> tuple[str, str] | None:
    """Name and location; the location is empty where it is not known."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode(errors="surrogateescape")
    except OSError:
        return None
    name, _, location = text.partition("\n")
    return (name, location.removesuffix("\n")) if is_object_name(name) else None
