"""Large bodies, straight from their connection into a file.

By way of aiohttp a body is copied three times and meets two threads before it is hashed; that costs more than all the
rest. So for a large body the transport is paused, and threads take what the connection has, hash it and write it while
it is still in the processor's cache. They wait no longer for a client than it costs to wake them again: the loop tells
when there is enough for a thread to be worth its while, and a thread that has taken its share leaves its place to
others. So memory is by threads, not by uploads. The connection ends with the answer, as aiohttp still waits for the
body. TLS needs the usual way.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from aiohttp import web

from api.services.uploads import Upload
from api.state import Threads

T = TypeVar("T")

LEAST: Final = 1 << 20
"""Bytes of a body for which a new connection afterwards is the lesser evil."""

TAKEN: Final = web.RequestKey("taken", bool)
"""The key in a request whose body was taken: its connection cannot be used again."""

_BLOCK: Final = 1 << 20
_ENOUGH: Final = 128 << 10
_SHARE: Final = 8 << 20
_PATIENCE_MS: Final = 5


def can_be_taken(request: web.Request, size: int) -> bool:
    """Whether a body is large and its connection is a plain one."""
    transport = request.transport
    return size >= LEAST and transport is not None and transport.get_extra_info("sslcontext") is None


class Taker:
    """Takes bodies. Its buffers are used again and again: a new one is filled with zeros, which costs as much as a
    hash. Belongs to one loop.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._buffers: list[memoryview] = []

    async def take(self, request: web.Request, upload: Upload, size: int, silence_s: float) -> None:
        """Write a body of `size` bytes. Raises TimeoutError when nothing comes for `silence_s`, OSError."""
        transport, run = request.transport, self._threads.run
        if transport is None:
            raise ConnectionResetError("the client is gone")
        came = request.content.read_nowait()
        transport.pause_reading()
        request[TAKEN] = True
        left = size - len(came)
        with transport.get_extra_info("socket").dup() as connection:
            try:
                await run(upload.write, [came])
                while left:
                    # It wakes nobody for less: who sends byte by byte is no work.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(left, _ENOUGH))
                    async with asyncio.timeout(silence_s):
                        await _readable(connection)
                    left -= await _to_its_end(run(self._take_share, connection, upload, left))
            finally:
                request.content.feed_eof()  # or aiohttp would wait for the body

    def _take_share(self, connection: socket.socket, upload: Upload, left: int) -> int:
        """Write what is there, and what follows at once, up to a share; how many bytes that were.

        Blocks. Raises OSError, also when the client is gone.
        """
        taken, most = 0, min(left, _SHARE)
        more = select.poll()
        more.register(connection, select.POLLIN)
        with self._lent_buffer() as buffer:
            while taken < most:
                try:
                    count = connection.recv_into(buffer[: min(_BLOCK, most - taken)], 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    if more.poll(_PATIENCE_MS):
                        continue
                    break
                if not count:
                    raise ConnectionResetError("the client is gone")
                upload.write([buffer[:count]])
                taken += count
        return taken

    @contextmanager
    def _lent_buffer(self) -> Iterator[memoryview]:
        """A buffer that no other thread uses: there come to be as many as there are threads."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = memoryview(bytearray(_BLOCK))
        try:
            yield buffer
        finally:
            self._buffers.append(buffer)


TAKER: Final = web.AppKey("taker", Taker)


async def _to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of work in a thread; cancelled, it waits for its end: the number of a descriptor that is closed while
    a thread reads from it can be another connection's by then."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(connection, _tell, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


def _tell(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
