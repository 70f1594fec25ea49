"""Rewriting: snapshots without some paths, made of trees alone, and nothing changed where something is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedBlob,
    DamagedObject,
    Interrupted,
    MissingBlob,
    StorageDenied,
    UnsupportedFormat,
)
from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet
from bfrepo.data.selection import find_node
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.rewrite import RewriteOptions, RewriteResult, rewrite
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never, run_backup
from tests.support.damage import save_flag, save_snapshot
from tests.support.faulty import FaultyBackend, copy_of, crash_points
from tests.support.pruning import Prune
from tests.support.repositories import PASSWORD, FakeClock, make_repository, names, reopen, saver_options
from tests.support.restoring import expected, misnamed, restored, restored_nodes, restored_snapshots
from tests.support.scheduler import own_threads, run_in_order
from tests.support.sources import Item, folder

TREE: Mapping[str, Item | bytes] = {
    "data/a.txt": b"text",
    "data/secret.key": b"very secret",
    "data/sub/deep/secret.key": b"as secret",
    "data/sub/link": Item(type="symlink", target=b"deep"),
    "data/sub/note": b"a note",
    "data/whole/b.txt": b"untouched",
    "data/void": folder(inode=1),
}
WITHOUT_KEYS = {path: item for path, item in TREE.items() if "secret" not in path}
WITHOUT_KEYS["data/sub/deep"] = folder(inode=1)
PLAIN: Mapping[str, Item | bytes] = {"data/other": b"nothing secret"}


def repository_with(*trees: Mapping[str, Item | bytes]) -> FaultyBackend:
    """Storage of a repository with a snapshot of each tree, an hour apart."""
    backend = FaultyBackend(MemoryBackend())
    clock = FakeClock()
    repository = make_repository(backend, clock=clock)
    for tree in trees:
        run_backup(repository, tree, tags=("a",), excludes=("*.o",))
        clock.advance(3600)
    backend.calls.clear()
    return backend


def leaving_out(*patterns: str, forget: bool = False, dry_run: bool = False) -> RewriteOptions:
    """Options with these patterns."""
    rules = ExcludeRules.from_options(environment={}, exclude=patterns)
    return RewriteOptions(rules=rules, patterns=patterns, forget=forget, dry_run=dry_run)


WITHOUT = leaving_out("*.key", forget=True)
BESIDE = leaving_out("*.key")


def run(
    where: Backend | Repository,
    options: RewriteOptions = WITHOUT,
    *,
    reporter: Quiet | None = None,
    cancelled: Callable[[], bool] = never,
) -> RewriteResult:
    """Rewrite all snapshots, as another process would."""
    repository = where if isinstance(where, Repository) else reopen(where)
    return rewrite(repository, load_snapshots(repository), options, reporter or Quiet(), cancelled)


def there(backend: Backend) -> dict[bytes, Snapshot]:
    """The snapshots, oldest first."""
    return load_snapshots(reopen(backend))


def everything(backend: Backend) -> dict[tuple[ObjectKind, str], bytes]:
    """All that is stored."""
    return {(kind, name): backend.load(kind, name) for kind in ObjectKind for name in names(backend, kind)}


# ---- what it makes


def test_as_if_it_had_never_been_backed_up() -> None:
    """The new tree and its sizes are those of a backup of what is left; what the backup did, and when, stays."""
    backend = repository_with(TREE)
    ((old_id, old),) = there(backend).items()

    (done,) = run(backend).rewritten

    ((new_id, new),) = there(backend).items()
    plain = run_backup(make_repository(MemoryBackend()), WITHOUT_KEYS).snapshot
    assert (done.old_id, done.new_id) == (old_id, new_id)
    assert new.tree == plain.tree
    assert restored(reopen(backend).loader, new.tree) == expected(WITHOUT_KEYS)
    for name in ("files", "dirs", "others", "size"):
        assert getattr(new.summary, name) == getattr(plain.summary, name) < getattr(old.summary, name) or name in (
            "dirs", "others",
        )  # fmt: skip
    assert (new.summary.others, new.summary.dirs) == (old.summary.others, old.summary.dirs)
    kept = msgspec.structs.replace(
        new, tree=old.tree, summary=old.summary, excludes=old.excludes, original=old.original
    )
    assert kept == old
    assert new.summary.started_ns == old.summary.started_ns
    assert new.original == old_id
    assert new.excludes == ["*.o", "*.key"]


def test_trees_alone() -> None:
    """No data is read or stored, and directories of which nothing is left out keep their trees."""
    backend = repository_with(TREE)
    repository = reopen(backend)
    (old,) = load_snapshots(repository).values()
    loaded: list[BlobKind] = []
    load = repository.loader.load

    def spy(kind: BlobKind, blob_id: bytes) -> bytes:
        loaded.append(kind)
        return load(kind, blob_id)

    repository.loader.load = spy  # type: ignore[method-assign]
    packs = names(backend, ObjectKind.PACK)

    run(repository)

    (new,) = there(backend).values()
    loader = reopen(backend).loader
    assert set(loaded) == {BlobKind.TREE}
    assert len(names(backend, ObjectKind.PACK) - packs) == 1
    for path, same in ((b"data/whole", True), (b"data/void", True), (b"data/sub", False)):
        assert (find_node(loader, old.tree, path) == find_node(loader, new.tree, path)) is same
    assert misnamed(backend) == []


def test_the_originals_stay() -> None:
    """Unless they are to go the originals stay, and the new snapshots have a tag of their own."""
    backend = repository_with(TREE)
    (old_id,) = there(backend)

    run(backend, BESIDE)

    found = there(backend)
    assert found[old_id].tags == ["a"]
    assert [each.tags for each in found.values() if each.original == old_id] == [["a", "rewrite"]]
    assert sorted(map(len, restored_snapshots(reopen(backend)).values())) == [
        len(expected(WITHOUT_KEYS)), len(expected(TREE)),
    ]  # fmt: skip


def test_again() -> None:
    """A second run makes nothing anew; one that is to remove the originals then does only that."""
    backend = repository_with(TREE, PLAIN)
    run(backend, BESIDE)
    before = everything(backend)

    assert run(backend, BESIDE) == RewriteResult(unchanged=2, done_before=1)
    assert everything(backend) == before
    (done,) = run(backend).rewritten
    assert set(before) - set(everything(backend)) == {(ObjectKind.SNAPSHOT, done.old_id.hex())}
    assert set(everything(backend)) <= set(before)
    assert run(backend) == RewriteResult(unchanged=2)


def test_snapshots_without_such_paths() -> None:
    """A snapshot of which nothing is left out keeps its ID."""
    backend = repository_with(TREE, PLAIN)
    plain_id = list(there(backend))[1]

    assert run(backend).unchanged == 1
    assert plain_id in there(backend)


def test_dry_run() -> None:
    """What would be done is told with the sizes, and nothing is written."""
    backend = repository_with(TREE, PLAIN)
    before = everything(backend)
    repository = reopen(backend)

    (done,) = run(repository, leaving_out("*.key", dry_run=True)).rewritten

    assert (done.new_id, done.new.summary.files) == (b"", 3)
    assert everything(backend) == before
    assert len(run(repository).rewritten) == 1
    assert restored_snapshots(reopen(backend))


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["/one/same/x"], {"/one", "/one/same", "/two", "/two/same", "/two/same/x", "/y"}),
        (["same/"], {"/one", "/two", "/y"}),
        (["/one"], {"/two", "/two/same", "/two/same/x", "/y"}),
        (["*", "!/y"], {"/y"}),
        (["**/same/*", "!/two/**"], {"/one", "/one/same", "/two", "/two/same", "/two/same/x", "/y"}),
        (["/nowhere"], {"/one", "/one/same", "/one/same/x", "/two", "/two/same", "/two/same/x", "/y"}),
    ],
)
def test_patterns(patterns: list[str], left: set[str]) -> None:
    """Patterns mean what they mean to a backup; equal directories at two places are judged for each."""
    backend = repository_with({"one/same/x": b"x", "two/same/x": b"x", "y": b"y"})

    run(backend, leaving_out(*patterns, forget=True))

    (new,) = there(backend).values()
    assert set(restored(reopen(backend).loader, new.tree)) == left


NAMES = st.sampled_from(["a", "b", "c.key"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PATTERNS = st.lists(
    st.sampled_from(["*.key", "a", "/a", "/a/b", "b/", "**/b/a", "!a", "!/a/b", "a/*", "/*/c.key"]), max_size=3
)


@settings(max_examples=60, deadline=None)
@given(paths=st.lists(PATHS, min_size=1, max_size=12), patterns=PATTERNS)
def test_any_tree_and_patterns(paths: list[str], patterns: list[str]) -> None:
    """What is left is what a walk from the top finds that enters nothing left out."""
    files = {path: path.encode() for path in paths if not any(other.startswith(path + "/") for other in paths)}
    disk = MemoryBackend()
    result = run_backup(make_repository(disk), files)
    options = leaving_out(*patterns, forget=True)

    run(disk, options)

    left = {}
    for path, content in expected(files).items():
        parts = path.split("/")[1:]
        above = [b"/" + "/".join(parts[:depth]).encode() for depth in range(len(parts))]
        kinds = ["dir"] * (len(parts) - 1) + ["dir" if content == b"<dir>" else "file"]
        judged = [
            options.rules.leaves_out(folder.rstrip(b"/") + b"/") for folder in above
        ]  # fmt: skip
        out = any(
            leave(name.encode(), kind)  # type: ignore[arg-type]
            for leave, name, kind in zip(judged, parts, kinds, strict=True)
            if leave is not None
        )
        if not out:
            left[path] = content
    (found,) = there(disk).values()
    files_left = any(content != b"<dir>" for content in left.values())
    assert restored(reopen(disk).loader, found.tree) == (left if files_left else expected(files))
    assert (found.tree == result.snapshot.tree) == (left == expected(files) or not files_left)


def test_deep_and_large_directories() -> None:
    """A directory in parts and one that is a thousand levels down are rewritten like any other."""
    deep = "/".join(["d"] * 1200)
    wide = {f"wide/{number:05}": b"" for number in range(5000)}
    backend = repository_with({**wide, f"{deep}/c.key": b"secret", f"{deep}/e": b"e", "wide/zzz.key": b"secret"})

    run(backend)

    (new,) = there(backend).values()
    assert new.tree == run_backup(make_repository(MemoryBackend()), {**wide, f"{deep}/e": b"e"}).snapshot.tree


def test_fields_of_a_later_version_survive() -> None:
    """What this version does not know of an entry is in the new tree as well, beside what is left out and above it."""
    backend = repository_with(PLAIN)
    repository = reopen(backend)
    saver = repository.make_saver(saver_options(repository))

    def tree(*nodes: Mapping[str, object]) -> bytes:
        return saver.save(BlobKind.TREE, msgspec.msgpack.encode([1, list(nodes), b""]))

    low = tree({"n": b"a", "zz": 1}, {"n": b"b.key"}, {"n": b"c", "zz": [2]})
    root = tree({"n": b"d", "t": "dir", "e": low, "zz": "three"}, {"n": b"e.key"})
    saver.flush()
    saver.close()
    wanted_low = tree({"n": b"a", "zz": 1}, {"n": b"c", "zz": [2]})
    wanted = tree({"n": b"d", "t": "dir", "e": wanted_low, "zz": "three"})
    save_snapshot(repository, root)

    run(backend)

    assert wanted in [each.tree for each in there(backend).values()]


# ---- what stops it


def lose(backend: FaultyBackend, path: bytes, monkeypatch: pytest.MonkeyPatch, error: BackupForgeError) -> Repository:
    """The repository, in which the directory at a path of the last snapshot cannot be read."""
    repository = reopen(backend)
    lost = find_node(repository.loader, list(there(backend).values())[-1].tree, path).subtree
    load = repository.loader.load

    def fail(kind: BlobKind, blob_id: bytes) -> bytes:
        if blob_id == lost:
            raise error
        return load(kind, blob_id)

    monkeypatch.setattr(repository.loader, "load", fail)
    return repository


@pytest.mark.parametrize(
    "error",
    [
        DamagedBlob("it is broken"),
        MissingBlob("no pack has it"),
        DamagedObject("it is nonsense"),
        UnsupportedFormat("v2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_tree_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, error: BackupForgeError) -> None:
    """It is named with its snapshot, and nothing changes, in the snapshots before it neither."""
    backend = repository_with(TREE, {**TREE, "data/sub/deep/more": b"more"})
    before = there(backend)
    last = list(before)[-1]
    repository = lose(backend, b"data/sub/deep", monkeypatch, error)

    with pytest.raises(
        type(error), match=f"snapshot {last.hex()[:8]} cannot .* nothing was changed: .*/data/sub/deep/"
    ):
        run(repository)
    assert there(backend) == before
    assert names(backend, ObjectKind.CLAIM) == set()


def test_nothing_left() -> None:
    """A snapshot of which nothing would be left stays, which is a problem; the others are rewritten."""
    backend = repository_with({"data/only.key": b"secret"}, TREE)
    only = next(iter(there(backend)))
    reporter = Quiet()

    result = run(backend, reporter=reporter)

    assert only in there(backend)
    assert (len(result.rewritten), reporter.progress.errors) == (1, 1)


def test_one_that_is_gone_meanwhile() -> None:
    """What somebody removed since it was listed does not come back."""
    backend = repository_with(TREE, {**TREE, "data/z": b"z"})
    repository = reopen(backend)
    snapshots = load_snapshots(repository)
    gone, left = snapshots
    backend.delete(ObjectKind.SNAPSHOT, gone.hex())

    result = rewrite(repository, snapshots, WITHOUT, Quiet(), never)

    assert [each.old_id for each in result.rewritten] == [left]
    assert len(there(backend)) == 1


def test_a_store_without_permission_to_delete() -> None:
    """The new snapshot is there, and the error says that the original is as well."""
    backend = repository_with(TREE)
    (old,) = there(backend)
    backend.fail("delete", kind=ObjectKind.SNAPSHOT, error=StorageDenied("append-only"), forever=True)

    with pytest.raises(StorageDenied, match=f"was made of {old.hex()[:8]}, which cannot be removed"):
        run(backend)
    assert len(there(backend)) == 2


@pytest.mark.parametrize("calls", [0, 3])
def test_stopped_early(calls: int) -> None:
    """Ctrl-C while trees are read changes nothing."""
    backend = repository_with(TREE)
    before = there(backend)
    answers = iter([False] * calls)

    with pytest.raises(Interrupted, match="before anything was changed"):
        run(backend, cancelled=lambda: next(answers, True))
    assert there(backend) == before


def test_stopped_between_two() -> None:
    """Ctrl-C between two snapshots leaves one rewritten and one as it was; the next run goes on from there."""
    backend = repository_with(TREE, {**TREE, "data/z": b"z"})

    with pytest.raises(Interrupted, match="1 of 2 snapshots"):
        run(backend, cancelled=lambda: "delete" in [call.method for call in backend.calls])
    assert len(there(backend)) == 2
    assert len(run(backend).rewritten) == 1


# ---- crashes, and others


@pytest.mark.parametrize("options", [WITHOUT, BESIDE], ids=["forget", "beside"])
def test_power_cut_at_any_moment(options: RewriteOptions) -> None:
    """INV-1, INV-2: at every moment each backup has a whole snapshot, and doing it again completes it."""
    disk = repository_with(TREE, {**TREE, "data/z": b"z"})
    models = [expected(tree) for tree in (TREE, WITHOUT_KEYS)]
    models += [{**model, "/data/z": b"z"} for model in models]
    times = {each.time for each in there(disk).values()}
    whole = copy_of(disk)
    run(whole, options)
    wanted = sorted(map(str, restored_snapshots(reopen(whole)).values()))

    for point in crash_points(lambda backend: run(backend, options), disk=disk):
        found = restored_snapshots(reopen(point.disk))
        assert all(each in models for each in found.values()), point
        assert {each.time for each in there(point.disk).values()} == times, point
        run(point.disk, options)
        assert sorted(map(str, restored_snapshots(reopen(point.disk)).values())) == wanted, point


def opened(backend: Backend) -> Repository:
    """The repository as a new process opens it."""
    return open_repository(backend, FakeClock(), lambda: PASSWORD)


def bursts(seed: int) -> Callable[[int, Sequence[int]], int]:
    """A random order in which an actor usually makes several calls before another has its turn."""
    chance = random.Random(seed)
    current = -1

    def choose(step: int, waiting: Sequence[int]) -> int:
        nonlocal current
        if current not in waiting or chance.random() < 0.25:
            current = chance.choice(waiting)
        return current

    return choose


def test_beside_two_prunes(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-8: a rewriting between two prunes, one of which repacks, loses nothing."""
    own_threads(monkeypatch)
    disk = copy_of(repository_with(TREE, PLAIN))
    wanted = [expected(WITHOUT_KEYS), expected(PLAIN)]
    programs = {
        "rewrite": lambda backend: run(opened(backend)),
        "prune": lambda backend: Prune(backend, "p").run(),
        "repack": lambda backend: Prune(backend, "r", repack=True).run(),
    }
    for seed in range(60):
        done = run_in_order(disk, programs, bursts(seed))
        found = list(restored_snapshots(reopen(done.disk)).values())
        failed = [actor.error for actor in done.actors if actor.name == "rewrite" and actor.error]
        assert found == ([expected(TREE), expected(PLAIN)] if failed else wanted), "\n".join(done.steps)
        assert not [error for error in failed if not isinstance(error, BackupForgeError)]


def test_packs_that_a_prune_is_about_to_delete() -> None:
    """INV-8: subtrees and data that are taken over from doomed packs are stored again (see test_tag.py)."""
    disk = repository_with(TREE)
    repository = reopen(disk)
    doomed = [pack.id for pack in repository.index.table.packs()]
    for pack_id in doomed:
        save_flag(repository, pack_id, "doomed")

    run(disk)

    for pack_id in doomed:
        disk.delete(ObjectKind.PACK, pack_id.hex())
    assert list(restored_snapshots(reopen(disk)).values()) == [expected(WITHOUT_KEYS)]
    assert restored_nodes(reopen(disk).loader, next(iter(there(disk).values())).tree)
