"""What is in a repository: snapshots in groups, and the files of a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bfrepo.core.errors import DamagedObject, InvalidValue
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.selection import find_node
from bfrepo.data.snapshot import Snapshot
from bfrepo.data.tree import load_tree

GroupKey: TypeAlias = Literal["host", "paths", "tags"]
SortKey: TypeAlias = Literal["name", "size", "time"]

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


@dataclass(frozen=True, slots=True)
class ListedFile:
    """An entry of a snapshot, with its raw absolute path in it."""

    path: bytes
    node: Node


def list_files(
    loader: BlobLoader,
    root: bytes,
    path: bytes,
    *,
    recursive: bool = False,
    sort: SortKey = "name",
    on_error: Callable[[bytes, str], None],
) -> Iterator[ListedFile]:
    """What is in a directory of a snapshot, or the one entry when `path` is none.

    By name, or all of it with the largest or the newest first. A directory below that cannot be read is told to
    `on_error`. Raises ObjectNotFound when there is no such path, DamagedObject when it cannot be read.
    """
    node = find_node(loader, root, path)
    if node.type != "dir":
        return iter([ListedFile(b"/" + path, node)])
    found = _walk(loader, node, path, on_error) if recursive else _entries(loader, node, path)
    if sort == "size":
        return iter(sorted(found, key=lambda each: (-each.node.size, each.path)))
    if sort == "time":
        return iter(sorted(found, key=lambda each: (-each.node.mtime_ns, each.path)))
    return found


def _entries(loader: BlobLoader, directory: Node, path: bytes) -> Iterator[ListedFile]:
    prefix = b"/" + path + b"/" if path else b"/"
    return iter([ListedFile(prefix + node.name, node) for node in load_tree(loader, directory.subtree)])


def _walk(
    loader: BlobLoader, directory: Node, path: bytes, on_error: Callable[[bytes, str], None]
) -> Iterator[ListedFile]:
    """Everything below, directories before what is in them."""
    stack = [_entries(loader, directory, path)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
            continue
        yield entry
        if entry.node.type == "dir":
            try:
                stack.append(_entries(loader, entry.node, entry.path[1:]))
            except DamagedObject as error:
                on_error(entry.path, str(error))
