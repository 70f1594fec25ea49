"""What a command's exit status means: the numbers restic uses, so that scripts made for it keep working."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
INCOMPLETE: Final = 3
NO_REPOSITORY: Final = 10
WRONG_PASSWORD: Final = 12
INTERRUPTED: Final = 130

MEANINGS: Final = {
    DONE: "done",
    FAILED: "failed",
    USAGE: "wrong usage",
    INCOMPLETE: "done, but some items could not be read, restored or verified",
    NO_REPOSITORY: "no repository there",
    WRONG_PASSWORD: "wrong password",
    INTERRUPTED: "interrupted",
}

REPOSITORY_CODES: Final = (DONE, FAILED, USAGE, NO_REPOSITORY, WRONG_PASSWORD, INTERRUPTED)
"""What every command that opens a repository may end with."""

WORK_CODES: Final = (DONE, FAILED, USAGE, INCOMPLETE, NO_REPOSITORY, WRONG_PASSWORD, INTERRUPTED)
"""What a command may end with that goes through many items, some of which may fail."""

_WORST_FIRST: Final = (INTERRUPTED, WRONG_PASSWORD, NO_REPOSITORY, USAGE, FAILED, INCOMPLETE, DONE)
"""Failures that say what kind they are come before the one that does not."""


def worst(codes: Iterable[int]) -> int:
    """The one exit status for work that ended in several ways."""
    return min(codes, key=_WORST_FIRST.index, default=DONE)
