"""Finding entries across snapshots: by name, and by what they use; with a catalogue and without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import pytest

from bfrepo.core.errors import AmbiguousPrefix, DamagedBlob, Interrupted, InvalidValue, ObjectNotFound
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.core.units import KIB
from bfrepo.data.selection import find_node
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.catalogue import open_repository_catalogue, update_catalogue
from bfrepo.operations.find import SnapshotMatches, UsedKind, find_names, find_objects
from bfrepo.operations.listing import list_files
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.sources.query import NameQuery
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never, run_backup
from tests.support.repositories import make_repository, reopen
from tests.support.sources import Item, written

BIG = incompressible(1, 100 * KIB)


@pytest.fixture
def backend() -> MemoryBackend:
    """Two snapshots, between which a file moved and another changed."""
    backend = MemoryBackend()
    repository = make_repository(backend)
    same = {"/data/a.txt": b"a", "/data/sub/big": BIG}
    run_backup(repository, {**same, "/data/old/moved.py": b"m", "/data/c.txt": b"1"})
    run_backup(repository, {**same, "/data/new/moved.py": b"m", "/data/c.txt": written(b"22")})
    return backend


def told(found: Iterator[SnapshotMatches]) -> list[list[bytes]]:
    """The paths, for each snapshot that has any."""
    return [[match.path for match in each.matches] for each in found]


def by_name(repository: Repository, *patterns: str, reporter: Quiet | None = None) -> list[list[bytes]]:
    """What has a name, without a catalogue."""
    query = NameQuery(patterns)
    return told(find_names(repository, load_snapshots(repository), query, reporter or Quiet(), never))


def by_use(repository: Repository, kind: UsedKind, *prefixes: str) -> list[list[bytes]]:
    """What uses something."""
    return told(find_objects(repository, load_snapshots(repository), kind, prefixes, Quiet(), never))


def test_names(backend: MemoryBackend) -> None:
    """A name is found wherever it is, in each snapshot, sorted by path; a snapshot without any is left out."""
    repository = reopen(backend)

    assert by_name(repository, "moved.py") == [[b"/data/old/moved.py"], [b"/data/new/moved.py"]]
    assert by_name(repository, "/data/old/*") == [[b"/data/old/moved.py"]]
    assert by_name(repository, "*.txt", "sub") == [[b"/data/a.txt", b"/data/c.txt", b"/data/sub"]] * 2
    assert by_name(repository, "nothing") == []


def test_times(backend: MemoryBackend) -> None:
    """Only what was modified within the limits counts."""
    repository = reopen(backend)
    query = NameQuery(["*.txt"], oldest_ns=written(b"").mtime_ns)

    assert told(find_names(repository, load_snapshots(repository), query, Quiet(), never)) == [[b"/data/c.txt"]]


def test_only_the_snapshots_asked_for(backend: MemoryBackend) -> None:
    """Other snapshots are not looked into."""
    repository = reopen(backend)
    first, _ = load_snapshots(repository).items()

    found = list(find_names(repository, dict([first]), NameQuery(["moved.py"]), Quiet(), never))

    assert [each.snapshot_id for each in found] == [first[0]]
    assert list(find_names(repository, {}, NameQuery(["*"]), Quiet(), never)) == []


def test_who_uses_a_blob(backend: MemoryBackend) -> None:
    """The files with a chunk of data, by the start of its ID in letters of any size."""
    repository = reopen(backend)
    snapshots = load_snapshots(repository)
    root = next(iter(snapshots.values())).tree
    content = find_node(repository.loader, root, b"data/sub/big").content
    assert len(content) > 64

    for prefix in (content[:32].hex(), content[32:64].hex()[:8], content[:32].hex()[:13].upper()):
        assert by_use(repository, "blob", prefix) == [[b"/data/sub/big"]] * 2
    assert by_use(repository, "blob", bytes(32).hex()) == []
    found = list(find_objects(repository, snapshots, "blob", [content[:4].hex()], Quiet(), never))
    assert {match.object_id for each in found for match in each.matches} == {content[:32]}


def test_who_uses_a_tree(backend: MemoryBackend) -> None:
    """The directories whose tree it is; the root is one, too."""
    repository = reopen(backend)
    first, second = (each.tree for each in load_snapshots(repository).values())
    shared = find_node(repository.loader, first, b"data/sub").subtree

    assert by_use(repository, "tree", shared.hex()) == [[b"/data/sub"]] * 2
    assert by_use(repository, "tree", first.hex()[:8], second.hex()[:8]) == [[b"/"]] * 2
    assert by_use(repository, "blob", shared.hex()) == [[b"/data/sub"]] * 2
    content = find_node(repository.loader, first, b"data/sub/big").content
    assert by_use(repository, "tree", content[:32].hex()) == []


def test_who_uses_a_pack(backend: MemoryBackend) -> None:
    """A pack of data is used by files, one of trees by directories."""
    repository = reopen(backend)
    packs = {pack.id.hex(): pack for pack in repository.index.table.packs()}
    found = {name: by_use(repository, "pack", name[:8]) for name in packs}
    kinds = {pack.kind for pack in packs.values()}

    assert kinds == set(BlobKind)
    for name, pack in packs.items():
        paths = {path for each in found[name] for path in each}
        if pack.kind is BlobKind.TREE:
            assert b"/" in paths
            assert paths <= {b"/", b"/data", b"/data/sub", b"/data/old", b"/data/new"}
        else:
            assert paths <= {b"/data/sub/big", b"/data/a.txt", b"/data/c.txt", b"/data/old/moved.py",
                             b"/data/new/moved.py"}  # fmt: skip
    every = {path for each in found.values() for paths in each for path in paths}
    assert b"/data/sub/big" in every


def test_the_blobs_of_a_long_list() -> None:
    """A file so large that its list of chunks is in blobs of its own uses those as well."""
    repository = make_repository()
    run_backup(repository, {"/data/large": incompressible(2, 4 << 20)})
    repository.refresh_index()
    (snapshot,) = load_snapshots(repository).values()
    node = find_node(repository.loader, snapshot.tree, b"data/large")
    assert node.content_depth == 1

    assert by_use(repository, "blob", node.content[:32].hex()) == [[b"/data/large"]]


@pytest.mark.parametrize("text", ["12345", "not hex at all", "", "0" * 65])
@pytest.mark.parametrize("kind", ["blob", "tree", "pack"])
def test_what_is_no_id(backend: MemoryBackend, kind: UsedKind, text: str) -> None:
    """It is refused before anything is read, rather than found nowhere."""
    with pytest.raises((InvalidValue, ObjectNotFound, AmbiguousPrefix)):
        by_use(reopen(backend), kind, text)


def test_what_cannot_be_read_is_told_once(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged directory is a problem with its path, however many snapshots have it; the rest is found."""
    repository = reopen(backend)
    loader = repository.loader
    first, _ = load_snapshots(repository).values()
    damaged = find_node(loader, first.tree, b"data/sub").subtree
    read = loader.read_frame
    told_problems: list[tuple[bytes, str]] = []

    def spoil(frame: int, blob_ids: list[bytes]) -> Iterator[tuple[bytes, object]]:
        for blob_id, data in read(frame, blob_ids):
            yield blob_id, DamagedBlob("it is broken") if blob_id == damaged else data

    monkeypatch.setattr(loader, "read_frame", spoil)

    class Listening(Quiet):
        def problem(self, path: bytes, message: str) -> None:
            told_problems.append((path, message))

    assert by_name(repository, "a.txt", "big", reporter=Listening()) == [[b"/data/a.txt"]] * 2
    assert told_problems == [(b"/data/sub", "it is broken")]


