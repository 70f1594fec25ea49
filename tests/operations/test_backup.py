"""The backup operation: parent, summary, dry runs, interruptions, clocks that lie."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bfrepo.core.errors import Interrupted, ObjectNotFound, SourceError, StorageDenied
from bfrepo.core.progress import Quiet
from bfrepo.operations.backup import backup
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import backup_options, incompressible, never, run_backup
from tests.support.faulty import FaultyBackend
from tests.support.repositories import START, FakeClock, make_repository, names, reopen, stored_objects
from tests.support.restoring import expected, restored, restored_snapshots
from tests.support.sources import DictSource, Item, written

TREE: Mapping[str, Item | bytes] = {
    "data/big": incompressible(1, 400_000), "data/small": b"small", "data/sub/other": b"other",
}  # fmt: skip


@pytest.fixture
def repository() -> Repository:
    """An empty repository in memory."""
    return make_repository(pack_size=100_000)


def everything(repository: Repository) -> set[tuple[ObjectKind, str]]:
    """Kind and name of all objects."""
    return {(kind, name) for kind, name, _ in stored_objects(repository.backend)}


# --- what a snapshot says


def test_snapshot(repository: Repository) -> None:
    """A snapshot says who backed up what, when, how and how much."""
    clock = repository.clock
    assert isinstance(clock, FakeClock)
    tree = {**TREE, "data/slow": Item(content=b"slow", on_read=lambda: clock.advance(90))}
    result = run_backup(repository, tree, excludes=("*.o",), tags=("b", "a", "b"), label="monthly")
    (snapshot,) = load_snapshots(repository).values()
    assert snapshot == result.snapshot
    assert (snapshot.hostname, snapshot.username, snapshot.program) == ("here", "me", "tests")
    assert (snapshot.paths, snapshot.excludes, snapshot.tags, snapshot.label) == (
        [b"/data"],
        ["*.o"],
        ["a", "b"],
        "monthly",
    )
    assert (snapshot.when, snapshot.parent) == (START, b"")
    summary = snapshot.summary
    assert (summary.files_new, summary.files_changed, summary.files_unmodified, summary.files) == (4, 0, 0, 4)
    assert (summary.dirs, summary.others, summary.size, summary.errors) == (2, 0, 400_014, 0)
    assert (summary.duration, result.duration_s, summary.started_ns) == (90, 90, int(START.timestamp()) * 10**9)
    assert summary.data_added == result.stored.bytes_new > summary.size
    assert summary.blobs_added == result.stored.blobs_new


def test_time_may_be_given(repository: Repository) -> None:
    """The time of a snapshot may be set, with its zone; what counts as changed does not depend on it."""
    when = datetime(1999, 12, 31, 23, 59, tzinfo=UTC)
    result = run_backup(repository, TREE, time=when)
    assert (result.snapshot.when, result.snapshot.summary.started_ns) == (when, int(START.timestamp()) * 10**9)


def test_second_backup(repository: Repository) -> None:
    """Against its parent a backup reads and stores only what changed, and counts it."""
    first = run_backup(repository, TREE)
    source = DictSource({**TREE, "data/small": written(b"changed"), "data/new": b"new"})
    second = run_backup(repository, source)
    assert (second.parent_id, second.snapshot.parent) == (first.snapshot_id, first.snapshot_id)
    assert sorted(source.opened) == [b"/data/new", b"/data/small"]
    seen = second.archived
    assert (seen.files_new, seen.files_changed, seen.files_unmodified, seen.size) == (1, 1, 2, 400_015)
    assert second.stored.bytes_new < 2000


# --- which parent


def test_parent_is_the_latest_of_host_and_paths(repository: Repository) -> None:
    """The parent is the latest snapshot of the same host and the same paths, no more and no fewer."""
    clock = repository.clock
    assert isinstance(clock, FakeClock)
    made = {}
    for name, options in (
        ("old", {}), ("mine", {}), ("host", {"hostname": "there"}),
        ("fewer", {"paths": (b"/data/sub",)}), ("more", {"paths": (b"/data", b"/etc")}),
    ):  # fmt: skip
        clock.advance(60)
        made[name] = run_backup(repository, TREE, force=True, **options).snapshot_id
    assert run_backup(repository, TREE).parent_id == made["mine"]
    assert run_backup(repository, TREE, paths=(b"/etc", b"/data")).parent_id == made["more"]
    assert run_backup(repository, TREE, hostname="nobody").parent_id is None


def test_named_parent(repository: Repository) -> None:
    """A parent that is named is used, whatever its host; one that does not exist is an error before any work."""
    first = run_backup(repository, TREE, hostname="there").snapshot_id
    assert first is not None
    assert run_backup(repository, TREE, parent=first.hex()[:8]).parent_id == first
    with pytest.raises(ObjectNotFound):
        run_backup(repository, TREE, parent="00000000")


def test_force(repository: Repository) -> None:
    """With force there is no parent: everything is read, and nothing is stored twice."""
    run_backup(repository, TREE)
    source = DictSource(TREE)
    result = run_backup(repository, source, force=True)
    assert (result.parent_id, len(source.opened), result.stored.blobs_new) == (None, 3, 0)


def test_damaged_parent() -> None:
    """A parent snapshot that cannot be read is passed over with a warning, and the backup is complete."""
    backend = FaultyBackend(MemoryBackend())
    first = run_backup(make_repository(backend), TREE).snapshot_id
    assert first is not None
    backend.flip_byte(ObjectKind.SNAPSHOT, first.hex(), 30)
    reporter = Warnings()
    repository = reopen(backend)
    result = run_backup(repository, TREE, reporter=reporter)
    assert result.parent_id is None
    assert any(first.hex()[:8] in text for text in reporter.texts)
    assert restored(repository.loader, result.snapshot.tree) == expected(TREE)


class Warnings(Quiet):
    """Remembers what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def warn(self, path: bytes, message: str) -> None:
        self.texts.append(message)


