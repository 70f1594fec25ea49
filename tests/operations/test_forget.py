"""Forgetting: what is removed of each group, what is not, and that it stops where something is not as it should be."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from bfrepo.core.errors import (
    Interrupted,
    ObjectNotFound,
    StorageDenied,
    StorageError,
    UsageError,
)
from bfrepo.core.progress import Change, Quiet
from bfrepo.data.retention import Duration, RetentionRules
from bfrepo.data.selection import SnapshotFilter
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot, SnapshotSummary, encode_snapshot
from bfrepo.operations.forget import (
    ForgetOptions,
    ForgetPlan,
    UnreadableSnapshots,
    WouldEmptyGroup,
    check_options,
    find_named_snapshots,
    load_all_snapshots,
    plan_forget,
    remove_snapshots,
)
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import run_backup
from tests.support.faulty import FaultyBackend, crash_points
from tests.support.repositories import FakeClock, make_repository, names, reopen
from tests.support.restoring import restored_snapshots

NOW = datetime(2024, 5, 17, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEEP_ONE = RetentionRules(last=1)


def made(days_ago: float, **fields: Any) -> Snapshot:
    """A snapshot of so many days ago, made when it says."""
    when = NOW - days_ago * DAY
    summary = SnapshotSummary(started_ns=int(when.timestamp() * 1e9))
    plain = {"version": SNAPSHOT_VERSION, "tree": bytes(32), "hostname": "h", "paths": [b"/p"], "summary": summary}
    return Snapshot(**{**plain, "time": when.isoformat(), **fields})


def numbered(*snapshots: Snapshot) -> dict[bytes, Snapshot]:
    """Snapshots with the IDs 0, 1, 2..."""
    return {bytes([number]) * 32: each for number, each in enumerate(snapshots)}


def plan(snapshots: dict[bytes, Snapshot], rules: RetentionRules = KEEP_ONE, **options: Any) -> ForgetPlan:
    """What becomes of them now."""
    return plan_forget(snapshots, ForgetOptions(rules=rules, **options), NOW)


def removed(found: ForgetPlan) -> list[int]:
    """The numbers of what goes."""
    return sorted(identifier[0] for identifier in found.removed)


# ---- the plan


def test_rules_apply_to_each_group() -> None:
    """Snapshots of another host, or of other paths, never push out one of this."""
    snapshots = numbered(made(3), made(2, hostname="other"), made(1, paths=[b"/q"]), made(0))

    assert removed(plan(snapshots)) == [0]
    assert removed(plan(snapshots, group_by=("host",))) == [0, 2]
    assert removed(plan(snapshots, group_by=("paths",))) == [0, 1]
    assert removed(plan(snapshots, group_by=())) == [0, 1, 2]


def test_the_plan_says_why() -> None:
    """Each group has its decisions with their reasons, oldest first."""
    snapshots = numbered(made(0), made(2), made(1, hostname="other"))

    found = plan(snapshots)

    assert [group.group.host for group in found.groups] == ["h", "other"]
    assert [[each.reasons for each in group.decisions] for group in found.groups] == [
        [(), ("last snapshot",)],
        [("last snapshot",)],
    ]
    assert [each[0] for each in found.kept] == [0, 2]


def test_a_misspelt_tag_removes_nothing() -> None:
    """Rules that keep nothing of one group are refused, and the group is named."""
    snapshots = numbered(made(1, tags=["keep"]), made(0, tags=["keep"], hostname="other"), made(2, hostname="other"))
    keep = RetentionRules(tags=(frozenset({"keep"}),))
    typo = RetentionRules(tags=(frozenset({"kepe"}),))

    assert removed(plan(snapshots, keep)) == [2]
    with pytest.raises(WouldEmptyGroup, match="none of the 1 snapshot of host h, paths /p"):
        plan(snapshots, typo)
    assert removed(plan(snapshots, typo, allow_remove_all=True)) == [0, 1, 2]


def test_a_tag_that_nothing_has_is_told() -> None:
    """Beside other rules a misspelt tag empties no group, so it is a warning."""
    rules = RetentionRules(last=1, tags=(frozenset({"kepe"}),))

    assert plan(numbered(made(1), made(0)), rules).warnings == ["no snapshot has the tags to keep: kepe"]
    assert plan(numbered(made(1), made(0, tags=["kepe"])), rules).warnings == []


@pytest.mark.parametrize("rules", [RetentionRules(), RetentionRules(last=0, within=Duration())], ids=["none", "zero"])
def test_no_rules(rules: RetentionRules) -> None:
    """Rules that keep nothing whatever there is are wrong usage; and if it comes to that they remove nothing."""
    with pytest.raises(UsageError, match="no rule says what to keep"):
        check_options(ForgetOptions(rules=rules), SnapshotFilter(hosts=("h",)))
    with pytest.raises(WouldEmptyGroup):
        plan(numbered(made(0)), rules)


def test_all_of_a_host() -> None:
    """Everything that a filter chooses may be removed by asking for it; the whole repository never."""
    everything = ForgetOptions(rules=RetentionRules(), allow_remove_all=True)

    check_options(everything, SnapshotFilter(hosts=("h",)))
    with pytest.raises(UsageError, match="needs a filter"):
        check_options(everything, SnapshotFilter())
    assert plan_forget(numbered(made(0), made(-9)), everything, NOW).kept == []


# ---- clocks that lie


def test_a_snapshot_from_the_future_pushes_nothing_out() -> None:
    """It stays, and counts for no rule; it is told."""
    snapshots = numbered(made(2), made(1), made(-300))

    found = plan(snapshots)

    assert removed(found) == [0]
    assert found.groups[0].decisions[-1].reasons == ("in the future",)
    assert len(found.warnings) == 1
    assert "1 snapshot from the future" in found.warnings[0]
    assert "02020202" in found.warnings[0]
    assert removed(plan(snapshots, RetentionRules(within=Duration(days=1, hours=1)))) == []


def test_a_clock_that_is_a_little_ahead_is_none_from_the_future() -> None:
    """A machine whose clock is minutes ahead of ours has made its latest snapshot all the same."""
    assert removed(plan(numbered(made(1), made(-1 / 48)))) == [0]


def test_a_clock_of_our_own_that_stands_still_removes_nothing() -> None:
    """On a machine that believes it is 1970 everything is from the future, and stays."""
    found = plan_forget(numbered(made(2), made(1)), ForgetOptions(rules=KEEP_ONE), datetime(1970, 1, 1, tzinfo=UTC))

    assert found.removed == []
    assert "2 snapshots from the future" in found.warnings[0]


def test_times_that_contradict_are_told() -> None:
    """A time that its machine's clock did not show, and one before the snapshot it was compared with."""
    first = made(5)
    by_hand = made(40, summary=made(4).summary)
    before_parent = made(6, parent=bytes(32))
    a_little_off = made(3, summary=made(3.5).summary)

    warnings = plan(numbered(first, by_hand, before_parent, a_little_off)).warnings

    assert [line.split(":")[0] for line in warnings] == [
        "1 snapshot with another time than their machine's clock showed, as 'backup --time' makes them",
        "1 snapshot older than the snapshot they were compared with",
    ]
    assert "01010101" in warnings[0]
    assert "02020202" in warnings[1]


