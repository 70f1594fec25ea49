"""Kinds of text and numbers that several requests take. What does not fit is refused before anything looks at it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from msgspec import Meta

_END: Final = r"$(?!\n)"  # "$" alone would let a line end through

Slug = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9][a-z0-9-]*" + _END)]
"""The name of what is part of a URL."""

Title = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+" + _END)]
"""A name for people to read: one line of any script."""

Email = Annotated[str, Meta(max_length=254, pattern=r"^[!-?A-~]+@[!-?A-~]+" + _END)]

NewPassword = Annotated[str, Meta(min_length=10, max_length=1000)]
"""A password that is to be set: long enough, and else as its owner likes (NIST SP 800-63B)."""

GivenPassword = Annotated[str, Meta(max_length=1000)]

Secret = Annotated[str, Meta(max_length=200)]

Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]


def utc(seconds: float) -> datetime:
    """A time of the database, as answers show it."""
    return datetime.fromtimestamp(seconds, UTC)


def utc_or_none(seconds: float | None) -> datetime | None:
    """The same for what may not have happened."""
    return None if seconds is None else utc(seconds)
