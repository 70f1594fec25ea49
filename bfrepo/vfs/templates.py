"""Where snapshots are below the top of the file system: paths with places for what each snapshot says of itself.

    %T  time, as 2024-05-17T12:00:00+02:00        %h  host name        %u  user name
    %i  first 8 digits of its ID                  %I  all 64           %t  each of its tags (without any, nowhere)
    %l  label                                     %%  a percent sign

A slash within a value becomes "_". Of snapshots that would have the same path, later ones get "-1", "-2" and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from bfrepo.core.errors import InvalidValue
from bfrepo.core.ids import short_id
from bfrepo.data.snapshot import Snapshot

DEFAULT_TEMPLATES: Final = ("snapshots/%T", "ids/%i", "hosts/%h/%T", "tags/%t/%T")

_FIELD: Final = re.compile(r"%(.?)")
_KNOWN: Final = frozenset("ThuiItl%")


def check_template(template: str) -> None:
    """Raises InvalidValue for one that has an unknown field, or that could not be a path below the top."""
    unknown = {field for field in _FIELD.findall(template) if field not in _KNOWN or not field}
    if unknown:
        raise InvalidValue(
            f"the path template {template!r} has %{min(unknown)}, which means nothing",
            hint="use %T, %h, %u, %i, %I, %t and %l, and %% for a percent sign",
        )
    parts = template.strip("/").split("/")
    if "" in parts or "." in parts or ".." in parts or "\0" in template:
        raise InvalidValue(f"{template!r} is not a path below the mount", hint="write one such as hosts/%h/%T")
    if not any(field != "%" for field in _FIELD.findall(template)):
        raise InvalidValue(f"the path template {template!r} is the same for all snapshots", hint="add %T or %i")


def ends_with_time(template: str) -> bool:
    """Whether the snapshots of a directory are told apart by time, so that one of them is the latest."""
    return template.strip("/").rsplit("/", 1)[-1] == "%T"


def snapshot_paths(template: str, identifier: bytes, snapshot: Snapshot) -> Iterator[list[bytes]]:
    """The names from the top down to the snapshot: once, or once for each tag. A path that makes no sense is none."""
    tags: Sequence[str] = snapshot.tags if "%t" in template.replace("%%", "") else ("",)
    for tag in tags:
        values = {**_values(identifier, snapshot), "t": tag}
        parts = [_filled(part, values) for part in template.strip("/").split("/")]
        if all(part and part not in (b".", b"..") and b"\0" not in part for part in parts):
            yield parts


def time_name(snapshot: Snapshot) -> bytes:
    """A snapshot's time as a name: to the second, with its zone."""
    return snapshot.when.isoformat(timespec="seconds").encode()


def _values(identifier: bytes, snapshot: Snapshot) -> Mapping[str, str]:
    return {
        "T": time_name(snapshot).decode(),
        "h": snapshot.hostname,
        "u": snapshot.username,
        "i": short_id(identifier),
        "I": identifier.hex(),
        "l": snapshot.label,
        "%": "%",
    }


def _filled(part: str, values: Mapping[str, str]) -> bytes:
    filled = _FIELD.sub(lambda match: values[match[1]].replace("/", "_"), part)
    return filled.encode(errors="surrogateescape")[:255]
