"""Two trees side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bfrepo.core.ids import BlobKind
from bfrepo.data.difference import AFTER, BEFORE, Change, Comparison, DifferenceSummary
from bfrepo.data.node import Node
from bfrepo.data.records import save_records
from tests.support.trees import TreeMaker

MAKE = TreeMaker()

Shape: TypeAlias = "bytes | Mapping[str, Shape]"
"""A file's content, or what a directory holds."""


def tree(shape: Mapping[str, Shape], make: TreeMaker = MAKE) -> Node:
    """A directory of a shape; equal shapes give equal trees."""
    nodes = [
        make.file(name, each)
        if isinstance(each, bytes)
        else msgspec.structs.replace(tree(each, make), name=name.encode())
        for name, each in shape.items()
    ]
    return make.directory("root", *nodes)


def compare(
    before: Node, after: Node, *, metadata: bool = False, make: TreeMaker = MAKE
) -> tuple[list[Change], DifferenceSummary, list[bytes]]:
    """What changed, the summary, and the paths of errors."""
    errors: list[bytes] = []
    comparison = Comparison(make.blobs, metadata=metadata, on_error=lambda path, message: errors.append(path))
    changes = list(comparison.changes(before, after))
    return changes, comparison.summary, errors


def short(changes: list[Change]) -> list[tuple[str, str]]:
    """Kinds and paths."""
    return [(change.kind, change.path.decode()) for change in changes]


def test_the_same_tree() -> None:
    """Nothing differs, and what is the same on both sides is not even read."""
    make = TreeMaker()
    one = tree({"a": b"1", "d": {"b": b"2"}}, make)
    make.blobs.damaged.add(one.subtree)

    assert compare(one, one, metadata=True, make=make) == ([], DifferenceSummary(), [])


def test_equal_directories_are_not_read() -> None:
    """A directory with the same tree on both sides is skipped, whatever its metadata is."""
    make = TreeMaker()
    same = make.tree(make.file("f", b"content"))
    before = make.directory("r", make.node("d", "dir", subtree=same), make.file("x", b"1"))
    after = make.directory("r", make.node("d", "dir", 0o700, subtree=same), make.file("x", b"2"))
    make.blobs.damaged.add(same)

    changes, _, errors = compare(before, after, metadata=True, make=make)

    assert (short(changes), errors) == ([("metadata", "/d"), ("modified", "/x")], [])
    assert changes[0].fields == ("mode",)


def test_every_kind_of_change() -> None:
    """Sorted by name, a directory before what is in it, all of what is in one that came or went."""
    before = tree({"a": b"1", "b": {"c": b"2"}, "gone": {"x": {"y": b"3"}}, "same": b"4", "was-dir": {"z": b"55"}})
    after = tree({"a": b"one", "b": {"c": b"2", "new": b"666"}, "same": b"4", "was-dir": b"now a file", "zz": {}})

    changes, summary, _ = compare(before, after)

    assert short(changes) == [
        ("modified", "/a"),
        ("added", "/b/new"),
        ("removed", "/gone"),
        ("removed", "/gone/x"),
        ("removed", "/gone/x/y"),
        ("type", "/was-dir"),
        ("removed", "/was-dir/z"),
        ("added", "/zz"),
    ]
    assert (summary.changed_files, summary.size_before, summary.size_after, summary.changed_types) == (1, 1, 3, 1)
    added, removed = summary.added, summary.removed
    assert (added.files, added.dirs, added.others, added.size) == (2, 1, 0, 13)
    assert (removed.files, removed.dirs, removed.others, removed.size) == (2, 3, 0, 3)


def test_what_counts_as_content() -> None:
    """The target of a symlink and the number of a device are content; so is where a file has holes."""
    zeros = bytes(8192)
    before = MAKE.directory(
        "r",
        MAKE.symlink("link", b"here"),
        MAKE.node("dev", "chardev", rdev=1),
        MAKE.file("f", zeros),
        MAKE.node("p", "fifo"),
    )
    after = MAKE.directory(
        "r", MAKE.symlink("link", b"there"), MAKE.node("dev", "chardev", rdev=2), MAKE.file("f", zeros, [(0, 8192)]),
        MAKE.node("p", "fifo"),
    )  # fmt: skip

    changes, summary, _ = compare(before, after)

    assert short(changes) == [("modified", "/dev"), ("modified", "/f"), ("modified", "/link")]
    assert (summary.changed_files, summary.changed_others) == (1, 2)


