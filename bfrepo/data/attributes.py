"""What the attributes of a node are called elsewhere: by stat(2), and by a calendar."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bfrepo.data.node import NodeType

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_MOST_S: Final = 50_000_000_000
"""Seconds from the epoch that a datetime can hold, in any zone: the years 385 to 3554."""

TYPE_BITS: Final[Mapping[NodeType, int]] = MappingProxyType(
    {
        "file": stat.S_IFREG,
        "dir": stat.S_IFDIR,
        "symlink": stat.S_IFLNK,
        "blockdev": stat.S_IFBLK,
        "chardev": stat.S_IFCHR,
        "fifo": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
    }
)
"""What st_mode has besides the permissions."""


def entry_time(nanoseconds: int) -> datetime:
    """A time to the second, or the end of the calendar for one that is beyond it."""
    return _EPOCH + timedelta(seconds=min(max(nanoseconds // 1_000_000_000, -_MOST_S), _MOST_S))
