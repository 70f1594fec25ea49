"""The repository that the tools are about: open for as long as they are served, one operation at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bfrepo.core.errors import BackupForgeError, DamagedObject, InvalidValue, ObjectNotFound
from bfrepo.core.units import MIB
from bfrepo.data.node import Node
from bfrepo.data.selection import SnapshotFilter, find_snapshot
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.repository import Repository
from bfrepo.repository.salvage import refresh_for_reading
from bfrepo.vfs.trees import Trees

_CACHE: Final = 64 * MIB
_THREADS: Final = 2


class ServedRepository:
    """A repository and what is known of it. For one thread at a time; `close` it, which leaves the repository open."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.views = FrameCache(repository.loader, _CACHE, threads=_THREADS)
        self.trees = Trees(self.views)
        self._snapshots: dict[bytes, Snapshot] = {}
        self.unreadable = 0

    def close(self) -> None:
        """Let go of what was read."""
        self.views.close()

    def snapshots(self) -> Mapping[bytes, Snapshot]:
        """The snapshots that there are now, oldest first, without those that cannot be read.

        The index names what they need. Raises StorageError.
        """
        errors: list[BackupForgeError] = []
        found = load_snapshots(self.repository, on_error=lambda name, error: errors.append(error), held=self._snapshots)
        self._refresh()
        self.views.follow(self.repository.loader)
        self._snapshots, self.unreadable = found, len(errors)
        return found

    def _refresh(self) -> None:
        """Read what is new of the index; where it is damaged, what the packs say themselves."""
        try:
            self.repository.refresh_index()
        except DamagedObject:
            refresh_for_reading(self.repository, lambda text: None)  # a check says it, and what to do

    def chosen(self, host: str | None, tag: str | None, path: bytes) -> dict[bytes, Snapshot]:
        """Those of a host, with a tag, of a raw path; oldest first."""
        wanted = SnapshotFilter(
            hosts=(host,) if host else (), tags=(frozenset({tag}),) if tag else (), paths=(path,) if path else ()
        )
        return wanted.apply(self.snapshots())

    def find(self, name: str) -> tuple[bytes, Snapshot]:
        """The one that an ID, its beginning, `latest` or `latest~N` means. Raises what `find_snapshot` raises."""
        snapshots = self.snapshots()
        identifier = find_snapshot(name, snapshots)
        return identifier, snapshots[identifier]

    def node_at(self, root: bytes, path: bytes) -> Node:
        """The entry at a raw path below a tree. Raises ObjectNotFound, InvalidValue, and what reading raises."""
        if {b".", b".."} & set(path.split(b"/")):
            raise InvalidValue("a path in a snapshot has no '.' and no '..' in it")
        node = self.trees.find(root, path)
        if node is None:
            raise ObjectNotFound("the snapshot has nothing at that path", hint="list the directory above it")
        return node