def test_metadata_only_when_asked() -> None:
    """Which fields differ is told; without --metadata neither that nor entries of which nothing else changed."""
    before = MAKE.directory("r", MAKE.file("f", b"1"), MAKE.file("g", b"1"))
    after = MAKE.directory(
        "r", MAKE.file("f", b"1", mode=0o600, uid=1, xattrs=[(b"user.a", b"b")]), MAKE.file("g", b"2", mtime_ns=5)
    )

    changes, summary, _ = compare(before, after, metadata=True)
    assert [(change.kind, change.path, change.fields) for change in changes] == [
        ("metadata", b"/f", ("mode", "uid", "xattrs")),
        ("modified", b"/g", ("mtime",)),
    ]
    assert summary.changed_metadata == 1
    changes, summary, _ = compare(before, after)
    assert [(change.kind, change.path, change.fields) for change in changes] == [("modified", b"/g", ())]
    assert summary.changed_metadata == 0


@pytest.mark.parametrize("side", [0, 1])
def test_a_directory_that_cannot_be_read(side: int) -> None:
    """It is told, nothing is said of what is in it, and the rest is compared."""
    make = TreeMaker()
    sides = [tree({"a": b"1", "d": {"x": b"1"}}, make), tree({"a": b"2", "d": {"x": b"2", "y": b"3"}}, make)]
    broken = tree([{"x": b"1"}, {"x": b"2", "y": b"3"}][side], make).subtree
    make.blobs.damaged.add(broken)

    changes, _, errors = compare(*sides, make=make)

    assert (short(changes), errors) == ([("modified", "/a")], [b"/d"])


def test_two_files() -> None:
    """Entries that are no directories are compared themselves."""
    changes, _, _ = compare(MAKE.file("old", b"1"), MAKE.file("new", b"2"))
    assert short(changes) == [("modified", "/new")]
    same = MAKE.file("f", b"1")
    assert compare(same, same)[0] == []


def test_no_tree_is_too_deep() -> None:
    """The walk does not use the interpreter's stack."""
    one, other = MAKE.file("f", b"1"), MAKE.file("f", b"2")
    for _ in range(3000):
        one, other = MAKE.directory("d", one), MAKE.directory("d", other)

    changes, _, _ = compare(one, other)

    assert [change.path for change in changes] == [b"/d" * 2999 + b"/f"]


def test_blobs_of_each_side_are_told() -> None:
    """All blobs of what was read: trees, content, and the lists of large files; of what is equal only its tree."""
    make = TreeMaker()
    records = b"".join(make.blobs.save(BlobKind.DATA, b"%d" % number) for number in range(600))
    packed, depth = save_records(make.blobs, records, 32)
    same = make.tree(make.file("unseen", b"unseen"))
    large = make.node("large", "file", size=1, content=packed, content_depth=depth)
    common, changed = make.node("same", "dir", subtree=same), make.file("small", b"2")
    before, after = make.directory("r", common), make.directory("r", large, common, changed)
    told: dict[int, set[bytes]] = {BEFORE: set(), AFTER: set()}

    def on_blobs(packed_ids: bytes, side: int) -> None:
        told[side] |= {packed_ids[at : at + 32] for at in range(0, len(packed_ids), 32)}

    comparison = Comparison(make.blobs, metadata=False, on_error=lambda path, message: None, on_blobs=on_blobs)
    list(comparison.changes(before, after))

    split = {content[at : at + 32] for content in (records, packed) for at in range(0, len(content), 32)}
    assert depth == 1
    assert told == {
        BEFORE: {before.subtree, same},
        AFTER: {after.subtree, same, changed.content} | split,
    }


shapes = st.recursive(
    st.binary(max_size=2), lambda inner: st.dictionaries(st.sampled_from("abcdef"), inner, max_size=4), max_leaves=12
)
directories = st.dictionaries(st.sampled_from("abcdef"), shapes, max_size=5)


def flat(shape: Mapping[str, Shape], above: str = "") -> dict[str, bytes | None]:
    """Every path with its content, None for a directory."""
    found: dict[str, bytes | None] = {}
    for name, each in shape.items():
        path = f"{above}/{name}"
        found[path] = each if isinstance(each, bytes) else None
        if not isinstance(each, bytes):
            found.update(flat(each, path))
    return found


@given(directories, directories)
def test_as_told_by_two_listings(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> None:
    """Any two trees: the changes are those that two complete listings give."""
    one, other = flat(before), flat(after)

    changes, summary, _ = compare(tree(before), tree(after))

    expected = {("added", path) for path in other.keys() - one.keys()}
    expected |= {("removed", path) for path in one.keys() - other.keys()}
    for path in one.keys() & other.keys():
        if one[path] != other[path]:
            expected.add(("type" if None in (one[path], other[path]) else "modified", path))
    assert (set(short(changes)), len(changes)) == (expected, len(expected))
    assert [each.path.split(b"/") for each in changes] == sorted(each.path.split(b"/") for each in changes)
    assert summary.added.files - summary.removed.files == sum(
        (each is not None) * sign for listing, sign in ((other, 1), (one, -1)) for each in listing.values()
    )
