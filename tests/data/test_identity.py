"""What makes two entries the same version."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bfrepo.data.identity import identity_of
from bfrepo.data.node import Node

PLAIN = Node(name=b"a", size=5, content=b"\x01" * 32, mode=0o644, mtime_ns=7, links=1)

FILE = ["type", "size", "content", "content_depth", "holes", "holes_depth", "target", "rdev", "subtree"]
ABOUT = ["mode", "uid", "gid", "user", "group", "mtime_ns", "xattrs", "flags"]
BY_THE_SYSTEM = ["name", "ctime_ns", "btime_ns", "atime_ns", "inode", "device", "links"]

OTHER: dict[type, Any] = {int: 3, bytes: b"\x02" * 32, str: "other", list: [(b"user.a", b"b")]}


def changed(field: str) -> Node:
    """The node with another value in a field."""
    value = "dir" if field == "type" else 9 if field in ("btime_ns", "atime_ns") else OTHER[type(getattr(PLAIN, field))]
    return msgspec.structs.replace(PLAIN, **{field: value})


def test_every_field_counts_for_something_known() -> None:
    """A new field of a node has to be content, metadata, or what the system changes by itself."""
    assert sorted(FILE + ABOUT + BY_THE_SYSTEM) == sorted(field.name for field in msgspec.structs.fields(Node))


@pytest.mark.parametrize("field", FILE)
def test_content(field: str) -> None:
    """What a restore would write makes another content, and leaves the metadata as it is."""
    before, after = identity_of(PLAIN), identity_of(changed(field))

    assert before.content != after.content
    assert before.metadata == after.metadata


@pytest.mark.parametrize("field", ABOUT)
def test_metadata(field: str) -> None:
    """What a restore would set makes other metadata, and leaves the content as it is."""
    before, after = identity_of(PLAIN), identity_of(changed(field))

    assert before.metadata != after.metadata
    assert before.content == after.content


@pytest.mark.parametrize("field", BY_THE_SYSTEM)
def test_what_makes_no_version(field: str) -> None:
    """What the system changes by itself, and the name, make no other version."""
    assert identity_of(PLAIN) == identity_of(changed(field))
