"""Changing tags and labels: no stored object changes (INV-3), so a new snapshot takes the place of the old one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bfrepo.core.errors import Interrupted, UsageError
from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.data.snapshot import Snapshot, encode_snapshot
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.succession import is_there, publish_successor, remove_predecessor, successor
from bfrepo.repository.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class TagChange:
    """What to change: `replace` takes the place of all tags, or else `add` and `remove` do what they say, in that
    order. None leaves tags or label as they are. Raises UsageError when nothing is to change, or both are given.
    """

    add: frozenset[str] = frozenset()
    remove: frozenset[str] = frozenset()
    replace: frozenset[str] | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.replace is not None and (self.add or self.remove):
            raise UsageError("setting all tags, and adding or removing some, exclude each other")
        if self.replace is None and self.label is None and not self.add and not self.remove:
            raise UsageError(
                "nothing to change was given", hint="say what to change with --add, --remove, --set or --label"
            )

    def tags_of(self, snapshot: Snapshot) -> list[str]:
        """The tags that the snapshot gets."""
        return sorted((set(snapshot.tags) | self.add) - self.remove if self.replace is None else self.replace)

    def label_of(self, snapshot: Snapshot) -> str:
        """The label that the snapshot gets."""
        return snapshot.label if self.label is None else self.label


@dataclass(slots=True)
class TagResult:
    """The new snapshots by the IDs of the old ones, and how many were left alone because nothing changes in them."""

    changed: dict[bytes, bytes] = field(default_factory=dict)
    unchanged: int = 0


def change_tags(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    change: TagChange,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    on_changed: Callable[[bytes, bytes], None] = lambda old, new: None,
) -> TagResult:
    """Give snapshots other tags, another label, or both; those that have them already are left alone.

    One that somebody removed meanwhile is told. `on_changed` gets the old and the new ID of each when it is done.
    Raises Interrupted between two snapshots, and StorageDenied from a store that deletes nothing: then there are both.
    """
    result = TagResult()
    known = load_snapshots(repository, on_error=lambda name, error: None, held=snapshots)
    made_before = {encode_snapshot(each): identifier for identifier, each in known.items()}
    for identifier, snapshot in snapshots.items():
        if cancelled():
            raise Interrupted(f"stopped: {len(result.changed)} snapshots were changed")
        tags, label = change.tags_of(snapshot), change.label_of(snapshot)
        if set(tags) == set(snapshot.tags) and label == snapshot.label:
            result.unchanged += 1
            continue
        repository.refresh_index()
        if not is_there(repository, identifier):
            reporter.warn(b"", f"snapshot {short_id(identifier)} was removed by somebody meanwhile")
            continue
        changed = successor(identifier, snapshot, tags=tags, label=label)
        new_id = made_before.get(encode_snapshot(changed))  # by a run that died before it removed the old one
        if new_id is None or not is_there(repository, new_id):
            new_id = publish_successor(repository, identifier, changed, repository.index.objects)
        remove_predecessor(repository, identifier, new_id)
        result.changed[identifier] = new_id
        reporter.progress.files_done += 1
        on_changed(identifier, new_id)
    return result
