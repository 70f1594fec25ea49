"""Work that goes on in the background once it is under way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from cli.exit_codes import DONE, FAILED


def in_background(work: Callable[[Callable[[], None]], None]) -> int:
    """Do work in a child process; the exit status, when it is under way or has failed.

    `work` calls what it is given when it is under way. Until then it has the terminal, for passwords and errors; from
    then on it has neither terminal nor standard streams. Must be called before there are threads.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writing)
        return _wait_for(child, reading)
    os.close(reading)

    def under_way() -> None:
        _let_go_of_terminal()
        os.write(writing, b"\0")
        os.close(writing)

    work(under_way)
    return DONE


def _wait_for(child: int, reading: int) -> int:
    """Ctrl-C reaches the child as well, which is the one to say what comes of it."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        if os.read(reading, 1):
            return DONE
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return code if code >= 0 else FAILED
    finally:
        os.close(reading)
        signal.signal(signal.SIGINT, before)


def _let_go_of_terminal() -> None:
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)
