"""Groups of snapshots, and the files in one."""

from __future__ import annotations

from typing import Any

import pytest

from bfrepo.core.errors import DamagedBlob, InvalidValue, ObjectNotFound
from bfrepo.core.ids import BlobKind
from bfrepo.data.selection import find_node
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot
from bfrepo.operations.listing import SortKey, group_snapshots, latest_of_each, list_files, parse_group_by
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import run_backup
from tests.support.repositories import make_repository, reopen
from tests.support.sources import Item

DAY_NS = 86_400_000_000_000


def snapshot(host: str = "h", paths: tuple[bytes, ...] = (b"/p",), tags: tuple[str, ...] = ()) -> Snapshot:
    """A snapshot with what groups go by."""
    return Snapshot(
        version=SNAPSHOT_VERSION,
        time="2024-01-01T00:00:00+00:00",
        tree=b"",
        hostname=host,
        paths=list(paths),
        tags=list(tags),
    )


SNAPSHOTS = {
    b"1": snapshot("a", (b"/x", b"/y")),
    b"2": snapshot("b"),
    b"3": snapshot("a", (b"/y", b"/x"), ("t",)),
    b"4": snapshot("b"),
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ()), ("host", ("host",)), ("tags,host", ("host", "tags")), (" path , tag,hosts", ("host", "paths", "tags"))],
)
def test_group_keys(text: str, expected: tuple[str, ...]) -> None:
    """Any of the three, in any order, in the singular too as in restic."""
    assert parse_group_by(text) == expected


def test_an_unknown_group_key() -> None:
    """A key that does not exist is named."""
    with pytest.raises(InvalidValue, match="size"):
        parse_group_by("host,size")


def test_groups_have_in_common_what_they_go_by() -> None:
    """The order of paths does not matter; what is not grouped by is None."""
    groups = group_snapshots(SNAPSHOTS, ("host", "paths"))

    assert [(each.host, each.paths, each.tags, list(each.snapshots)) for each in groups] == [
        ("a", (b"/x", b"/y"), None, [b"1", b"3"]),
        ("b", (b"/p",), None, [b"2", b"4"]),
    ]


def test_without_keys_all_are_one_group() -> None:
    """One group, unless there is nothing at all."""
    assert [list(group.snapshots) for group in group_snapshots(SNAPSHOTS, ())] == [[b"1", b"2", b"3", b"4"]]
    assert group_snapshots({}, ()) == []


@pytest.mark.parametrize(("count", "expected"), [(1, [b"3", b"4"]), (2, [b"1", b"2", b"3", b"4"])])
def test_the_latest_of_each_group(count: int, expected: list[bytes]) -> None:
    """The last ones of each group stay, in the order they came in."""
    assert list(latest_of_each(SNAPSHOTS, count, ("host",))) == expected


@pytest.fixture
def backend() -> MemoryBackend:
    """A store with a snapshot of a small tree."""
    backend = MemoryBackend()
    tree = {
        "/data/big": Item(content=b"x" * 5000),
        "/data/new": Item(content=b"y", mtime_ns=Item().mtime_ns + DAY_NS),
        "/data/sub/deep/c": Item(content=b"z" * 10),
    }
    run_backup(make_repository(backend), tree)
    return backend


def listed(repository: Repository, path: bytes, **options: Any) -> tuple[list[bytes], list[bytes]]:
    """The paths that are listed, and those that cannot be."""
    errors: list[bytes] = []
    (root,) = (each.tree for each in load_snapshots(repository).values())
    files = list_files(repository.loader, root, path, on_error=lambda where, message: errors.append(where), **options)
    return [each.path for each in files], errors


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", [b"/data"]),
        (b"data", [b"/data/big", b"/data/new", b"/data/sub"]),
        (b"data/sub", [b"/data/sub/deep"]),
        (b"data/big", [b"/data/big"]),
    ],
)
def test_a_directory_or_an_entry(backend: MemoryBackend, path: bytes, expected: list[bytes]) -> None:
    """A directory lists what is in it, anything else itself."""
    assert listed(reopen(backend), path) == (expected, [])


def test_everything_below(backend: MemoryBackend) -> None:
    """Directories come before what is in them."""
    paths, _ = listed(reopen(backend), b"", recursive=True)

    assert paths == [b"/data", b"/data/big", b"/data/new", b"/data/sub", b"/data/sub/deep", b"/data/sub/deep/c"]


@pytest.mark.parametrize(("sort", "first"), [("size", [b"/data/big", b"/data/sub/deep/c"]), ("time", [b"/data/new"])])
def test_sorted_over_all_directories(backend: MemoryBackend, sort: SortKey, first: list[bytes]) -> None:
    """The largest or newest of all comes first, wherever it is."""
    paths, _ = listed(reopen(backend), b"", recursive=True, sort=sort)

    assert paths[: len(first)] == first


def test_what_is_not_there(backend: MemoryBackend) -> None:
    """A path that the snapshot does not have is an error."""
    with pytest.raises(ObjectNotFound, match="/data/missing"):
        listed(reopen(backend), b"data/missing")


def test_a_directory_that_cannot_be_read(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the rest is listed."""
    repository = reopen(backend)
    loader, (snapshot,) = repository.loader, load_snapshots(repository).values()
    damaged = find_node(loader, snapshot.tree, b"data/sub").subtree
    load = loader.load

    def lose(kind: BlobKind, blob_id: bytes) -> bytes:
        if blob_id == damaged:
            raise DamagedBlob("it is broken")
        return load(kind, blob_id)

    monkeypatch.setattr(loader, "load", lose)

    assert listed(repository, b"", recursive=True) == (
        [b"/data", b"/data/big", b"/data/new", b"/data/sub"],
        [b"/data/sub"],
    )
