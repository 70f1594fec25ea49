"""Bodies that go out: files by sendfile, listings piece by piece. A reader that is too slow is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from api.dataplane.receiving import LEAST_RATE, START_S
from api.problems import Problem
from api.services.store_files import Stored
from api.state import Threads

VERSION_2: Final = "application/vnd.x.restic.rest.v2"
VERSION_1: Final = "application/vnd.x.restic.rest.v1"

_PIECE: Final = 256 << 10


async def send_file(request: web.Request, descriptor: int, size: int) -> web.StreamResponse:
    """Answer with the file, or the range of it that is asked for. Closes the descriptor. Raises Problem (416)."""
    with open(descriptor, "rb", buffering=0) as file:
        begin, end = _range(request, size)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        status = HTTPStatus.OK
        if "Range" in request.headers:
            status, headers["Content-Range"] = HTTPStatus.PARTIAL_CONTENT, f"bytes {begin}-{end - 1}/{size}"
        response = web.StreamResponse(status=status.value, headers=headers)
        response.content_length = end - begin
        async with _in_time(request, end - begin):
            await response.prepare(request)
            if end > begin and request.transport is not None:
                await asyncio.get_running_loop().sendfile(request.transport, file, begin, end - begin)
        await response.write_eof()
        return response


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """The first byte and the one behind the last that the client wants."""
    try:
        wanted = request.http_range
    except ValueError as error:
        raise _no_range(size) from error
    if wanted.start is None:
        return 0, size
    begin = max(size + wanted.start, 0) if wanted.start < 0 else wanted.start
    if begin >= size:
        raise _no_range(size)
    return begin, size if wanted.stop is None else min(wanted.stop, size)


def _no_range(size: int) -> Problem:
    status, headers = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{size}"}
    return Problem(status, "no-range", f"the object has {size} bytes", headers=headers)


async def send_listing(request: web.Request, threads: Threads, objects: Iterator[Stored]) -> web.StreamResponse:
    """Answer with a listing. One that breaks off ends the connection, so that nobody takes a part for the whole."""
    sized = VERSION_2 in request.headers.get("Accept", "")
    pieces = _pieces(objects, sized=sized)
    first = await threads.run(next, pieces)  # what is wrong with the folder shows before the answer begins
    # The type has to be exactly this: restic compares it.
    response = web.StreamResponse(headers={"Content-Type": VERSION_2 if sized else VERSION_1})
    await response.prepare(request)
    piece: bytes | None = first
    while piece:
        async with _in_time(request, len(piece)):
            await response.write(piece)
        try:
            piece = await threads.run(next, pieces, None)
        except OSError as error:
            raise _cut(request, "the listing broke off") from error
    await response.write_eof()
    return response


def _pieces(objects: Iterator[Stored], *, sized: bool) -> Iterator[bytes]:
    """The JSON of a listing, in pieces of some size."""
    piece, comma = bytearray(b"["), b""
    for each in objects:
        piece += comma + msgspec.json.encode({"name": each.name, "size": each.size} if sized else each.name)
        comma = b","
        if len(piece) > _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + b"]")


@asynccontextmanager
async def _in_time(request: web.Request, size: int) -> AsyncIterator[None]:
    """What happens in it has to happen in the time that a slow line takes for so many bytes."""
    try:
        async with asyncio.timeout(START_S + size / LEAST_RATE):
            yield
    except TimeoutError as error:
        raise _cut(request, "the client reads too slowly") from error


def _cut(request: web.Request, why: str) -> ConnectionResetError:
    """End the connection in the middle of an answer."""
    if request.transport is not None:
        request.transport.abort()
    return ConnectionResetError(why)
