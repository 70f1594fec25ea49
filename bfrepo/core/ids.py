"""Identifiers: 32 bytes in memory, 64 hex digits in names, any unambiguous prefix of 8 or more on the command line."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable

from bfrepo.core.errors import AmbiguousPrefix, InvalidValue, ObjectNotFound

ID_SIZE = 32
"""Bytes in every identifier: blobs, packs, index files, snapshots, keys, claims, the repository itself."""

MIN_PREFIX = 8
"""Fewest hex digits that the command line accepts in place of a whole identifier."""

_HEX_ID = re.compile(r"[0-9a-f]{64}")
_HEX_PREFIX = re.compile(r"[0-9a-f]+")


class BlobKind(enum.IntEnum):
    """What a blob means. Data and trees never share a pack, so metadata can be read without touching data packs."""

    DATA = 0
    TREE = 1


def is_object_name(name: str) -> bool:
    """Whether `name` is the name of a stored object: exactly 64 lower-case hex digits."""
    return _HEX_ID.fullmatch(name) is not None


def short_id(identifier: bytes) -> str:
    """The first 8 hex digits, as people see identifiers in tables and messages."""
    return identifier[:4].hex()


def resolve_prefix(prefix: str, identifiers: Iterable[bytes], *, what: str) -> bytes:
    """The one identifier that starts with `prefix`.

    `what` names the kind of thing in messages ("snapshot", "key"). Raises InvalidValue for a prefix that is too short
    or not hex, ObjectNotFound when none matches, AmbiguousPrefix when several do.
    """
    wanted = prefix.lower()
    if len(wanted) < MIN_PREFIX or not _HEX_PREFIX.fullmatch(wanted):
        raise InvalidValue(f"{prefix!r} is not a {what} ID: give at least {MIN_PREFIX} hex digits")
    found = sorted({each for each in identifiers if each.hex().startswith(wanted)})
    if not found:
        raise ObjectNotFound(f"no {what} starts with {prefix}")
    if len(found) > 1:
        raise AmbiguousPrefix(
            f"{prefix} is ambiguous: {len(found)} {what}s start with it ({', '.join(map(short_id, found[:4]))}...)"
        )
    return found[0]
