"""Tags and labels: a new snapshot takes the place of the old one, and at no moment is there none."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from bfrepo.core.errors import BackupForgeError, Interrupted, StorageDenied, UsageError
from bfrepo.core.progress import Quiet
from bfrepo.data.retention import RetentionRules
from bfrepo.data.snapshot import Snapshot, encode_snapshot
from bfrepo.operations.forget import ForgetOptions, load_all_snapshots, plan_forget, remove_snapshots
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.tag import TagChange, TagResult, change_tags
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never, run_backup
from tests.support.damage import save_flag
from tests.support.faulty import FaultyBackend, crash_points
from tests.support.pruning import Prune
from tests.support.repositories import PASSWORD, START, FakeClock, make_repository, names, reopen
from tests.support.restoring import expected, misnamed, restored_snapshots
from tests.support.scheduler import Program, own_threads, run_in_order

TREE = {"data/a": b"content", "data/sub/b": b"more"}
ADD_X = TagChange(add=frozenset({"x"}))


@pytest.fixture
def backend() -> FaultyBackend:
    """Storage with two snapshots of the same tree, the first of them with tags and a label."""
    backend = FaultyBackend(MemoryBackend())
    clock = FakeClock()
    repository = make_repository(backend, clock=clock)
    run_backup(repository, TREE, tags=("a", "b"), label="first")
    clock.advance(3600)
    run_backup(repository, TREE)
    backend.calls.clear()
    return backend


def tag(backend: Backend, change: TagChange, cancelled: Callable[[], bool] = never) -> TagResult:
    """Change all snapshots, as another process would."""
    repository = reopen(backend)
    return change_tags(repository, load_snapshots(repository), change, Quiet(), cancelled)


def there(backend: Backend) -> list[Snapshot]:
    """The snapshots, oldest first."""
    return list(load_snapshots(reopen(backend)).values())


@pytest.mark.parametrize(
    ("change", "tags", "label"),
    [
        (TagChange(add=frozenset({"c", "a"})), ["a", "b", "c"], "first"),
        (TagChange(remove=frozenset({"a", "z"})), ["b"], "first"),
        (TagChange(add=frozenset({"c"}), remove=frozenset({"b"})), ["a", "c"], "first"),
        (TagChange(replace=frozenset({"z"})), ["z"], "first"),
        (TagChange(replace=frozenset()), [], "first"),
        (TagChange(label="other"), ["a", "b"], "other"),
        (TagChange(label=""), ["a", "b"], ""),
        (TagChange(add=frozenset({"c"}), label="other"), ["a", "b", "c"], "other"),
    ],
)
def test_what_a_snapshot_gets(backend: FaultyBackend, change: TagChange, tags: list[str], label: str) -> None:
    """Tags are added, then removed, or all set; the label is set; all else stays, but that the original is named."""
    (old_id, old), _ = load_snapshots(reopen(backend)).items()

    tag(backend, change)

    new = there(backend)[0]
    assert (new.tags, new.label) == (tags, label)
    assert msgspec.structs.replace(new, tags=old.tags, label=old.label, original=b"") == old
    assert new.original == old_id


def test_the_old_ones_go(backend: FaultyBackend) -> None:
    """There are as many snapshots as before, whole, and nothing but snapshots was stored (INV-7)."""
    kinds = (ObjectKind.PACK, ObjectKind.INDEX, ObjectKind.CLAIM)
    before = [names(backend, kind) for kind in kinds]
    old = set(load_snapshots(reopen(backend)))

    result = tag(backend, ADD_X)

    assert set(result.changed) == old
    assert set(restored_snapshots(reopen(backend))) == set(result.changed.values())
    assert list(restored_snapshots(reopen(backend)).values()) == [expected(TREE)] * 2
    assert [names(backend, kind) for kind in kinds] == before
    assert misnamed(backend) == []


def test_what_has_it_already_is_left_alone(backend: FaultyBackend) -> None:
    """A snapshot in which nothing changes keeps its ID."""
    result = tag(backend, TagChange(add=frozenset({"a"})))

    assert (len(result.changed), result.unchanged) == (1, 1)
    assert tag(backend, TagChange(add=frozenset({"a"}))) == TagResult(unchanged=2)


def test_the_original_is_the_first_of_a_series(backend: FaultyBackend) -> None:
    """However often tags change, the original is the snapshot that a backup made."""
    first = next(iter(load_snapshots(reopen(backend))))

    for name in "xyz":
        tag(backend, TagChange(add=frozenset({name})))

    assert there(backend)[0].original == first


def test_fields_of_a_later_version_survive(backend: FaultyBackend) -> None:
    """What this version does not know of a snapshot is in the new one as well."""
    repository = reopen(backend)
    fields = {**msgspec.msgpack.decode(encode_snapshot(there(backend)[0])), "colour": "red"}
    repository.objects.save(ObjectKind.SNAPSHOT, msgspec.msgpack.encode(fields))

    tag(backend, ADD_X)

    assert [each.unknown for each in there(backend)].count({"colour": "red"}) == 1


@pytest.mark.parametrize(
    "arguments",
    [{}, {"add": frozenset("a"), "replace": frozenset("b")}, {"remove": frozenset("a"), "replace": frozenset()}],
    ids=["nothing", "set and add", "set and remove"],
)
def test_what_makes_no_change(arguments: Mapping[str, Any]) -> None:
    """Nothing at all, and setting tags beside adding or removing some, are wrong usage."""
    with pytest.raises(UsageError):
        TagChange(**arguments)


def test_power_cut_at_any_moment(backend: FaultyBackend) -> None:
    """INV-1, INV-2: at every moment each backup has a snapshot: the old one, the new one, or both.

    Rules that count take both for one, and doing it again completes it.
    """
    points = list(crash_points(lambda disk: tag(disk, ADD_X), disk=backend))

    assert [point.call.method for point in points[::2]] == ["save", "save", "delete", "delete"] * 2
    for point in points:
        found = restored_snapshots(reopen(point.disk))
        assert all(each == expected(TREE) for each in found.values()), point
        assert {each.time for each in there(point.disk)} == {each.time for each in there(backend)}, point
        plan = plan_forget(
            load_all_snapshots(reopen(point.disk)),
            ForgetOptions(rules=RetentionRules(last=2)),
            START + timedelta(days=1),
        )
        assert plan.removed == [], point
        tag(point.disk, ADD_X)
        assert ["x" in each.tags for each in there(point.disk)] == [True, True], point


def test_one_that_is_gone_meanwhile(backend: FaultyBackend) -> None:
    """What somebody removed since it was listed does not come back; the others are changed."""
    repository = reopen(backend)
    snapshots = load_snapshots(repository)
    gone = next(iter(snapshots))
    remove_snapshots(repository, [gone], Quiet())

    result = change_tags(repository, snapshots, ADD_X, Quiet(), never)

    assert gone not in result.changed
    assert [each.tags for each in there(backend)] == [["x"]]


def test_a_store_without_permission_to_delete(backend: FaultyBackend) -> None:
    """There are both snapshots then, which the error says, and a hint how to remove one."""
    old = next(iter(load_snapshots(reopen(backend))))
    backend.fail("delete", kind=ObjectKind.SNAPSHOT, error=StorageDenied("append-only"), forever=True)

    with pytest.raises(
        StorageDenied, match=f"was made of {old.hex()[:8]}, which cannot be removed: append-only"
    ) as error:
        tag(backend, ADD_X)
    assert f"forget {old.hex()[:8]}" in str(error.value.hint)
    assert [each.tags for each in there(backend)] == [["a", "b"], ["a", "b", "x"], []]


def test_stopped_between_two(backend: FaultyBackend) -> None:
    """Ctrl-C leaves the rest as it is."""
    answers = iter([False, True])

    with pytest.raises(Interrupted, match="1 snapshots were changed"):
        tag(backend, ADD_X, lambda: next(answers))
    assert [each.tags for each in there(backend)] == [["a", "b", "x"], []]


# ---- beside others


def opened(backend: Backend) -> Repository:
    """The repository as a new process opens it."""
    return open_repository(backend, FakeClock(), lambda: PASSWORD)


def tags(name: str) -> Program:
    """Somebody tags every snapshot there is."""

    def run(backend: Backend) -> None:
        repository = opened(backend)
        change_tags(repository, load_snapshots(repository), TagChange(add=frozenset({name})), Quiet(), never)

    return run


def forgets(backend: Backend) -> None:
    """Somebody keeps the last snapshot."""
    repository = opened(backend)
    options = ForgetOptions(rules=RetentionRules(last=1))
    plan = plan_forget(load_all_snapshots(repository), options, START + timedelta(days=1))
    remove_snapshots(repository, plan.removed, Quiet())


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


OTHER = {"data/a": b"other content", "data/c": b"in the later one only"}


def two_backups() -> MemoryBackend:
    """A repository with two snapshots that share nothing."""
    disk, clock = MemoryBackend(), FakeClock()
    repository = make_repository(disk, clock=clock)
    run_backup(repository, TREE)
    clock.advance(3600)
    run_backup(repository, OTHER)
    return disk


PROGRAMS: Mapping[str, Program] = {
    "tag": tags("x"), "again": tags("y"), "forget": forgets, "prune": lambda disk: Prune(disk, "p").run(),
}  # fmt: skip


def lost(disk: Backend) -> list[str]:
    """What is wrong with the snapshots there are."""
    try:
        found = restored_snapshots(reopen(disk)).values()
    except BackupForgeError as error:
        return [str(error)]
    return [] if expected(OTHER) in found else ["the latest backup has no snapshot"]


def test_beside_a_prune_and_a_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """INV-8: two that tag, a forget and a prune at once: every snapshot is whole, and the latest backup keeps one."""
    own_threads(monkeypatch)
    disk = two_backups()
    for seed in range(100):
        run = run_in_order(disk, PROGRAMS, bursts(seed))
        assert lost(run.disk) == [], "\n".join(run.steps)
        strange = [actor.error for actor in run.actors if actor.error and not isinstance(actor.error, BackupForgeError)]
        assert strange == []


def test_packs_that_a_prune_is_about_to_delete() -> None:
    """INV-8: a prune that has doomed packs and lists snapshots just now may miss the old one and the new one.

    A listing may leave out what comes or goes meanwhile (see Backend). So what is only in doomed packs is stored again.
    """
    disk = two_backups()
    repository = reopen(disk)
    doomed = [pack.id for pack in repository.index.table.packs()]
    for pack_id in doomed:
        save_flag(repository, pack_id, "doomed")

    tag(disk, ADD_X)

    for pack_id in doomed:
        disk.delete(ObjectKind.PACK, pack_id.hex())
    assert list(restored_snapshots(reopen(disk)).values()) == [expected(TREE), expected(OTHER)]
