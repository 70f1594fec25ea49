"""All snapshots as one file system: read-only, what is in a snapshot never changes, and snapshots come and go.

snapshots/<time>    hosts/<host>/<time>    tags/<tag>/<time>    ids/<id>    and what other templates say
latest              a symlink beside the snapshots that are told apart by time, to the last of them
versions/<path>/    every version of every file (see versions.py)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bfrepo.core.errors import BackupForgeError, ObjectNotFound
from bfrepo.core.protocols import BlobViews
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.vfs.directory import Directory, Listing, join
from bfrepo.vfs.file import File
from bfrepo.vfs.templates import DEFAULT_TEMPLATES, check_template, ends_with_time, snapshot_paths
from bfrepo.vfs.trees import TreeDirectory, Trees
from bfrepo.vfs.versions import Versions

LATEST: Final = b"latest"
VERSIONS: Final = b"versions"


@dataclass(slots=True)
class _Folder:
    """A directory that is made up; it does not change once it is shown.

    `time_ns` is that of the newest snapshot below it.
    """

    entries: dict[bytes, _Entry] = field(default_factory=dict)
    time_ns: int = 0
    _listing: Listing | None = None

    def listing(self) -> Listing:
        """Its entries, put together once."""
        if self._listing is None:
            self._listing = Listing([_node(name, entry) for name, entry in sorted(self.entries.items())])
        return self._listing


@dataclass(frozen=True, slots=True)
class _Root:
    """A snapshot at its place."""

    identifier: bytes
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class _Symlink:
    target: bytes
    time_ns: int


_Entry: TypeAlias = _Folder | _Root | _Symlink


class SnapshotFiles:
    """The file system. `show` says which snapshots there are; all else may be called from any thread meanwhile.

    `on_error` is told, from any thread, what is left out of `versions/`: the path below it, and why.
    """

    def __init__(
        self, views: BlobViews, on_error: Callable[[bytes, BackupForgeError], None], templates: Sequence[str] = ()
    ) -> None:
        self._views = views
        self._templates = tuple(templates) or DEFAULT_TEMPLATES
        for template in self._templates:
            check_template(template)
        self._trees = Trees(views)
        self._top = _Folder()
        self.versions = Versions(self._trees, on_error)
        self.root: Directory = _MadeUp(self, ())

    def show(self, snapshots: Mapping[bytes, Snapshot]) -> None:
        """Show these snapshots from now on. Directories of others stay readable for who is in them."""
        by_time = dict(sorted(snapshots.items(), key=lambda item: (item[1].when, item[0])))
        top = _Folder()
        for template in self._templates:
            for identifier, snapshot in by_time.items():
                for parts in snapshot_paths(template, identifier, snapshot):
                    _place(top, parts, _Root(identifier, snapshot), latest=ends_with_time(template))
        _link_latest(top)
        if VERSIONS not in top.entries:
            top.entries[VERSIONS] = _Folder(time_ns=top.time_ns)
        self.versions.show(by_time)
        self._top = top

    def open(self, node: Node) -> File:
        """The content of a file, by its entry. Raises what File raises."""
        return File(self._views, node)

    def folder(self, parts: tuple[bytes, ...]) -> _Folder:
        """A made-up directory as it is now. Raises ObjectNotFound when it is gone."""
        folder = self._top
        for part in parts:
            below = folder.entries.get(part)
            if not isinstance(below, _Folder):
                raise ObjectNotFound("no snapshot is there any more")
            folder = below
        return folder

    def below(self, parts: tuple[bytes, ...], name: bytes) -> Directory:
        """A directory in a made-up one. Raises ObjectNotFound."""
        if not parts and name == VERSIONS and not self.folder((name,)).entries:
            return self.versions.root(VERSIONS)
        entry = self.folder(parts).entries.get(name)
        if isinstance(entry, _Root):
            path = b"/".join((*parts, name))
            return TreeDirectory(self._trees, entry.snapshot.tree, path, entry.identifier)
        if isinstance(entry, _Folder):
            return _MadeUp(self, (*parts, name))
        raise ObjectNotFound("no snapshot is there any more")


@dataclass(frozen=True, slots=True)
class _MadeUp:
    """Implements Directory over a directory that leads to snapshots."""

    files: SnapshotFiles
    parts: tuple[bytes, ...]
    lasting: bool = False
    scope: None = None

    @property
    def path(self) -> bytes:
        """See Directory."""
        return b"/".join(self.parts)

    def at_hand(self) -> Listing:
        """See Directory."""
        return self.load()

    def load(self) -> Listing:
        """See Directory."""
        return self.files.folder(self.parts).listing()

    def subdirectory(self, node: Node) -> Directory:
        """See Directory."""
        return self.files.below(self.parts, node.name)


def _node(name: bytes, entry: _Entry) -> Node:
    if isinstance(entry, _Symlink):
        return Node(
            name=name, type="symlink", mode=0o777, mtime_ns=entry.time_ns, ctime_ns=entry.time_ns, target=entry.target
        )
    if isinstance(entry, _Root):
        time_ns, tree = _time_ns(entry.snapshot), entry.snapshot.tree
    else:
        time_ns, tree = entry.time_ns, b""
    return Node(name=name, type="dir", mode=0o755, mtime_ns=time_ns, ctime_ns=time_ns, links=2, subtree=tree)


def _time_ns(snapshot: Snapshot) -> int:
    return int(snapshot.when.timestamp()) * 10**9


def _place(folder: _Folder, parts: Sequence[bytes], root: _Root, *, latest: bool) -> None:
    """Put a snapshot where a template says; the last one of those told apart by time is the latest."""
    time_ns = _time_ns(root.snapshot)
    folder.time_ns = max(folder.time_ns, time_ns)
    *above, name = parts
    for part in above:
        below = folder.entries.get(part)
        if not isinstance(below, _Folder):  # another template has put a snapshot there: it gives way
            below = folder.entries[part] = _Folder()
        below.time_ns = max(below.time_ns, time_ns)
        folder = below
    number, free = 0, name
    while free in folder.entries:
        number += 1
        free = b"%s-%d" % (name, number)
    folder.entries[free] = root
    if latest:
        folder.entries.pop(LATEST, None)
        folder.entries[LATEST] = _Symlink(free, time_ns)


def _link_latest(top: _Folder) -> None:
    """A symlink at the top, too, to the latest of the usual place."""
    usual = top.entries.get(b"snapshots")
    link = usual.entries.get(LATEST) if isinstance(usual, _Folder) else None
    if isinstance(link, _Symlink) and LATEST not in top.entries:
        top.entries[LATEST] = _Symlink(join(b"snapshots", link.target), link.time_ns)