def test_damaged_trees_of_the_parent() -> None:
    """When trees of the parent are damaged, files are read again and the new snapshot is whole (INV-1)."""
    backend = FaultyBackend(MemoryBackend())
    run_backup(make_repository(backend), TREE)
    table = reopen(backend).index.table
    for pack in table.packs():
        if pack.kind == 1:
            backend.drop(ObjectKind.PACK, pack.id.hex())
    reporter = Warnings()
    result = run_backup(reopen(backend), TREE, reporter=reporter)
    assert reporter.texts
    assert restored(reopen(backend).loader, result.snapshot.tree) == expected(TREE)


@pytest.mark.parametrize("read_once", [False, True])
def test_a_pack_that_is_gone(read_once: bool) -> None:
    """What was in a pack that is gone is stored again, and a source that can be read only once is read once (INV-1)."""
    backend = FaultyBackend(MemoryBackend())
    run_backup(make_repository(backend), TREE)
    for pack in reopen(backend).index.table.packs():
        backend.drop(ObjectKind.PACK, pack.id.hex())
    opened = 0

    def open_source() -> DictSource:
        nonlocal opened
        opened += 1
        return DictSource(TREE)

    options = backup_options(read_once=read_once, force=True)
    result = backup(reopen(backend), open_source, options, Quiet(), never)
    assert restored(reopen(backend).loader, result.snapshot.tree) == expected(TREE)
    assert opened == (1 if read_once else 2)


# --- dry runs, unchanged trees


def test_dry_run(repository: Repository) -> None:
    """A dry run changes nothing, tells what would be stored, and leaves no trace that a later backup would rely on."""
    before = everything(repository)
    dry = run_backup(repository, TREE, dry_run=True)
    assert (dry.snapshot_id, everything(repository)) == (None, before)
    real = run_backup(repository, TREE)
    assert (dry.stored.bytes_new, dry.stored.blobs_new) == (real.stored.bytes_new, real.stored.blobs_new)
    assert list(restored_snapshots(reopen(repository.backend)).values()) == [expected(TREE)]


def test_dry_run_on_storage_that_cannot_be_written() -> None:
    """A dry run needs no permission to write."""
    backend = FaultyBackend(MemoryBackend())
    repository = make_repository(backend)
    for method in ("save", "upload", "delete"):
        backend.fail(method, forever=True, error=StorageDenied("read-only"))
    assert run_backup(repository, TREE, dry_run=True).stored.blobs_new > 0


def test_skip_if_unchanged(repository: Repository) -> None:
    """On request a backup in which nothing changed makes no snapshot."""
    assert run_backup(repository, TREE, skip_if_unchanged=True).snapshot_id is not None
    before = everything(repository)
    assert run_backup(repository, TREE, skip_if_unchanged=True).snapshot_id is None
    assert everything(repository) == before
    changed = {**TREE, "data/small": written(b"new")}
    assert run_backup(repository, changed, skip_if_unchanged=True).snapshot_id is not None


# --- interruptions and errors


def test_interrupted(repository: Repository) -> None:
    """An interruption keeps what was stored: the next backup does not store it again, and its snapshot is whole."""
    stop = False

    def pull() -> None:
        nonlocal stop
        stop = True

    tree = {
        **TREE,
        "data/large-too": incompressible(2, 300_000),
        "data/sub/other": Item(content=b"other", on_read=pull),
    }
    source = DictSource(tree)
    with pytest.raises(Interrupted, match="no snapshot was made") as caught:
        run_backup(repository, source, cancelled=lambda: stop)
    assert caught.value.hint is not None
    assert "KiB stored are kept" in caught.value.hint
    assert source.open_now == 0
    assert (names(repository.backend, ObjectKind.SNAPSHOT), names(repository.backend, ObjectKind.CLAIM)) == (
        set(),
        set(),
    )

    again = run_backup(reopen(repository.backend), tree)
    assert again.stored.bytes_known >= 700_000
    assert again.stored.bytes_new < 5000
    assert restored(reopen(repository.backend).loader, again.snapshot.tree) == expected(tree)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), RuntimeError("bug")], ids=repr)