def test_invented_snapshots_beside_true_ones() -> None:
    """Invented snapshots, each later than a true one, make rules that count drop the true ones; `within` keeps all."""
    true = [made(days) for days in (15, 8, 1)]
    invented = [made(days - 0.1, summary=made(0).summary) for days in (15, 8, 1)]
    snapshots = numbered(*true, *invented)

    counting = plan(snapshots, RetentionRules(weekly=3))

    assert removed(counting) == [0, 1, 2]
    assert "with another time than their machine's clock showed" in counting.warnings[0]
    assert removed(plan(snapshots, RetentionRules(weekly=3, within=Duration(days=30)))) == []


# ---- what cannot be read


@pytest.fixture
def backend() -> FaultyBackend:
    """Storage with three snapshots, a day apart."""
    backend = FaultyBackend(MemoryBackend())
    clock = FakeClock()
    repository = make_repository(backend, clock=clock)
    for number in range(3):
        run_backup(repository, {"data/a": b"%d" % number})
        clock.advance(DAY.total_seconds())
    backend.calls.clear()
    return backend


def ids(backend: Backend) -> list[bytes]:
    """The snapshots there are, oldest first."""
    return list(load_snapshots(reopen(backend)))


def damage(backend: FaultyBackend, name: str) -> None:
    """A snapshot whose bytes are not what was written."""
    backend.flip_byte(ObjectKind.SNAPSHOT, name, 20)


def hide_version(backend: FaultyBackend) -> bytes:
    """A snapshot of a version that nobody knows yet; its ID."""
    repository = reopen(backend)
    newer = encode_snapshot(msgspec.structs.replace(made(0), version=SNAPSHOT_VERSION + 1))
    return bytes.fromhex(repository.objects.save(ObjectKind.SNAPSHOT, newer))


def test_an_unreadable_snapshot_stops_the_rules(backend: FaultyBackend) -> None:
    """Nobody knows whether it is the one to keep, so nothing is removed, and it is named."""
    assert list(load_all_snapshots(reopen(backend))) == ids(backend)
    first = ids(backend)[0]
    damage(backend, first.hex())

    with pytest.raises(UnreadableSnapshots, match=f"nothing was removed.* 1 snapshot .*{first.hex()[:8]}"):
        load_all_snapshots(reopen(backend))


def test_a_snapshot_of_a_newer_version_stops_the_rules(backend: FaultyBackend) -> None:
    """Unknown is not damaged, but nobody knows either whether it is the one to keep."""
    newer = hide_version(backend)

    with pytest.raises(UnreadableSnapshots, match=f"{newer.hex()[:8]}: version 2 is not known"):
        load_all_snapshots(reopen(backend))