def test_it_can_be_stopped(backend: MemoryBackend) -> None:
    """Whoever presses Ctrl-C does not wait for the end."""
    repository = reopen(backend)

    with pytest.raises(Interrupted):
        list(find_names(repository, load_snapshots(repository), NameQuery(["*"]), Quiet(), lambda: True))


# ---- with a catalogue


def plainly(repository: Repository, snapshots: Mapping[bytes, Snapshot], query: NameQuery) -> dict[bytes, list[bytes]]:
    """What is to be found, by listing every snapshot."""
    found = {}
    for identifier, snapshot in snapshots.items():
        entries = list_files(repository.loader, snapshot.tree, b"", recursive=True, on_error=lambda path, why: None)
        found[identifier] = sorted(
            each.path
            for each in entries
            if query.fits(each.path, is_dir=each.node.type == "dir") and query.in_time(each.node.mtime_ns)
        )
    return {identifier: paths for identifier, paths in found.items() if paths}


def random_tree(random: Random) -> dict[str, Item | bytes]:
    """Some files with names and times that occur again and again."""
    names = ["a", "b.txt", "B.TXT", "école", "notes", "x" * 30]
    tree: dict[str, Item | bytes] = {}
    for _ in range(random.randrange(1, 12)):
        depth = random.randrange(1, 4)
        path = "/data/" + "/".join(random.choice(["d", "e", "notes.d"]) for _ in range(depth))
        tree[f"{path}/{random.choice(names)}"] = written(b"x" * random.randrange(3), again=random.randrange(4))
    return tree


