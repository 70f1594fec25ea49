"""The history of a path: every version of it, across snapshots.

Snapshots are followed by host, in the order of their times. Equal entries one after the other are one version; one that
comes back later is another. A snapshot says that a path was not there only if it was to contain it: a backup of /srv
tells nothing of /etc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from bfrepo.catalogue.catalogue import Catalogue
from bfrepo.catalogue.lookup import Entry
from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted, InvalidValue, UnsupportedFormat
from bfrepo.core.progress import Reporter
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.identity import Identity, identity_of
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.data.tree import load_tree
from bfrepo.repository.repository import Repository

VersionChange: TypeAlias = Literal["new", "content", "metadata", "removed"]
"""What makes a version differ from the one before on the same host; "content" may mean metadata as well."""


@dataclass(slots=True)
class PathVersion:
    """A version of the path, or that there was none (`node` is None then), and the snapshots that say so.

    They are one after the other in time. Out of a catalogue the node has no content, attributes or inode.
    """

    hostname: str
    change: VersionChange
    node: Node | None
    snapshots: dict[bytes, Snapshot] = field(default_factory=dict)


def history(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    path: bytes,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    *,
    catalogue: Catalogue | None = None,
) -> list[PathVersion]:
    """The versions of a raw absolute path in `snapshots`, in the order in which they came up.

    The same with a catalogue and without. A snapshot in which a directory on the way cannot be read is reported and
    left out. Raises InvalidValue for the root, and Interrupted.
    """
    names = [name for name in path.split(b"/") if name]
    if not names:
        raise InvalidValue("the root directory has no history of its own", hint="name something that is in it")
    entries = catalogue.trace(names, snapshots) if catalogue is not None else {}
    rest = {identifier: each for identifier, each in snapshots.items() if identifier not in entries}
    if rest:
        repository.refresh_index()
        entries.update(_Walk(repository.loader, reporter, cancelled).trace(names, rest))
    by_time = sorted(snapshots.items(), key=lambda item: (item[1].when, item[0]))
    return _versions({identifier: each for identifier, each in by_time if identifier in entries}, entries, names)


def _versions(
    snapshots: Mapping[bytes, Snapshot], entries: Mapping[bytes, Entry | None], names: Sequence[bytes]
) -> list[PathVersion]:
    versions: list[PathVersion] = []
    last: dict[str, tuple[PathVersion, Identity | None]] = {}
    for identifier, snapshot in snapshots.items():
        entry = entries[identifier]
        if entry is None and not _would_contain(snapshot, names):
            continue
        identity = entry.identity if entry is not None else None
        before = last.get(snapshot.hostname)
        if before is None and entry is None:
            continue  # before it came up for the first time
        if before is None or before[1] != identity:
            change = _change(before[1] if before else None, identity)
            version = PathVersion(snapshot.hostname, change, entry.node if entry is not None else None)
            versions.append(version)
            before = last[snapshot.hostname] = version, identity
        before[0].snapshots[identifier] = snapshot
    return versions


def _change(before: Identity | None, after: Identity | None) -> VersionChange:
    if after is None:
        return "removed"
    if before is None:
        return "new"
    return "metadata" if before.content == after.content else "content"


def _would_contain(snapshot: Snapshot, names: Sequence[bytes]) -> bool:
    """Whether the path is one that the snapshot is of, lies below one, or leads to one."""
    for path in snapshot.paths:
        parts = [part for part in path.split(b"/") if part]
        length = min(len(parts), len(names))
        if parts[:length] == list(names[:length]):
            return True
    return False


class _Walk:
    """Goes down a path in many snapshots at once, part by part; each directory on the way is read once."""

    def __init__(self, loader: BlobLoader, reporter: Reporter, cancelled: Callable[[], bool]) -> None:
        self._loader = loader
        self._reporter = reporter
        self._cancelled = cancelled

    def trace(self, names: Sequence[bytes], snapshots: Mapping[bytes, Snapshot]) -> dict[bytes, Entry | None]:
        """What is at the path in each of the snapshots, None for nothing; without those where that is not known."""
        found: dict[bytes, Node | None] = {
            identifier: Node(name=b"/", type="dir", subtree=snapshot.tree) for identifier, snapshot in snapshots.items()
        }
        for depth, name in enumerate(names):
            trees = {identifier: _subtree(node) for identifier, node in found.items()}
            below = self._look(list(dict.fromkeys(filter(None, trees.values()))), name, b"/" + b"/".join(names[:depth]))
            below[b""] = None
            found = {identifier: below[tree] for identifier, tree in trees.items() if tree in below}
        identities = {id(node): identity_of(node) for node in found.values() if node is not None}
        return {
            identifier: Entry(node, identities[id(node)]) if node is not None else None
            for identifier, node in found.items()
        }

    def _look(self, trees: Sequence[bytes], name: bytes, directory: bytes) -> dict[bytes, Node | None]:
        """What each of the trees has by a name. One that cannot be read is reported and left out."""

        def look(tree_id: bytes) -> Node | BackupForgeError | None:
            if self._cancelled():
                raise Interrupted("stopped while reading directories")
            try:
                return next((node for node in load_tree(self._loader, tree_id) if node.name == name), None)
            except (DamagedObject, UnsupportedFormat) as error:
                return error

        found: dict[bytes, Node | None] = {}
        with ThreadPoolExecutor(native_threads(), thread_name_prefix="history") as pool:
            for tree_id, node in zip(trees, pool.map(look, trees), strict=True):
                if isinstance(node, BackupForgeError):
                    self._reporter.problem(directory, str(node))
                else:
                    found[tree_id] = node
        return found


def _subtree(node: Node | None) -> bytes:
    """The tree of a directory, nothing for anything else."""
    return node.subtree if node is not None and node.type == "dir" else b""
