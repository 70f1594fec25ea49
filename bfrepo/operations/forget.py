"""Forgetting: which snapshots the rules keep in each group, what looks wrong with their times, and removing the others.

Removal is careful. It takes every snapshot to be readable before rules may remove one, as an unreadable one might be
the one to keep. It never leaves a group without snapshots unless that was asked for in so many words. And it does not
trust clocks: who can only add snapshots, as on an append-only store, can add some with invented times that the rules
would prefer to the true ones. So a snapshot from the future always stays and never counts, and times that contradict
what else the snapshots say are told. Rules with `within` are the ones that keep true snapshots beside invented ones.

Only snapshot objects go. What nothing needs any more is for prune.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from bfrepo.core.errors import BackupForgeError, Interrupted, StorageError, UsageError
from bfrepo.core.ids import resolve_prefix, short_id
from bfrepo.core.progress import Reporter
from bfrepo.data.retention import Decision, RetentionRules, apply_rules
from bfrepo.data.selection import SnapshotFilter, find_snapshot, has_tags
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.listing import Group, GroupKey, group_snapshots
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind

_AHEAD: Final = timedelta(hours=1)
"""How far a snapshot's clock may be ahead of ours before it says nothing any more."""

_APART: Final = timedelta(days=1)
"""How far a snapshot's time may be from what its machine's clock showed: --time is meant for the moment at which a file
system was frozen."""

_NAMED: Final = 5
"""Snapshots that one message names."""


class UnreadableSnapshots(BackupForgeError):
    """Nobody knows whether the rules would keep a snapshot that cannot be read, so they may remove nothing."""

    code = "unreadable-snapshots"


class WouldEmptyGroup(BackupForgeError):
    """The rules keep no snapshot at all of a host and its paths, which is hardly ever meant."""

    code = "would-empty-group"


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetOptions:
    """What to keep of each group. `allow_remove_all` lets the rules, or no rules at all, keep nothing of one."""

    rules: RetentionRules
    group_by: tuple[GroupKey, ...] = ("host", "paths")
    allow_remove_all: bool = False


@dataclass(frozen=True, slots=True)
class ForgetGroup:
    """The snapshots that the rules were applied to together, each with what becomes of it, oldest first."""

    group: Group
    decisions: list[Decision]


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """What to remove and what to keep, with what looks wrong about the snapshots' times."""

    groups: list[ForgetGroup]
    warnings: list[str]

    @property
    def decisions(self) -> Iterator[Decision]:
        """Those on all snapshots, group by group."""
        return (decision for group in self.groups for decision in group.decisions)

    @property
    def removed(self) -> list[bytes]:
        """The IDs of what goes."""
        return [decision.id for decision in self.decisions if not decision.kept]

    @property
    def kept(self) -> list[bytes]:
        """The IDs of what stays."""
        return [decision.id for decision in self.decisions if decision.kept]


def load_all_snapshots(repository: Repository) -> dict[bytes, Snapshot]:
    """All snapshots, oldest first, for rules to be applied to. Raises UnreadableSnapshots unless each can be read."""
    unreadable: list[BackupForgeError] = []
    snapshots = load_snapshots(repository, on_error=lambda name, error: unreadable.append(error))
    if unreadable:
        raise UnreadableSnapshots(
            f"nothing was removed, as {_count(len(unreadable))} cannot be read: {_few(map(str, unreadable))}",
            hint="see 'backupforge check'; to remove others all the same, name each by its ID",
        )
    return snapshots


def find_named_snapshots(repository: Repository, names: Sequence[str], chosen: SnapshotFilter) -> dict[bytes, Snapshot]:
    """The snapshots that somebody names, each by an ID or as `latest`. Filters apply to `latest`.

    One that cannot be read does not keep others from being found by their IDs. Raises ObjectNotFound, AmbiguousPrefix,
    InvalidValue, or UnreadableSnapshots where it matters.
    """
    unreadable: dict[bytes, BackupForgeError] = {}
    known = load_snapshots(repository, on_error=lambda name, error: unreadable.update({bytes.fromhex(name): error}))
    found: dict[bytes, Snapshot] = {}
    for name in names:
        if name.startswith("latest"):
            wrong = next(iter(unreadable.values()), None)
            identifier = find_snapshot(name, known, chosen) if wrong is None else b""
        else:
            identifier = resolve_prefix(name, {*known, *unreadable}, what="snapshot")
            wrong = unreadable.get(identifier)
        if wrong is not None:
            raise UnreadableSnapshots(f"nothing was removed: {wrong}", hint=wrong.hint or "see 'backupforge check'")
        found[identifier] = known[identifier]
    return found


def check_options(options: ForgetOptions, chosen: SnapshotFilter) -> None:
    """Refuse rules that keep nothing, whatever there is. Raises UsageError."""
    if options.allow_remove_all and chosen == SnapshotFilter():
        raise UsageError(
            "removing all snapshots needs a filter, so that it is never the whole repository by mistake",
            hint="choose them with --host, --tag or --path",
        )
    if not options.rules and not options.allow_remove_all:
        raise UsageError(
            "no rule says what to keep, and nothing is removed without one",
            hint="say what to keep, for instance with --keep-daily 7 --keep-weekly 5, or name the snapshots to remove",
        )


