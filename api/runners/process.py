"""A process that carries out one order, and its events. Belongs to one loop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from api.runners.orders import Line

T = TypeVar("T")

ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
"""All that our processes, and the hooks they run, know of the server's environment, which may hold passwords."""

_LONGEST_LINE: Final = 1 << 20
_LAST_WORDS: Final = 20
_LAST_WORDS_S: Final = 1.0


def module_command(module: str) -> tuple[str, ...]:
    """How to run one of our modules, whatever the working directory holds."""
    return (sys.executable, "-P", "-m", module)


class Process:
    """A process in a session of its own, so that it can be ended with its children."""

    def __init__(
        self, process: asyncio.subprocess.Process, errors: asyncio.StreamReader, pipe: asyncio.BaseTransport
    ) -> None:
        """`errors` is what it writes to standard error, through `pipe`."""
        self._process = process
        self._pipe = pipe
        self._last: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listening = asyncio.create_task(self._listen(errors))

    @classmethod
    async def start(cls, command: Sequence[str], order: bytes) -> Process:
        """Start it and give it the order. Raises OSError."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        async with _error_pipe() as (errors, pipe, end):
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=end,
                env={**ENVIRONMENT, "PYTHONPATH": path},
                cwd="/",
                limit=_LONGEST_LINE,
                start_new_session=True,
            )
        started = cls(process, errors, pipe)
        await started.tell(order)  # if it has ended already, its status will say so
        return started

    async def tell(self, line: bytes) -> None:
        """One more line to it. One that has ended hears nothing."""
        with contextlib.suppress(ConnectionError):
            _pipe(self._process.stdin).write(line + b"\n")
            await _pipe(self._process.stdin).drain()

    async def events(self) -> AsyncIterator[Line]:
        """What it says, until it has no more to say."""
        out = _pipe(self._process.stdout)
        while True:
            try:
                line = await out.readline()
            except ValueError:  # longer than anything that we write
                continue
            if not line:
                return
            with contextlib.suppress(msgspec.DecodeError):
                yield msgspec.json.decode(line, type=Line)

    async def wait(self) -> int:
        """Its exit status, negative for a signal, when it has ended."""
        status = await self._process.wait()
        await asyncio.wait([self._listening], timeout=_LAST_WORDS_S)
        self._listening.cancel()
        self._pipe.close()
        return status

    @property
    def last_words(self) -> str:
        """The end of what it and its hooks have written to standard error."""
        return "\n".join(self._last)

    def stop(self) -> None:
        """Ask it to end well."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def kill(self) -> None:
        """End it, and what it has started in its session, at once."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _listen(self, errors: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await errors.readline()
            except ValueError:
                continue
            if not line:
                return
            self._last.append(line.decode(errors="replace").rstrip()[:500])


@contextlib.asynccontextmanager
async def _error_pipe() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.BaseTransport, int]]:
    """A pipe for standard error: what reads from it, its end here, and the end to hand on.

    A hook that outlives its process holds it open. The loop must not take that for a process that goes on, as it does
    with pipes that it has made itself.
    """
    ours, theirs = os.pipe()
    errors = asyncio.StreamReader()
    try:
        make = functools.partial(asyncio.StreamReaderProtocol, errors)
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(make, os.fdopen(ours, "rb", buffering=0))
        yield errors, pipe, theirs
    finally:
        os.close(theirs)


def _pipe(pipe: T | None) -> T:
    """A pipe that was asked for."""
    if pipe is None:
        raise RuntimeError("the process has no such pipe")
    return pipe
