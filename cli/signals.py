"""Ctrl-C and SIGTERM ask the work to end well; SIGUSR1 asks how far it is.

A second Ctrl-C or SIGTERM is left to the system, which ends the program at once whatever it is waiting for (the
interpreter would only look at the signal when a read that blocks has returned). A shell calls that exit status 130.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from bfrepo.core.errors import Interrupted

_STOP: Final = (signal.SIGINT, signal.SIGTERM)


class Cancellation:
    """A flag that working threads look at."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self) -> bool:
        """Whether the work shall end."""
        return self.requested


def note_interrupts(cancellation: Cancellation) -> None:
    """From now on Ctrl-C also sets the flag, where it does nothing else but what it always does.

    The interpreter raises KeyboardInterrupt in the main thread only, which then waits for its other threads: those that
    wait for a storage have to be told, too.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        cancellation.requested = True
        signal.default_int_handler(number, frame)

    if threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):
        signal.signal(signal.SIGINT, stop)


@contextmanager
def raising() -> Iterator[None]:
    """While inside, Ctrl-C and SIGTERM raise Interrupted in the main thread, wherever it is.

    For work of several parts, between those that have a `handling` of their own: what stands in a finally clause, and
    whoever catches the error, still has its turn.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    before = {number: signal.signal(number, stop) for number in _STOP}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def handling(
    cancellation: Cancellation, on_stop: Callable[[], None], on_progress: Callable[[], None]
) -> Iterator[None]:
    """While inside, signals do what the head of this file says. The callbacks must be safe in a signal handler."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in _STOP:
            signal.signal(each, signal.SIG_DFL)
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