def plan_forget(snapshots: Mapping[bytes, Snapshot], options: ForgetOptions, now: datetime) -> ForgetPlan:
    """What the rules keep and remove. Pure: `now` is the time that snapshots from the future are known by.

    Raises WouldEmptyGroup when a group would lose all its snapshots.
    """
    groups = [
        ForgetGroup(group, _decide(group.snapshots, options.rules, now))
        for group in group_snapshots(snapshots, options.group_by)
    ]
    if not options.allow_remove_all:
        for each in groups:
            _refuse_to_empty(each)
    warnings = [*_clock_warnings(snapshots, now), *_tag_warnings(snapshots, options.rules)] if options.rules else []
    return ForgetPlan(groups, warnings)


def remove_snapshots(
    repository: Repository,
    ids: Collection[bytes],
    reporter: Reporter,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Remove snapshots one by one, in the order given; one that is gone already is no error.

    Each is told to the reporter. Raises Interrupted between two of them, and the storage's error, which then says how
    many are gone.
    """
    for done, identifier in enumerate(ids):
        if cancelled():
            raise Interrupted(f"stopped: {done} of {_count(len(ids))} removed")
        try:
            repository.backend.delete(ObjectKind.SNAPSHOT, identifier.hex())
        except StorageError as error:
            raise _not_removed(error, list(ids), done) from error
        reporter.progress.files_done += 1
        if reporter.wants_items:
            reporter.item(short_id(identifier).encode(), "removed", 0)


def _decide(snapshots: Mapping[bytes, Snapshot], rules: RetentionRules, now: datetime) -> list[Decision]:
    """What becomes of the snapshots of a group. Those from the future stay and do not count, if anything is to stay."""
    future = {identifier: each for identifier, each in snapshots.items() if rules and each.when > now + _AHEAD}
    past = {identifier: each for identifier, each in snapshots.items() if identifier not in future}
    kept = [Decision(identifier, each, ("in the future",)) for identifier, each in future.items()]
    return [*apply_rules(past, rules), *sorted(kept, key=lambda each: (each.snapshot.when, each.id))]


def _refuse_to_empty(group: ForgetGroup) -> None:
    if any(decision.kept for decision in group.decisions):
        return
    raise WouldEmptyGroup(
        f"nothing was removed, as the rules keep none of the {_count(len(group.decisions))} of "
        f"{_describe(group.group)}",
        hint="look for a misspelt tag, or add a rule such as --keep-last 1; to remove them all, choose them with "
        "--host, --tag or --path and add --unsafe-allow-remove-all",
    )


def _describe(group: Group) -> str:
    """The group as a message names it."""
    parts = []
    if group.host is not None:
        parts.append(f"host {group.host}")
    if group.paths is not None:
        parts.append(f"paths {', '.join(path.decode(errors='backslashreplace') for path in group.paths)}")
    if group.tags is not None:
        parts.append(f"tags {', '.join(group.tags) or '(none)'}")
    return ", ".join(parts) or "the repository"


def _clock_warnings(snapshots: Mapping[bytes, Snapshot], now: datetime) -> Iterator[str]:
    """What contradicts the times that snapshots claim: our clock, their machine's clock, and their parents."""
    suspects: dict[str, list[bytes]] = {
        "from the future by this machine's clock, so they stay and count for no rule": [
            identifier for identifier, each in snapshots.items() if each.when > now + _AHEAD
        ],
        "with another time than their machine's clock showed, as 'backup --time' makes them": [
            identifier for identifier, each in snapshots.items() if _is_set_by_hand(each)
        ],
        "older than the snapshot they were compared with": [
            identifier
            for identifier, each in snapshots.items()
            if each.parent in snapshots and each.when < snapshots[each.parent].when
        ],
    }
    for what, found in suspects.items():
        if found:
            yield f"{_count(len(found))} {what}: {_few(map(short_id, found))}"


def _is_set_by_hand(snapshot: Snapshot) -> bool:
    started_ns = snapshot.summary.started_ns
    return bool(started_ns) and abs(snapshot.when.timestamp() - started_ns / 1e9) > _APART.total_seconds()


def _tag_warnings(snapshots: Mapping[bytes, Snapshot], rules: RetentionRules) -> Iterator[str]:
    for tags in rules.tags:
        if tags and snapshots and not any(has_tags(each, tags) for each in snapshots.values()):
            yield f"no snapshot has the tags to keep: {', '.join(sorted(tags))}"


def _not_removed(error: StorageError, ids: Sequence[bytes], done: int) -> StorageError:
    """The same error, with what is gone and what is not."""
    gone = f"removed {_few(map(short_id, ids[:done]))}" if done else "nothing was removed"
    return type(error)(
        f"cannot remove snapshot {short_id(ids[done])}: {error}; {gone}, not {_few(map(short_id, ids[done:]))}",
        hint=error.hint or "run it again when the storage allows it",
    )


def _count(number: int) -> str:
    return f"{number} snapshot{'' if number == 1 else 's'}"


def _few(names: Iterable[str]) -> str:
    """The first names, and that there are more."""
    listed = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(islice(listed, _NAMED)) + more
