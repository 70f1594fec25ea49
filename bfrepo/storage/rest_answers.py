"""What is in a REST server's answers: listings, ranges, whole objects. None is believed before it is looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final

import msgspec
from urllib3.response import BaseHTTPResponse

from bfrepo.core.errors import StorageError
from bfrepo.storage.base import ObjectInfo

DONE: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.NO_CONTENT})
"""What servers say when a change is made; restic wants 200."""

_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Listed(msgspec.Struct, gc=False):
    """An item of a listing, version 2."""

    name: str
    size: int


def read_listing(answer: BaseHTTPResponse, subject: str, shown: str) -> Sequence[Listed | str]:
    """The items of a listing: in version 1 of the protocol names alone. Raises StorageError."""
    data = read_whole(answer, subject, shown)
    try:
        # Of no objects rest-server 0.9 said null.
        return msgspec.json.decode(data, type=list[Listed | str] | None) or []
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StorageError(
            f"{subject} in {shown}: the answer is no listing", hint="is this a REST server for repositories?"
        ) from error


def name_of(item: Listed | str) -> str:
    """The name of an item of a listing."""
    return item if isinstance(item, str) else item.name


def sized(
    listed: Sequence[Listed | str], size_of: Callable[[str], int | None], connections: int
) -> Iterator[ObjectInfo]:
    """The items with sizes. Where the server has listed names alone each is asked for; who has none has gone."""
    yield from (ObjectInfo(each.name, each.size) for each in listed if isinstance(each, Listed))
    names = [each for each in listed if isinstance(each, str)]
    if names:
        with ThreadPoolExecutor(connections, thread_name_prefix="sizes") as pool:
            found = zip(names, pool.map(size_of, names), strict=True)
            yield from (ObjectInfo(name, size) for name, size in found if size is not None)


def read_whole(answer: BaseHTTPResponse, subject: str, shown: str) -> bytes:
    """The whole of an answer, which has to say how long it is, so that a part is never taken for the whole."""
    if answer.length_remaining is None and answer.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise StorageError(f"{subject} in {shown}: the server does not tell the length of its answer")
    return answer.read()


def extent(answer: BaseHTTPResponse) -> tuple[int, int, int] | None:
    """Where an answer's bytes begin and end in the object, and the object's size; None where it does not tell."""
    if answer.status == HTTPStatus.OK:
        size = answer.length_remaining
        return None if size is None else (0, size, size)
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or match[3] == "*":
        return None
    return int(match[1]), int(match[2]) + 1, int(match[3])
