"""Open files and directories, by the numbers that the kernel knows them by."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Handles(Generic[T]):
    """Numbers for open things. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._open: dict[int, T] = {}
        self._last = 0

    def add(self, thing: T) -> int:
        """A number for it."""
        self._last += 1
        self._open[self._last] = thing
        return self._last

    def __getitem__(self, number: int) -> T:
        return self._open[number]

    def remove(self, number: int) -> T:
        """Forget the number; what it stood for."""
        return self._open.pop(number)
