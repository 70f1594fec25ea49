"""Values of options that mean more than their text: tags, times, filters."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from bfrepo.core.errors import InvalidValue

if TYPE_CHECKING:
    from bfrepo.data.selection import SnapshotFilter


def split_tags(texts: Iterable[str]) -> tuple[str, ...]:
    """All tags in "a,b" and "c", each once, in order."""
    return tuple(dict.fromkeys(tag.strip() for text in texts for tag in text.split(",") if tag.strip()))


def parse_time(text: str) -> datetime:
    """ "2026-01-31", "2026-01-31 12:00" or any ISO 8601, in this machine's zone unless it says. Raises InvalidValue."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError):
        raise InvalidValue(f"{text!r} is not a time", hint="write it like '2026-01-31 12:00:00'") from None


def snapshot_filter(hosts: Sequence[str], tags: Sequence[str], paths: Sequence[str]) -> SnapshotFilter:
    """The filter that --host, --tag and --path ask for. Relative paths count from the working directory."""
    from bfrepo.data.selection import SnapshotFilter
    from bfrepo.sources.paths import absolute_path

    cwd = os.getcwdb()
    return SnapshotFilter(
        hosts=tuple(hosts),
        tags=tuple(frozenset(split_tags([each])) for each in tags),
        paths=tuple(absolute_path(os.fsencode(path), cwd) for path in paths),
    )
