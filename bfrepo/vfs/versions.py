"""Every version of every file: a directory for each path that any snapshot has, and in that of a file its versions.

A version is named by the time of the first snapshot that has it. Snapshots are followed host by host: equal entries one
after the other are one version, also when snapshots lie between that do not have the file; one that comes back after
another version is a version again. A directory's own metadata is that of the newest snapshot that has it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from bfrepo.core.errors import BackupForgeError, DamagedObject, ObjectNotFound, UnsupportedFormat
from bfrepo.data.identity import Identity, identity_of
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.vfs.directory import Directory, Listing, join
from bfrepo.vfs.templates import time_name
from bfrepo.vfs.trees import Trees

_MOST_PATHS: Final = 512
_MOST_NODES: Final = 20_000
"""Paths whose entries in all snapshots are kept, and entries of listings; the last listing is kept in any case."""

_Found: TypeAlias = dict[bytes, Node]
"""What is at a path, by the ID of each snapshot that has something there, oldest first."""


class Versions:
    """The entries of all snapshots, path by path. May be used from any thread.

    A directory that cannot be read in one of the snapshots is left out, after `on_error` was told its path and why.
    """

    def __init__(self, trees: Trees, on_error: Callable[[bytes, BackupForgeError], None]) -> None:
        self._trees = trees
        self._on_error = on_error
        self._snapshots: Mapping[bytes, Snapshot] = {}
        self._found: OrderedDict[tuple[bytes, ...], _Found] = OrderedDict()
        self._listings: OrderedDict[tuple[bytes, ...], Listing] = OrderedDict()
        self._nodes = 0
        self._lock = threading.Lock()

    def show(self, snapshots: Mapping[bytes, Snapshot]) -> None:
        """Look into these snapshots from now on, which are sorted by time."""
        with self._lock:
            if self._snapshots.keys() != snapshots.keys():
                self._snapshots, self._found = snapshots, OrderedDict()
                self._listings, self._nodes = OrderedDict(), 0

    def root(self, name: bytes) -> Directory:
        """The top of it, which has that name."""
        return VersionsDirectory(self, name, ())

    def at_hand(self, parts: tuple[bytes, ...]) -> Listing | None:
        """What there is at a path, if that is known already."""
        with self._lock:
            listing = self._listings.get(parts)
            if listing is not None:
                self._listings.move_to_end(parts)
            return listing

    def listing(self, parts: tuple[bytes, ...]) -> Listing:
        """What there is at a path: the names of all snapshots below it, and the versions of it.

        Raises ObjectNotFound and StorageError.
        """
        with self._lock:
            snapshots = self._snapshots
        listing = self._list(snapshots, parts)
        with self._lock:
            if snapshots is self._snapshots and parts not in self._listings:
                self._listings[parts] = listing
                self._nodes += len(listing.nodes)
                while self._nodes > _MOST_NODES and len(self._listings) > 1:
                    self._nodes -= len(self._listings.popitem(last=False)[1].nodes)
        return listing

    def _list(self, snapshots: Mapping[bytes, Snapshot], parts: tuple[bytes, ...]) -> Listing:
        found = self._at(snapshots, parts)
        if not found and parts:
            raise ObjectNotFound("no snapshot has it any more")
        names: dict[bytes, Node] = {}
        for tree_id in dict.fromkeys(node.subtree for node in reversed(found.values()) if node.type == "dir"):
            for each in self._load(tree_id, parts).nodes:
                names.setdefault(each.name, each)  # as the newest snapshot has it
        entries = {name: _as_directory(node) for name, node in names.items()}
        for name, version in _versions(snapshots, found):
            entries[_free(name, entries)] = version
        return Listing([msgspec.structs.replace(node, name=name) for name, node in sorted(entries.items())])

    def _at(self, snapshots: Mapping[bytes, Snapshot], parts: tuple[bytes, ...]) -> _Found:
        with self._lock:
            known = self._found.get(parts) if snapshots is self._snapshots else None
            if known is not None:
                self._found.move_to_end(parts)
                return known
        if not parts:
            found = {key: Node(name=b"/", type="dir", subtree=each.tree) for key, each in snapshots.items()}
        else:
            found = self._step(self._at(snapshots, parts[:-1]), parts)
        with self._lock:
            if snapshots is self._snapshots:
                self._found[parts] = found
                while len(self._found) > _MOST_PATHS:
                    self._found.popitem(last=False)
        return found

    def _step(self, above: _Found, parts: tuple[bytes, ...]) -> _Found:
        below: dict[bytes, Node | None] = {}
        found: _Found = {}
        for identifier, node in above.items():
            if node.type != "dir":
                continue
            if node.subtree not in below:
                listing = self._load(node.subtree, parts[:-1])
                at = listing.position(parts[-1])
                below[node.subtree] = None if at is None else listing.nodes[at]
            child = below[node.subtree]
            if child is not None:
                found[identifier] = child
        return found

    def _load(self, tree_id: bytes, parts: tuple[bytes, ...]) -> Listing:
        try:
            return self._trees.load(tree_id)
        except (DamagedObject, UnsupportedFormat) as error:
            self._on_error(b"/".join(parts), error)
            return Listing([])


@dataclass(frozen=True, slots=True)
class VersionsDirectory:
    """Implements Directory over a path of all snapshots; `top` is the name of the directory that they all lie in."""

    versions: Versions
    top: bytes
    parts: tuple[bytes, ...]
    lasting: bool = False
    scope: None = None

    @property
    def path(self) -> bytes:
        """See Directory."""
        return join(self.top, b"/".join(self.parts)) if self.parts else self.top

    def at_hand(self) -> Listing | None:
        """See Directory."""
        return self.versions.at_hand(self.parts)

    def load(self) -> Listing:
        """See Directory."""
        return self.versions.listing(self.parts)

    def subdirectory(self, node: Node) -> VersionsDirectory:
        """See Directory."""
        return VersionsDirectory(self.versions, self.top, (*self.parts, node.name))


def _as_directory(node: Node) -> Node:
    """The directory that stands for a path: as it was if it was one, else readable wherever its file was."""
    if node.type == "dir":
        return msgspec.structs.replace(node, subtree=b"")
    readable = node.mode & 0o444
    mode = readable | readable >> 2 | 0o500
    return Node(
        name=node.name, type="dir", mode=mode, uid=node.uid, gid=node.gid, user=node.user, group=node.group,
        mtime_ns=node.mtime_ns, ctime_ns=node.ctime_ns, links=2,
    )  # fmt: skip


def _versions(snapshots: Mapping[bytes, Snapshot], found: _Found) -> list[tuple[bytes, Node]]:
    """The versions of what is no directory, each with its name."""
    versions: list[tuple[bytes, Node]] = []
    last: dict[str, Identity] = {}
    for identifier, node in found.items():
        if node.type == "dir":
            continue
        snapshot, identity = snapshots[identifier], identity_of(node)
        if last.get(snapshot.hostname) != identity:
            versions.append((time_name(snapshot), node))
            last[snapshot.hostname] = identity
    return versions


def _free(name: bytes, taken: Mapping[bytes, Node]) -> bytes:
    number, free = 0, name
    while free in taken:
        number += 1
        free = b"%s-%d" % (name, number)
    return free