@pytest.mark.parametrize("seed", range(8))
def test_the_same_with_a_catalogue(tmp_path: Path, seed: int) -> None:
    """Whatever is asked, the answer is that of listing every snapshot, while snapshots come and go."""
    random = Random(seed)
    backend = MemoryBackend()
    run_backup(make_repository(backend), random_tree(random))
    for turn in range(4):
        repository = reopen(backend, cache_dir=tmp_path)
        run_backup(repository, random_tree(random))
        catalogue = open_repository_catalogue(repository, make=turn == 1)
        assert (catalogue is not None) == (turn >= 1)
        snapshots = load_snapshots(repository)
        if catalogue is not None:
            with catalogue:
                assert update_catalogue(repository, catalogue, Quiet(), never) == snapshots
                run_backup(repository, random_tree(random))
                snapshots = load_snapshots(repository)
                for pattern in ("*.txt", "notes*", "/data/**/a", "e/*", "*", "ÉCO*", "xxx*", "d/", "!a"):
                    query = NameQuery(
                        [pattern, "*.TXT"],
                        ignore_case=random.random() < 0.5,
                        oldest_ns=written(b"", again=2).mtime_ns if random.random() < 0.3 else None,
                    )
                    expected = plainly(repository, snapshots, query)
                    for used in (catalogue, None):
                        found = find_names(repository, snapshots, query, Quiet(), never, catalogue=used)
                        paths = {each.snapshot_id: [match.path for match in each.matches] for each in found}
                        assert paths == expected
        forgotten = random.choice(list(snapshots))
        backend.delete(ObjectKind.SNAPSHOT, forgotten.hex())


def test_no_tree_is_read_of_what_is_in_the_catalogue(
    backend: MemoryBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither trees nor the index are read when all snapshots are there."""
    repository = reopen(backend, cache_dir=tmp_path)
    catalogue = open_repository_catalogue(repository, make=True)
    assert catalogue is not None
    with catalogue:
        update_catalogue(repository, catalogue, Quiet(), never)
        repository.forget_index()

        def fail(*arguments: object) -> None:
            raise AssertionError("the index was read")

        monkeypatch.setattr(repository, "refresh_index", fail)
        snapshots = update_catalogue(repository, catalogue, Quiet(), never)
        found = find_names(repository, snapshots, NameQuery(["big"]), Quiet(), never, catalogue=catalogue)

        assert told(found) == [[b"/data/sub/big"]] * 2
