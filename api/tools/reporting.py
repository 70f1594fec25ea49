"""What an operation tells while it works, kept for the answer of the call."""

from __future__ import annotations

from typing import Final

from api.tools.bounds import cut, message
from bfrepo.core.progress import Change, Progress

_MOST: Final = 20


class Notes:
    """Implements Reporter: counts, and keeps the first problems. `note` is for those that come by another way."""

    wants_items = False

    def __init__(self) -> None:
        self.progress = Progress()
        self.problems: list[str] = []

    def item(self, path: bytes, change: Change, size: int) -> None:
        """See Reporter."""

    def warn(self, path: bytes, message: str) -> None:
        """See Reporter."""
        self.note(path, message)

    def problem(self, path: bytes, message: str) -> None:
        """See Reporter."""
        self.progress.errors += 1
        self.note(path, message)

    def note(self, path: bytes, text: str) -> None:
        """Keep it, if there is room."""
        if len(self.problems) < _MOST:
            where = f"{cut(path.decode(errors='backslashreplace'))}: " if path else ""
            self.problems.append(message(where + text))
