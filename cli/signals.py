"""Ctrl-C and SIGTERM ask the work to end well; a second one ends the program at once. SIGUSR1 asks how far it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from cli.exit_codes import INTERRUPTED

_STOP: Final = (signal.SIGINT, signal.SIGTERM)


class Cancellation:
    """A flag that working threads look at."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Whether the work shall end."""
        return self.requested


@contextmanager
def handling(
    cancellation: Cancellation, on_stop: Callable[[], None], on_progress: Callable[[], None]
) -> Iterator[None]:
    """While inside, signals do what the head of this file says. The callbacks must be safe in a signal handler."""

    def stop(number: int, frame: FrameType | None) -> None:
        if cancellation.requested:
            os.write(2, b"\n")
            os._exit(INTERRUPTED)
        cancellation.requested = True
        on_stop()

    def progress(number: int, frame: FrameType | None) -> None:
        on_progress()

    before = {number: signal.signal(number, stop) for number in _STOP}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, progress)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