def test_anything_else_that_ends_it(repository: Repository, error: BaseException) -> None:
    """INV-1: whatever ends a backup, a later one in the same process makes a whole snapshot."""

    def fails() -> None:
        raise error

    with pytest.raises(type(error)):
        run_backup(repository, {**TREE, "data/zz": Item(content=b"x" * 300_000, on_read=fails)})
    result = run_backup(repository, TREE)
    assert restored(reopen(repository.backend).loader, result.snapshot.tree) == expected(TREE)


def test_source_that_cannot_be_opened(repository: Repository) -> None:
    """A source that is not there ends the backup before anything is written."""
    before = everything(repository)

    def missing() -> DictSource:
        raise SourceError("nothing there")

    with pytest.raises(SourceError):
        backup(repository, missing, backup_options(), Quiet(), never)
    assert everything(repository) == before


def test_errors_are_in_the_summary(repository: Repository) -> None:
    """Files that could not be read are left out, and counted in the snapshot."""
    tree = {**TREE, "data/denied": Item(open_error=PermissionError(13, "Permission denied"))}
    result = run_backup(repository, tree)
    assert (result.archived.errors, result.snapshot.summary.errors) == (1, 1)
    assert restored(repository.loader, result.snapshot.tree) == expected(TREE)


# --- clocks


@pytest.mark.parametrize("jump", [timedelta(days=-3650), timedelta(hours=-1), timedelta(days=3650)], ids=str)
def test_clock_that_jumps(repository: Repository, jump: timedelta) -> None:
    """A clock that is years off, or jumps in the middle of a backup, costs nothing but the date on a snapshot."""
    clock = repository.clock
    assert isinstance(clock, FakeClock)

    def move() -> None:
        clock.time += jump

    trees: list[dict[str, Item | bytes]] = [
        {**TREE, "data/jump": Item(content=b"jump", on_read=move)},
        {**TREE, "data/small": written(b"two", again=2)},
        {**TREE, "data/small": written(b"tri", again=3)},
    ]
    for tree in trees:
        result = run_backup(repository, tree)
        assert restored(reopen(repository.backend).loader, result.snapshot.tree) == expected(tree)
        assert result.snapshot.summary.duration >= 0
    assert len(load_snapshots(repository)) == 3


def test_files_from_the_future(repository: Repository) -> None:
    """Files whose times are later than the backup are read each time, as nobody can tell whether they changed."""
    later = int((START + timedelta(days=1)).timestamp() * 1e9)
    tree: dict[str, Any] = {"data/future": Item(content=b"x", mtime_ns=later, ctime_ns=later), "data/past": b"y"}
    run_backup(repository, tree)
    source = DictSource(tree)
    run_backup(repository, source)
    assert source.opened == [b"/data/future"]


# --- no object is ever overwritten


def test_nothing_is_overwritten() -> None:
    """INV-3: over several backups no object is written under a name that exists, and none changes."""
    backend = FaultyBackend(MemoryBackend())
    repository = make_repository(backend, encryption="aes-256-gcm", pack_size=50_000)
    seen: dict[tuple[ObjectKind, str], bytes] = {}
    for number in range(4):
        run_backup(repository, {**TREE, f"data/{number}": incompressible(number, 60_000)}, workers=2)
        for kind, name, data in stored_objects(backend):
            assert seen.setdefault((kind, name), data) == data
    written_names = [(call.kind, call.name) for call in backend.calls if call.method in ("save", "commit")]
    assert len(written_names) == len(set(written_names))
    deleted = {call.kind for call in backend.calls if call.method == "delete"}
    assert deleted == {ObjectKind.CLAIM}


def test_readers_make_no_difference() -> None:
    """However many threads read and store, the tree is the same."""
    tree = {f"data/{number % 9}/{number}": incompressible(number, 500 + 3000 * (number % 5)) for number in range(300)}
    tree |= {"data/big": incompressible(1, 3_000_000), "data/4/large": incompressible(2, 700_000)}
    roots = set()
    for readers, workers in ((1, 1), (1, 2), (4, 2)):
        for small in (False, True):
            repository = make_repository()
            result = run_backup(repository, DictSource(tree, small=small), readers=readers, workers=workers)
            roots.add(result.snapshot.tree)
            assert result.archived.files_new == 302
            assert restored(reopen(repository.backend).loader, result.snapshot.tree) == expected(tree)
    assert len(roots) == 1
