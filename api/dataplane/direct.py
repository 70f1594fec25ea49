"""Large bodies, straight from their connection into a file.

By way of aiohttp a body is copied three times and meets two threads before it is hashed; that costs more than all the
rest. So for a large body the transport is paused, and threads take what the connection has, hash it and write it while
it is still in the processor's cache. They never wait for a client: the loop tells when there is enough for a thread to
be worth its while, and a thread that has taken its share leaves its place to others. So memory is by threads, not by
uploads. The connection ends with the answer, as aiohttp still waits for the body. TLS needs the usual way.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from aiohttp import web

from api.services.uploads import Upload
from api.state import Threads

LEAST: Final = 1 << 20
"""Bytes of a body for which a new connection afterwards is the lesser evil."""

TAKEN: Final = web.RequestKey("taken", bool)
"""The key in a request whose body was taken: its connection cannot be used again."""

_BLOCK: Final = 1 << 20
_ENOUGH: Final = 128 << 10
_SHARE: Final = 8 << 20


def can_be_taken(request: web.Request, size: int) -> bool:
    """Whether a body is large and its connection is a plain one."""
    transport = request.transport
    return size >= LEAST and transport is not None and transport.get_extra_info("sslcontext") is None


async def take(request: web.Request, threads: Threads, upload: Upload, size: int, silence_s: float) -> None:
    """Write a body of `size` bytes. Raises TimeoutError when nothing comes for `silence_s`, OSError."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    came = request.content.read_nowait()
    transport.pause_reading()
    request[TAKEN] = True
    left = size - len(came)
    with transport.get_extra_info("socket").dup() as connection:
        try:
            await threads.run(upload.write, [came])
            while left:
                # It wakes nobody for less: who sends byte by byte is no work.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, min(left, _ENOUGH))
                async with asyncio.timeout(silence_s):
                    await _readable(connection)
                left -= await threads.run(_take_share, connection, upload, left)
        finally:
            request.content.feed_eof()  # or aiohttp would wait for the body


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


def _take_share(connection: socket.socket, upload: Upload, left: int) -> int:
    """Write what is there, up to a share; how many bytes that were. Raises OSError, also when the client is gone."""
    buffer = memoryview(bytearray(_BLOCK))
    taken, most = 0, min(left, _SHARE)
    while taken < most:
        try:
            count = connection.recv_into(buffer[: min(_BLOCK, most - taken)], 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        if not count:
            raise ConnectionResetError("the client is gone")
        upload.write([buffer[:count]])
        taken += count
    return taken
