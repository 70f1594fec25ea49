"""Which key slot opened a repository the last time on this machine, so that the next time it is tried first.

Only its name is kept: what is in the slot comes from the storage each time. A name that is wrong costs a request.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from bfrepo.core.ids import is_object_name

_NAME_BYTES = 64


class UsualSlot:
    """The slot's name, kept in the repository's folder of the cache; without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "slot" if folder is not None else None
        self.name = self._read()
        """None where none is known."""

    def remember(self, name: str) -> None:
        """This slot has opened the repository. A cache: where it cannot be written it is done without."""
        if self._path is None or name == self.name:
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.write_text(name)

    def _read(self) -> str | None:
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as file:
                name = file.read(_NAME_BYTES + 1).decode("ascii", errors="replace")
        except OSError:
            return None
        return name if is_object_name(name) else None
