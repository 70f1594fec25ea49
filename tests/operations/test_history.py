"""Every version of a path, across snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeAlias

import pytest

from bfrepo.core.errors import DamagedBlob, Interrupted, InvalidValue
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.data.selection import find_node
from bfrepo.operations.catalogue import open_repository_catalogue, update_catalogue
from bfrepo.operations.history import PathVersion, history
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from tests.support.backups import never, run_backup
from tests.support.repositories import START, make_repository
from tests.support.sources import Item, written

Tree: TypeAlias = Mapping[str, Item | bytes]


def days(repository: Repository, *trees: Tree, first: int = 0, host: str = "here") -> None:
    """One snapshot a day."""
    for day, tree in enumerate(trees, first):
        run_backup(repository, tree, time=START + timedelta(days=day), hostname=host)


def versions_of(repository: Repository, path: bytes, reporter: Quiet | None = None) -> list[PathVersion]:
    """The history, without a catalogue."""
    return history(repository, load_snapshots(repository), path, reporter or Quiet(), never)


def told(versions: list[PathVersion]) -> list[tuple[str, int | None, int]]:
    """What changed, the size, and in how many snapshots it was so."""
    return [(each.change, each.node.size if each.node else None, len(each.snapshots)) for each in versions]


ONE: Tree = {"/data/a": b"1", "/data/b": b"x"}
TWO: Tree = {"/data/a": written(b"22"), "/data/b": b"x"}
NONE: Tree = {"/data/b": b"x"}


def test_versions() -> None:
    """A version lasts until something changes; what was gone, or as it was before, is a version again."""
    repository = make_repository()
    days(repository, NONE, ONE, ONE, TWO, NONE, NONE, ONE)

    found = versions_of(repository, b"/data/a")

    assert told(found) == [("new", 1, 2), ("content", 2, 1), ("removed", None, 2), ("new", 1, 1)]
    times = [[snapshot.when - START for snapshot in each.snapshots.values()] for each in found]
    assert [each[0].days for each in times] == [1, 3, 4, 6]
    assert told(versions_of(repository, b"data//b/")) == [("new", 1, 7)]


def test_metadata() -> None:
    """A change of permissions is told from one of content; what the system changes by itself is none."""
    repository = make_repository()
    plain = written(b"1")
    other = [
        plain,
        replace(plain, ctime_ns=plain.ctime_ns + 5),
        replace(plain, mode=0o600, ctime_ns=plain.ctime_ns + 9),
    ]
    days(repository, *({"/data/a": item} for item in other))

    assert told(versions_of(repository, b"/data/a")) == [("new", 1, 2), ("metadata", 1, 1)]


def test_a_directory() -> None:
    """The content of a directory is everything below it."""
    repository = make_repository()
    days(
        repository,
        {"/data/d/e/a": b"1"},
        {"/data/d/e/a": written(b"2")},
        {"/data/d/e/a": written(b"2"), "/data/b": b""},
    )

    assert [each.change for each in versions_of(repository, b"/data/d")] == ["new", "content"]


def test_a_file_in_place_of_a_directory() -> None:
    """A path that goes on behind a file is not there."""
    repository = make_repository()
    days(repository, {"/data/d/a": b"1"}, {"/data/d": b"2"})

    assert told(versions_of(repository, b"/data/d/a")) == [("new", 1, 1), ("removed", None, 1)]
    assert [each.change for each in versions_of(repository, b"/data/d")] == ["new", "content"]


def test_hosts_have_histories_of_their_own() -> None:
    """Snapshots of another host neither end a version nor begin one."""
    repository = make_repository()
    days(repository, ONE, ONE, host="one")
    days(repository, TWO, TWO, host="two")

    found = versions_of(repository, b"/data/a")

    assert {each.hostname: len(each.snapshots) for each in found} == {"one": 2, "two": 2}
    assert [each.change for each in found] == ["new", "new"]


def test_a_snapshot_of_something_else_says_nothing() -> None:
    """That a path is not in a snapshot of other paths does not mean that it was gone."""
    repository = make_repository()
    days(repository, ONE)
    run_backup(repository, {"/srv/x": b"1"}, paths=(b"/srv",), time=START + timedelta(hours=1))
    days(repository, ONE, first=1)
    run_backup(repository, {"/data/b": b"1"}, paths=(b"/data/b",), time=START + timedelta(days=3))

    assert told(versions_of(repository, b"/data/a")) == [("new", 1, 2)]
    assert [each.change for each in versions_of(repository, b"/data")] == ["new", "content"]


def test_what_is_nowhere() -> None:
    """A path that no snapshot has has no versions, and the root none of its own."""
    repository = make_repository()
    days(repository, ONE)

    assert versions_of(repository, b"/data/missing") == []
    with pytest.raises(InvalidValue):
        versions_of(repository, b"/")


def test_what_cannot_be_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot with a damaged directory on the way is reported, and says nothing of the path."""
    repository = make_repository()
    days(repository, ONE, TWO, ONE)
    repository.refresh_index()
    loader, second = repository.loader, list(load_snapshots(repository).values())[1]
    damaged = find_node(loader, second.tree, b"data").subtree
    load, problems = loader.load, []

    def lose(kind: BlobKind, blob_id: bytes) -> bytes:
        if blob_id == damaged:
            raise DamagedBlob("it is broken")
        return load(kind, blob_id)

    class Listening(Quiet):
        def problem(self, path: bytes, message: str) -> None:
            problems.append((path, message))

    monkeypatch.setattr(loader, "load", lose)

    assert told(versions_of(repository, b"/data/a", Listening())) == [("new", 1, 2)]
    assert problems == [(b"/data", "it is broken")]


def test_it_can_be_stopped() -> None:
    """Whoever presses Ctrl-C does not wait for the end."""
    repository = make_repository()
    days(repository, ONE)

    with pytest.raises(Interrupted):
        history(repository, load_snapshots(repository), b"/data/a", Quiet(), lambda: True)


@pytest.mark.parametrize("path", [b"/data/a", b"/data/b", b"/data", b"/data/d/x", b"/data/missing"])
@pytest.mark.parametrize("missing", [0, 2])
def test_the_same_with_a_catalogue(tmp_path: Path, path: bytes, missing: int) -> None:
    """A catalogue gives the same history, also where it does not have all snapshots."""
    repository = make_repository(cache_dir=tmp_path)
    trees: list[Tree] = [ONE, TWO, {"/data/d/x": b"1"}, NONE, ONE, {"/data/d/x": written(b"1", again=3)}, TWO]
    days(repository, *trees[: len(trees) - missing])
    catalogue = open_repository_catalogue(repository, make=True)
    assert catalogue is not None
    with catalogue:
        update_catalogue(repository, catalogue, Quiet(), never)
        days(repository, *trees[len(trees) - missing :], first=len(trees) - missing)
        snapshots = load_snapshots(repository)

        found = history(repository, snapshots, path, Quiet(), never, catalogue=catalogue)

    expected = history(repository, snapshots, path, Quiet(), never)
    assert [_fields(each) for each in found] == [_fields(each) for each in expected]


def _fields(version: PathVersion) -> tuple[object, ...]:
    node = version.node
    shown = (node.name, node.size, node.mtime_ns) if node is not None else None
    return version.change, version.hostname, version.snapshots, shown
