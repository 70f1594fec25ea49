"""Snapshots and claims as stored, and which snapshot somebody means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from bfrepo.core.errors import AmbiguousPrefix, DamagedObject, InvalidValue, ObjectNotFound, UnsupportedFormat
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter, find_node, find_snapshot, split_path
from bfrepo.data.snapshot import (
    Claim,
    Snapshot,
    SnapshotSummary,
    decode_claim,
    decode_snapshot,
    encode_claim,
    encode_snapshot,
)
from bfrepo.data.tree import save_tree
from tests.support.blobs import MemoryBlobs

NAME = "n" * 64


def a_snapshot(**fields: Any) -> Snapshot:
    """A snapshot with what every one has."""
    return Snapshot(**{"version": 1, "time": "2024-05-17T12:00:00+02:00", "tree": b"t" * 32, **fields})


FULL = a_snapshot(
    paths=[b"/srv/\xff"], hostname="host", username="me", excludes=["*.o"], tags=["a", "b"], label="monthly",
    parent=b"p" * 32, original=b"o" * 32, twin=b"t" * 32 + b"w" * 32, program="tests",
    summary=SnapshotSummary(files_new=1, size=2, duration=1.5, started_ns=3),
)  # fmt: skip


@pytest.mark.parametrize("snapshot", [a_snapshot(), FULL], ids=["least", "full"])
def test_round_trip(snapshot: Snapshot) -> None:
    """What was written is read again, and the same snapshot is the same bytes."""
    data = encode_snapshot(snapshot)
    assert decode_snapshot(data, name=NAME) == snapshot
    assert encode_snapshot(decode_snapshot(data, name=NAME)) == data


def test_unknown_fields_survive() -> None:
    """Fields of a later version, of any type, are kept when a snapshot is read and written again."""
    later = {"unknown": 1, "colour": "red", "nested": {"a": [1, b"\xff"]}}
    fields = {**msgspec.msgpack.decode(encode_snapshot(FULL)), **later}
    found = decode_snapshot(msgspec.msgpack.encode(fields), name=NAME)
    found.tags = ["changed"]
    assert msgspec.msgpack.decode(encode_snapshot(found)) == {**fields, "tags": ["changed"]}


def test_unknown_fields_of_the_summary_survive() -> None:
    """The same holds for what a later version adds to the summary."""
    fields = msgspec.msgpack.decode(encode_snapshot(FULL))
    fields["summary"]["files_cloned"] = 7
    found = decode_snapshot(msgspec.msgpack.encode(fields), name=NAME)
    assert found.summary == FULL.summary
    assert msgspec.msgpack.decode(encode_snapshot(found)) == fields


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"version": 2}, UnsupportedFormat),
        ({"version": None}, UnsupportedFormat),
        ({"time": "yesterday"}, DamagedObject),
        ({"time": "2024-05-17T12:00:00"}, DamagedObject),
        ({"time": 7}, DamagedObject),
        ({"tree": b"short"}, DamagedObject),
        ({"tree": "t" * 32}, DamagedObject),
        ({"original": b"short"}, DamagedObject),
        ({"twin": b"t" * 32}, DamagedObject),
        ({"paths": "/srv"}, DamagedObject),
        ({"summary": []}, DamagedObject),
    ],
    ids=str,
)
def test_malformed(fields: dict[str, Any], error: type[Exception]) -> None:
    """A snapshot that does not fit the format is damage, one of a newer version is unknown; both are named."""
    data = msgspec.msgpack.encode({**msgspec.msgpack.decode(encode_snapshot(FULL)), **fields})
    with pytest.raises(error, match="snapshot nnnnnnnn"):
        decode_snapshot(data, name=NAME)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x80", b"\x81\xa1a"])
def test_no_snapshot_at_all(data: bytes) -> None:
    """What is no snapshot is refused."""
    with pytest.raises((DamagedObject, UnsupportedFormat)):
        decode_snapshot(data, name=NAME)


def test_tree_of_the_original() -> None:
    """A copy knows the tree of its original until it gets another tree, by whoever does not know of that."""
    assert a_snapshot().original_tree == b"t" * 32
    assert FULL.original_tree == b"w" * 32
    assert msgspec.structs.replace(FULL, tags=[]).original_tree == b"w" * 32
    assert msgspec.structs.replace(FULL, tree=b"n" * 32).original_tree == b"n" * 32


def test_claims() -> None:
    """A claim is read as it was written; a newer or malformed one is refused."""
    claim = Claim(version=1, tree=b"t" * 32, snapshot=b"s" * 32, time="2024-05-17T12:00:00+02:00", hostname="h")
    assert decode_claim(encode_claim(claim), name=NAME) == claim
    with pytest.raises(UnsupportedFormat):
        decode_claim(encode_claim(msgspec.structs.replace(claim, version=2)), name=NAME)
    with pytest.raises(DamagedObject):
        decode_claim(b"\x80", name=NAME)


# --- which one is meant


def several() -> dict[bytes, Snapshot]:
    """Four snapshots of two hosts, the times not in the order of the IDs."""
    start = datetime(2024, 5, 17, tzinfo=UTC)
    rows = [
        (b"\x11", 3, "a", ["x"], [b"/srv"]),
        (b"\x12", 1, "b", ["x", "y"], [b"/srv", b"/etc"]),
        (b"\x33", 2, "a", [], [b"/etc"]),
        (b"\x44", 4, "b", ["y"], [b"/srv"]),
    ]
    return {
        first + bytes(31): a_snapshot(
            time=(start + timedelta(days=days)).isoformat(), hostname=host, tags=tags, paths=paths
        )
        for first, days, host, tags, paths in rows
    }


@pytest.mark.parametrize(
    ("text", "chosen", "first"),
    [
        ("latest", SnapshotFilter(), b"\x44"),
        ("latest~0", SnapshotFilter(), b"\x44"),
        ("latest~3", SnapshotFilter(), b"\x12"),
        ("latest", SnapshotFilter(hosts=("a",)), b"\x11"),
        ("latest~1", SnapshotFilter(hosts=("a",)), b"\x33"),
        ("latest", SnapshotFilter(hosts=("a", "b")), b"\x44"),
        ("latest", SnapshotFilter(tags=(frozenset({"x"}),)), b"\x11"),
        ("latest", SnapshotFilter(tags=(frozenset({"x", "y"}),)), b"\x12"),
        ("latest~1", SnapshotFilter(tags=(frozenset({"x", "y"}), frozenset({"y"}))), b"\x12"),
        ("latest", SnapshotFilter(tags=(frozenset(),)), b"\x33"),
        ("latest", SnapshotFilter(paths=(b"/etc",)), b"\x33"),
        ("latest", SnapshotFilter(paths=(b"/etc", b"/srv")), b"\x12"),
        ("1100000", None, b"\x11"),
        ("4400000000", SnapshotFilter(hosts=("a",)), b"\x44"),
        ("44" + "0" * 62, None, b"\x44"),
    ],
)
def test_found(text: str, chosen: SnapshotFilter | None, first: bytes) -> None:
    """`latest` is the newest that the filter keeps, `latest~N` the N-th before it; an ID is not filtered."""
    if text == "1100000":
        text += "0"
    assert find_snapshot(text, several(), chosen) == first + bytes(31)


@pytest.mark.parametrize(
    ("text", "chosen", "error"),
    [
        ("latest~4", None, ObjectNotFound),
        ("latest", SnapshotFilter(hosts=("c",)), ObjectNotFound),
        ("latest~", None, InvalidValue),
        ("latest~-1", None, InvalidValue),
        ("latest~9999999", None, InvalidValue),
        ("Latest", None, InvalidValue),
        ("110000", None, InvalidValue),
        ("", None, InvalidValue),
        ("ffffffff", None, ObjectNotFound),
    ],
)
def test_not_found(text: str, chosen: SnapshotFilter | None, error: type[Exception]) -> None:
    """What means no snapshot says why."""
    with pytest.raises(error):
        find_snapshot(text, several(), chosen)


def test_ambiguous() -> None:
    """A prefix that fits several is refused and names them."""
    twins = {b"\xab" * 4 + bytes([number]) * 28: a_snapshot() for number in range(3)}
    with pytest.raises(AmbiguousPrefix, match="3 snapshots start with it"):
        find_snapshot("ab" * 4, twins)
    assert find_snapshot("AB" * 4 + "0101", twins)[4] == 1


def test_same_time() -> None:
    """Snapshots of the same moment have an order too, so that `latest` is always the same one."""
    twins = {bytes([number]) * 32: a_snapshot() for number in (2, 3, 1)}
    assert find_snapshot("latest", twins) == b"\x03" * 32
    assert find_snapshot("latest~2", twins) == b"\x01" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latest", ("latest", b"")),
        ("latest:", ("latest", b"")),
        ("latest:/srv/a/", ("latest", b"srv/a")),
        ("abc:x:y", ("abc", b"x:y")),
        ("latest:\udcff", ("latest", b"\xff")),
    ],
)
def test_paths_in_snapshots(text: str, expected: tuple[str, bytes]) -> None:
    """What follows the first colon is a path below the root, raw bytes and all."""
    assert split_path(text) == expected


def test_path_without_snapshot() -> None:
    """A path alone names no snapshot."""
    with pytest.raises(InvalidValue):
        split_path(":/srv")


def test_nodes_by_path() -> None:
    """A path leads to its node; one that leads nowhere, or through a file, is not found."""
    blobs = MemoryBlobs()
    inner = save_tree(blobs, [Node(name=b"f", size=7)])
    root = save_tree(blobs, [Node(name=b"d", type="dir", subtree=inner)])
    assert find_node(blobs, root, b"d/f").size == 7
    assert find_node(blobs, root, b"d//f").size == 7
    assert find_node(blobs, root, b"").subtree == root
    for path in (b"x", b"d/x", b"d/f/x", b"d/f/f"):
        with pytest.raises(ObjectNotFound, match="the snapshot has no /"):
            find_node(blobs, root, path)
