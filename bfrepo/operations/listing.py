"""What is in a repository: snapshots in groups, and the files of one snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bfrepo.core.errors import InvalidValue
from bfrepo.data.snapshot import Snapshot

GroupKey: TypeAlias = Literal["host", "paths", "tags"]

_KEYS: Final[tuple[GroupKey, ...]] = ("host", "paths", "tags")


@dataclass(frozen=True, slots=True)
class Group:
    """Snapshots that have in common what they are grouped by; what they are not grouped by is None."""

    host: str | None
    paths: tuple[bytes, ...] | None
    tags: tuple[str, ...] | None
    snapshots: dict[bytes, Snapshot]


def parse_group_by(text: str) -> tuple[GroupKey, ...]:
    """From "host,paths,tags", any of them in any order; none when empty. Raises InvalidValue."""
    wanted = {part.strip() for part in text.split(",") if part.strip()}
    # restic takes these in the singular too
    wanted = {{"path": "paths", "tag": "tags", "hosts": "host"}.get(each, each) for each in wanted}
    unknown = wanted - set(_KEYS)
    if unknown:
        raise InvalidValue(f"cannot group by {', '.join(sorted(unknown))}", hint="use any of host, paths and tags")
    return tuple(key for key in _KEYS if key in wanted)


def group_snapshots(snapshots: Mapping[bytes, Snapshot], keys: Sequence[GroupKey]) -> list[Group]:
    """The groups, in the order of their first snapshots; one group of everything without keys."""
    groups: dict[tuple[object, ...], Group] = {}
    for identifier, snapshot in snapshots.items():
        host = snapshot.hostname if "host" in keys else None
        paths = tuple(sorted(snapshot.paths)) if "paths" in keys else None
        tags = tuple(snapshot.tags) if "tags" in keys else None
        group = groups.setdefault((host, paths, tags), Group(host, paths, tags, {}))
        group.snapshots[identifier] = snapshot
    return list(groups.values())


def latest_of_each(snapshots: Mapping[bytes, Snapshot], count: int, keys: Sequence[GroupKey]) -> dict[bytes, Snapshot]:
    """The last `count` snapshots of each group, in the order they came in."""
    kept = {identifier for group in group_snapshots(snapshots, keys) for identifier in list(group.snapshots)[-count:]}
    return {identifier: snapshot for identifier, snapshot in snapshots.items() if identifier in kept}
