"""Looking into a repository as a file system, by the library and without a kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.units import MIB
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.repository import Repository
from bfrepo.vfs.directory import Directory
from bfrepo.vfs.file import File
from bfrepo.vfs.filesystem import SnapshotFiles


@dataclass
class Browser:
    """The file system of a repository; `left_out` is what it could not show below versions/."""

    repository: Repository
    views: FrameCache
    files: SnapshotFiles
    left_out: list[bytes]

    def refresh(self) -> dict[bytes, Snapshot]:
        """Show the snapshots that there are now."""
        snapshots = load_snapshots(self.repository)
        self.repository.refresh_index()
        self.views.follow(self.repository.loader)
        self.files.show(snapshots)
        return snapshots

    def directory(self, *parts: str | bytes) -> Directory:
        """A directory, from the top down. Fails where there is none."""
        directory = self.files.root
        for part in parts:
            directory = directory.subdirectory(node_in(directory, part))
        return directory

    def names(self, *parts: str | bytes) -> list[bytes]:
        """What is in a directory."""
        return [node.name for node in listing(self.directory(*parts))]

    def node(self, *parts: str | bytes) -> Node:
        """An entry, from the top down."""
        *above, name = parts
        return node_in(self.directory(*above), name)

    def open(self, *parts: str | bytes) -> File:
        """A file, opened."""
        return self.files.open(self.node(*parts))

    def content(self, *parts: str | bytes) -> bytes:
        """All of a file."""
        file = self.open(*parts)
        return bytes(file.read(0, file.size))


@contextmanager
def browsing(repository: Repository, templates: Sequence[str] = (), *, cache_size: int = 64 * MIB) -> Iterator[Browser]:
    """The repository as a file system, until the block ends."""
    left_out: list[bytes] = []

    def on_error(path: bytes, error: BackupForgeError) -> None:
        del error
        left_out.append(path)

    views = FrameCache(repository.loader, cache_size)
    try:
        browser = Browser(repository, views, SnapshotFiles(views, on_error, templates), left_out)
        browser.refresh()
        yield browser
    finally:
        views.close()


def listing(directory: Directory) -> Sequence[Node]:
    """The entries of a directory."""
    return (directory.at_hand() or directory.load()).nodes


def node_in(directory: Directory, name: str | bytes) -> Node:
    """An entry of a directory. Fails where there is none."""
    raw = name.encode() if isinstance(name, str) else name
    return next(node for node in listing(directory) if node.name == raw)


def contents(directory: Directory, browser: Browser, path: bytes = b"") -> Mapping[bytes, bytes | None]:
    """Everything below a directory: the content of files, the targets of symlinks, None for directories."""
    found: dict[bytes, bytes | None] = {}
    for node in listing(directory):
        below = path + b"/" + node.name
        if node.type == "dir":
            found[below] = None
            found.update(contents(directory.subdirectory(node), browser, below))
        elif node.type == "file":
            file = browser.files.open(node)
            found[below] = bytes(file.read(0, file.size))
        else:
            found[below] = node.target
    return found
