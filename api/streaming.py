"""Long answers: bytes that threads make, sent as fast as each client takes them, and never made faster.

A client that reads slowly holds its connection and a few pieces of memory. Files are read piece by piece, so that no
thread waits for a client. Whatever writes an archive or a comparison has a thread of its own, which waits while
its few pieces are not taken; how many there are at once is limited, in all and for each tenant, so that none
keeps others out. A client that takes nothing for a minute has gone.

An answer that fails when its first bytes are out cannot become a problem any more: its connection is cut, so that no
client takes what it has got for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Final

from aiohttp import web

from api.downloads import Downloads
from api.problems import Problem
from api.state import REQUEST_ID
from bfrepo.core.protocols import Buffer
from bfrepo.core.units import KIB, MIB
from bfrepo.exporter.sinks import Sink

log: Final = logging.getLogger("backupforge.server")

_STALLED_S: Final = 60.0
_PIECE: Final = 256 * KIB
_PIECES: Final = 4
"""What waits for a slow client: pieces of so many bytes at least, and how many."""
_READ: Final = MIB
_ZEROS: Final = bytes(_PIECE)

Produce = Callable[[Sink, Callable[[], bool]], None]
"""Writes to a sink, in a thread, until it is done or told that nobody reads any more."""


class Channel:
    """Takes bytes in a thread and gives them to a loop: Sink on one end, `get` on the other.

    Whoever writes waits while enough is not taken, and gets BrokenPipeError when nobody takes any more.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Buffer | None] = asyncio.Queue()
        self._room = threading.Semaphore(_PIECES)
        self._gone = False
        self._waiting: list[Buffer] = []
        self._size = 0

    def write(self, data: Buffer) -> None:
        """See Sink."""
        if len(data) >= _PIECE:
            self.flush()
            self._put(data)
            return
        self._waiting.append(bytes(data))
        self._size += len(data)
        if self._size >= _PIECE:
            self.flush()

    def zeros(self, count: int) -> None:
        """See Sink."""
        while count:
            part = min(count, _PIECE)
            self.write(_ZEROS[:part])
            count -= part

    def flush(self) -> None:
        """See Sink."""
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting:
            self._put(b"".join(waiting))

    def gone(self) -> bool:
        """Whether nobody reads any more."""
        return self._gone

    def end(self) -> None:
        """In the loop: nothing more comes."""
        self._pieces.put_nowait(None)

    def leave(self) -> None:
        """In the loop: nobody reads any more."""
        self._gone = True
        self._room.release()

    async def get(self) -> Buffer | None:
        """In the loop: the next piece, None at the end."""
        piece = await self._pieces.get()
        self._room.release()
        return piece

    def _put(self, data: Buffer) -> None:
        self._room.acquire()
        if self._gone:
            self._room.release()  # for the next write
            raise BrokenPipeError("nobody reads any more")
        self._loop.call_soon_threadsafe(self._pieces.put_nowait, data)


async def send_produced(
    request: web.Request, downloads: Downloads, headers: Mapping[str, str], produce: Produce
) -> web.StreamResponse:
    """Answer with what `produce` writes. What it raises before its first piece is raised here.

    For who has a turn, which lasts until the thread has ended.
    """
    channel = Channel()
    work = downloads.start(lambda: produce(channel, channel.gone))
    work.add_done_callback(lambda _: channel.end())
    try:
        first = await channel.get()
        if first is None:
            await work
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await _send(request, response, _pieces(channel, first, work))
        return response
    finally:
        channel.leave()
        await _ended(work)


async def send_pieces(
    request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[Buffer]
) -> web.StreamResponse:
    """Answer with pieces, whose headers are given."""
    await response.prepare(request)
    await _send(request, response, pieces)
    return response


def read_size(left: int) -> int:
    """How much of a file is read at a time."""
    return min(left, _READ)


async def _pieces(channel: Channel, first: Buffer | None, work: asyncio.Future[None]) -> AsyncIterator[Buffer]:
    piece = first
    while piece is not None:
        yield piece
        piece = await channel.get()
    await work


async def _send(request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[Buffer]) -> None:
    try:
        async for piece in pieces:
            async with asyncio.timeout(_STALLED_S):
                await response.write(piece)
        await response.write_eof()
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception as error:
        level = logging.INFO if isinstance(error, TimeoutError | Problem) else logging.ERROR
        log.log(level, "request %s: the answer was cut: %s", request[REQUEST_ID], error)
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer was cut") from error


async def _ended(work: asyncio.Future[None]) -> None:
    """Wait for a thread whose reader is gone, or which has told already what went wrong."""
    with suppress(Exception):
        await asyncio.shield(work)
