"""How much an answer may hold, whatever a repository holds: everything that goes to a client passes through here.

An answer ends up in a model's context, which is small and dear. So there is a limit on entries that the client may
lower and raise, and one on bytes that it may not: a page that is full for either reason says where the next one begins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Final, TypeVar

from bfrepo.core.errors import InvalidValue
from bfrepo.core.names import name_of_base64, shown_name, unshown_base64
from bfrepo.core.units import KIB

T = TypeVar("T")
V = TypeVar("V")

MOST_ENTRIES: Final = 500
"""Entries of one page."""

MOST_BYTES: Final = 128 * KIB
"""JSON of the entries of one page; a single entry is bounded by what follows."""

MOST_READ: Final = 256 * KIB
"""Bytes of a file that one call reads."""

MOST_NAME: Final = 16 * KIB
"""Characters of a path; the kernel takes 4 KiB, and base64 of a longer one still fits."""

_MOST_TEXT: Final = 1 * KIB
_MOST_MESSAGE: Final = 2 * KIB


def cut(text: str, most: int = _MOST_TEXT) -> str:
    """Text that somebody else has chosen, such as a host's name, no longer than it may be."""
    return text if len(text) <= most else text[: most - 3] + "..."


def message(text: str) -> str:
    """What an error or a warning says, no longer than it may be."""
    return cut(text, _MOST_MESSAGE)


def quoted(text: str, most: int = 80) -> str:
    """Text that somebody else has chosen, for a question to a person: on one line, and nothing that a display obeys."""
    return json.dumps(cut(text, most))


def name_fields(name: bytes, key: str = "path") -> dict[str, str]:
    """A raw path as JSON can have it: text, and base64 of its bytes where they are not UTF-8."""
    text, raw = cut(shown_name(name), MOST_NAME), unshown_base64(name)
    return {key: text, f"{key}_raw": raw} if raw is not None and len(raw) <= MOST_NAME else {key: text}


def raw_path(path: str | None, path_raw: str | None) -> bytes:
    """The path that a call names as text or in base64; the root where it names none. Raises InvalidValue."""
    if path_raw is None:
        return (path or "").encode(errors="surrogateescape")
    if path not in (None, "", "/"):
        raise InvalidValue("path and path_raw exclude each other", hint="send path_raw alone")
    try:
        return name_of_base64(path_raw)
    except ValueError as error:
        raise InvalidValue("path_raw is no base64") from error


def page_of(items: Iterable[T], offset: int, limit: int, view: Callable[[T], V]) -> tuple[list[V], int | None]:
    """Some of `items` as the client sees them, from `offset` on; and the offset of the next ones, None at the end.

    What comes behind the page is not looked at, but for one item.
    """
    page: list[V] = []
    size = 0
    for item in islice(items, offset, None):
        if len(page) == limit:
            return page, offset + limit
        shown = view(item)
        size += _size(shown)
        if page and size > MOST_BYTES:
            return page, offset + len(page)
        page.append(shown)
    return page, None


def first_of(items: Iterable[T], most: int, view: Callable[[T], V]) -> list[V]:
    """The first of `items` as the client sees them: what is listed inside of an entry."""
    return page_of(items, 0, most, view)[0]


def _size(view: Any) -> int:
    return len(json.dumps(view, ensure_ascii=False))