def test_a_failed_listing_stops_the_rules(backend: FaultyBackend) -> None:
    """An error is never taken for an empty repository."""
    repository = reopen(backend)
    backend.fail("list", kind=ObjectKind.SNAPSHOT)

    with pytest.raises(StorageError):
        load_all_snapshots(repository)


def test_by_id_beside_an_unreadable_one(backend: FaultyBackend) -> None:
    """Whoever names a snapshot by its ID knows what to remove; `latest` depends on all of them."""
    first, second, third = ids(backend)
    damage(backend, second.hex())
    repository = reopen(backend)

    def find(*texts: str) -> list[bytes]:
        return list(find_named_snapshots(repository, texts, SnapshotFilter()))

    assert find(first.hex()[:8], third.hex(), first.hex()) == [first, third]
    for text in ("latest", "latest~1", second.hex()[:12]):
        with pytest.raises(UnreadableSnapshots, match=second.hex()[:8]):
            find(first.hex()[:8], text)
    with pytest.raises(ObjectNotFound):
        find("00000000")


def test_by_name(backend: FaultyBackend) -> None:
    """The latest of a host is meant where a filter says so."""
    repository = reopen(backend)

    assert list(find_named_snapshots(repository, ["latest~1"], SnapshotFilter())) == [ids(backend)[1]]
    with pytest.raises(ObjectNotFound):
        find_named_snapshots(repository, ["latest"], SnapshotFilter(hosts=("elsewhere",)))


# ---- removing


class Listener(Quiet):
    """A reporter that remembers what was removed."""

    wants_items = True

    def __init__(self) -> None:
        super().__init__()
        self.items: list[tuple[bytes, Change]] = []

    def item(self, path: bytes, change: Change, size: int) -> None:
        self.items.append((path, change))


def test_only_snapshots_go(backend: FaultyBackend) -> None:
    """Snapshot objects are removed one by one and told; nothing else is written or deleted."""
    first, second, third = ids(backend)
    listener = Listener()
    before = {kind: names(backend, kind) for kind in ObjectKind if kind is not ObjectKind.SNAPSHOT}

    remove_snapshots(reopen(backend), [first, second], listener)

    assert ids(backend) == [third]
    assert listener.items == [(first.hex()[:8].encode(), "removed"), (second.hex()[:8].encode(), "removed")]
    assert listener.progress.files_done == 2
    assert {kind: names(backend, kind) for kind in before} == before


def test_one_that_is_gone_already(backend: FaultyBackend) -> None:
    """What somebody else has removed meanwhile is removed."""
    first = ids(backend)[0]
    repository = reopen(backend)

    remove_snapshots(repository, [first], Quiet())
    remove_snapshots(repository, [first], Quiet())

    assert first not in ids(backend)


def test_a_store_without_permission_to_delete(backend: FaultyBackend) -> None:
    """It is told which are gone and which are not; at the first one that is none."""
    first, second, third = ids(backend)
    repository = reopen(backend)
    backend.fail("delete", kind=ObjectKind.SNAPSHOT, error=StorageDenied("append-only"), forever=True)

    with pytest.raises(StorageDenied, match=f"{first.hex()[:8]}: append-only; nothing was removed"):
        remove_snapshots(repository, [first, second], Quiet())
    assert ids(backend) == [first, second, third]


def test_permission_that_ends_half_way(backend: FaultyBackend) -> None:
    """What was removed before the error is named, and so is the rest."""
    first, second, third = (each.hex()[:8] for each in ids(backend))
    repository = reopen(backend)
    backend.fail("delete", kind=ObjectKind.SNAPSHOT, on_call=2)

    with pytest.raises(StorageError, match=f"cannot remove .*{second}.*; removed {first}, not {second}, {third}"):
        remove_snapshots(repository, ids(backend), Quiet())
    assert [each.hex()[:8] for each in ids(backend)] == [second, third]


def test_stopped_between_two(backend: FaultyBackend) -> None:
    """Ctrl-C leaves the rest as it is, and says how many are gone."""
    listener = Listener()

    with pytest.raises(Interrupted, match="1 of 3 snapshots removed"):
        remove_snapshots(reopen(backend), ids(backend), listener, lambda: bool(listener.items))
    assert len(ids(backend)) == 2


def test_power_cut_at_any_moment(backend: FaultyBackend) -> None:
    """INV-2: whatever was reached, the snapshots that are left are whole."""
    first, second, third = ids(backend)

    points = list(crash_points(lambda disk: remove_snapshots(reopen(disk), [first, second], Quiet()), disk=backend))

    assert len(points) == 4
    for point in points:
        left = restored_snapshots(reopen(point.disk))
        assert third in left, point
        assert set(left) in ({first, second, third}, {second, third}, {third}), point
