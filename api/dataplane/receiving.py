"""Bodies that come in: taken a piece at a time, so that any number of uploads needs little memory.

Who sends slowly is not waited for: there has to be a piece every minute, and the whole at a rate that the slowest lines
have. Bytes that the disk has not taken yet are not asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, web

from api.dataplane.direct import TAKER, can_be_taken
from api.problems import Problem
from api.routing import too_large
from api.services.store_files import ObjectPath
from api.services.stores import Store
from api.services.uploads import Upload
from api.state import Services

MOST: Final = 1 << 30
"""Bytes an object may have. Packs have up to 512 MiB; indexes of large repositories less than that."""

SILENCE_S: Final = 60.0
START_S: Final = 60.0
LEAST_RATE: Final = 4096
"""Bytes a second, on the whole: 64 MiB within five hours."""

_BATCH: Final = 512 << 10
"""What is written and hashed at once: enough for a thread to be worth its while."""


async def receive(request: web.Request, services: Services, find: Callable[[], Store], path: ObjectPath) -> None:
    """Store the body of a request in the store that is found, in a thread.

    Raises Problem: what `find` raises, and 400, 403, 408, 411, 413, 415, 507; OSError.
    """
    size, threads = _checked_size(request), services.data_threads
    upload = await threads.run(_begin, services, find, path, size)
    try:
        await _go_on(request)
        async with asyncio.timeout(START_S + size / LEAST_RATE):
            if can_be_taken(request, size):
                await request.app[TAKER].take(request, upload, size, SILENCE_S)
            else:
                await _read(request, services, upload)
        services.likely_hashes[upload.store.id] = await threads.run(upload.finish)
    except BaseException as error:
        await asyncio.shield(threads.run(upload.give_up))
        if isinstance(error, TimeoutError):
            raise Problem(HTTPStatus.REQUEST_TIMEOUT, "too-slow", "the body came too slowly") from error
        raise


def _begin(services: Services, find: Callable[[], Store], path: ObjectPath, size: int) -> Upload:
    store = find()
    return Upload(services.stores, store, path, size, services.likely_hashes.get(store.id, "blake3"))


def _checked_size(request: web.Request) -> int:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed", "objects are sent as they are")
    size = request.content_length
    if size is None:
        raise Problem(HTTPStatus.LENGTH_REQUIRED, "no-length", "send the length of the object: Content-Length")
    if size > MOST:
        raise too_large(MOST)
    return size


async def _go_on(request: web.Request) -> None:
    """Tell a client that waits for it to send the body."""
    if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


async def _read(request: web.Request, services: Services, upload: Upload) -> None:
    threads, waiting, size = services.data_threads, list[bytes](), 0
    while True:
        async with asyncio.timeout(SILENCE_S):
            block, _end = await request.content.readchunk()  # as it came: nothing is joined, so nothing copied
        waiting.append(block)
        size += len(block)
        if size >= _BATCH or not block:
            await threads.run(upload.write, waiting)
            waiting, size = [], 0
        if not block:
            return
