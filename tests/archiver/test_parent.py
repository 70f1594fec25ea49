"""Which files of the parent snapshot count as unchanged: the decisions, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from bfrepo.archiver.parent import ParentPolicy, Reuse
from bfrepo.data.node import Node
from tests.support.sources import Item

STARTED = 1_700_000_000_000_000_000
MS = 1_000_000
NODE = Node(name=b"f", size=3, mtime_ns=STARTED - 10**12, ctime_ns=STARTED - 10**12, inode=7, device=1)
STAT = Item(content=b"abc", mtime_ns=STARTED - 10**12, ctime_ns=STARTED - 10**12, inode=7, device=1)


@pytest.mark.parametrize(
    ("policy", "node", "stat", "reuse"),
    [
        ({}, {}, {}, Reuse.ALL),
        ({}, {}, {"mtime_ns": 1}, Reuse.NOTHING),
        ({}, {}, {"ctime_ns": 1}, Reuse.NOTHING),
        ({}, {}, {"content": b"abcd"}, Reuse.NOTHING),
        ({}, {}, {"inode": 8}, Reuse.NOTHING),
        ({}, {}, {"type": "symlink"}, Reuse.NOTHING),
        ({}, {"type": "symlink", "size": 0}, {"type": "symlink", "length": 9}, Reuse.ALL),
        ({}, {}, {"device": 2}, Reuse.ALL),
        ({}, {"links": 2}, {"links": 2, "device": 2}, Reuse.CONTENT),
        ({}, {"links": 2}, {"links": 2}, Reuse.ALL),
        ({"ignore_ctime": True}, {}, {"ctime_ns": 1}, Reuse.CONTENT),
        ({"ignore_ctime": True}, {}, {}, Reuse.ALL),
        ({"ignore_ctime": True}, {}, {"mtime_ns": 1}, Reuse.NOTHING),
        ({"ignore_inode": True}, {}, {"inode": 8}, Reuse.ALL),
        ({"ignore_inode": True}, {"links": 2}, {"inode": 8, "links": 2}, Reuse.CONTENT),
        ({"ignore_inode": True, "ignore_ctime": True}, {}, {"inode": 8, "ctime_ns": 1}, Reuse.CONTENT),
        ({"fresh_atime": True}, {}, {}, Reuse.CONTENT),
    ],
    ids=str,
)
def test_decisions(policy: dict[str, Any], node: dict[str, Any], stat: dict[str, Any], reuse: Reuse) -> None:
    """What has to be equal, and what of the parent is used when it is."""
    decided = ParentPolicy(started_ns=STARTED, **policy).reuse(
        msgspec.structs.replace(NODE, **node), replace(STAT, **stat)
    )
    assert decided is reuse


@pytest.mark.parametrize(
    ("before_start_ns", "reuse"),
    [
        (51 * MS, Reuse.ALL),
        (49 * MS, Reuse.NOTHING),
        (0, Reuse.NOTHING),
        (-1, Reuse.NOTHING),
        (-(10**15), Reuse.NOTHING),
    ],
)
def test_racy_files_are_read_again(before_start_ns: int, reuse: Reuse) -> None:
    """What changed less than a clock's step before the parent began, or later, may have changed once more."""
    when = STARTED - before_start_ns
    node = msgspec.structs.replace(NODE, ctime_ns=when, mtime_ns=when)
    assert ParentPolicy(started_ns=STARTED, ignore_ctime=True).reuse(node, replace(STAT, mtime_ns=when)) in (
        Reuse.CONTENT if reuse is Reuse.ALL else Reuse.NOTHING,
    )
    assert ParentPolicy(started_ns=STARTED).reuse(node, replace(STAT, ctime_ns=when, mtime_ns=when)) is reuse
