"""Long lists come in pages.

A cursor is opaque to clients: it holds the sort key of the last row they have seen, so that pages neither skip nor
repeat rows while others are added, and a page far down costs what the first one costs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, tuple_

from api.problems import Problem

T = TypeVar("T")

Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]

Key = tuple[str | int | float, ...]


class Paged(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every list takes: `cursor` is the `next_cursor` of the page before, `limit` how many items a page has."""

    cursor: Annotated[str, msgspec.Meta(max_length=500)] = ""
    limit: Limit = 100


def encode_cursor(key: Key) -> str:
    """The cursor for what follows the row with this sort key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode_cursor(cursor: str, kinds: tuple[type, ...]) -> Key | None:
    """The sort key in a cursor, None for the first page. Raises Problem for what is no cursor of this list."""
    if not cursor:
        return None
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key: Key = msgspec.json.decode(data, type=tuple[kinds])  # type: ignore[valid-type]
    except (msgspec.DecodeError, binascii.Error, ValueError) as error:
        raise _no_cursor() from error
    if any(not _can_be_stored(part) for part in key):
        raise _no_cursor()
    return key


def _can_be_stored(part: str | int | float) -> bool:
    """Whether a database takes the value."""
    return "\0" not in part if isinstance(part, str) else abs(part) < 2**63


def _no_cursor() -> Problem:
    return Problem(HTTPStatus.BAD_REQUEST, "invalid-cursor", "the cursor is not one of this list's")


def page_of(
    query: Select[Any], columns: Sequence[ColumnElement[Any]], page: Paged, *, descending: bool = False
) -> Select[Any]:
    """The query for a page and one row more, in the order of `columns`, which together are unique."""
    key = decode_cursor(page.cursor, tuple(column.type.python_type for column in columns))
    if key is not None:
        here = tuple_(*columns)
        query = query.where(here < key if descending else here > key)
    return query.order_by(*(column.desc() if descending else column for column in columns)).limit(page.limit + 1)


def cut_page(rows: Sequence[T], page: Paged, key: Callable[[T], Key]) -> tuple[Sequence[T], str]:
    """The rows of a page and the cursor for the next one, "" for the last page."""
    shown = rows[: page.limit]
    return shown, encode_cursor(key(shown[-1])) if len(rows) > page.limit else ""
