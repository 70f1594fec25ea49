"""Trees for tests of what reads them: nodes with plain metadata, their content cut into blobs of one size."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Sequence
from typing import Any

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node
from bfrepo.data.tree import save_tree
from bfrepo.restorer.report import Outcome
from tests.support.blobs import MemoryBlobs

MTIME = 1_600_000_000_123_456_789


class TreeMaker:
    """Makes nodes that belong to whoever runs the test, with mode 0644 or 0755 and one mtime unless told otherwise."""

    def __init__(self, blobs: MemoryBlobs | None = None, *, blob_size: int = 1 << 16) -> None:
        self.blobs = blobs if blobs is not None else MemoryBlobs()
        self._blob_size = blob_size

    def file(self, name: str | bytes, content: bytes = b"", holes: Sequence[tuple[int, int]] = (), **more: Any) -> Node:
        """A regular file. `content` includes the zeros of its `holes`, which are (offset, length)."""
        ids, at = b"", 0
        for start, length in [*holes, (len(content), 0)]:
            while at < start:
                end = min(at + self._blob_size, start)
                ids += self.blobs.save(BlobKind.DATA, content[at:end])
                at = end
            at = start + length
        packed = b"".join(struct.pack("<QQ", *hole) for hole in holes)
        return self.node(name, "file", **{"size": len(content), "content": ids, "holes": packed, **more})

    def directory(self, name: str | bytes, *nodes: Node, **more: Any) -> Node:
        """A directory that holds `nodes`."""
        return self.node(name, "dir", **{"mode": 0o755, "subtree": self.tree(*nodes), **more})

    def symlink(self, name: str | bytes, target: bytes, **more: Any) -> Node:
        """A symlink."""
        return self.node(name, "symlink", **{"mode": 0o777, "target": target, **more})

    def node(self, name: str | bytes, kind: Any, mode: int = 0o644, **more: Any) -> Node:
        """A node of any type."""
        plain: dict[str, Any] = {"mode": mode, "uid": os.geteuid(), "gid": os.getegid(), "mtime_ns": MTIME}
        return Node(name=os.fsencode(name), type=kind, **{**plain, **more})

    def tree(self, *nodes: Node) -> bytes:
        """The ID of a tree of `nodes`."""
        return save_tree(self.blobs, sorted(nodes, key=lambda node: node.name))


class Recorder:
    """A RestoreObserver that remembers."""

    def __init__(self) -> None:
        self.outcomes: dict[bytes, Outcome] = {}
        self.errors: list[tuple[bytes, str]] = []
        self.removed: list[bytes] = []
        self.totals: list[tuple[int, int]] = []
        self.bytes_done = 0

    def on_total(self, files: int, size: int) -> None:
        self.totals.append((files, size))

    def on_bytes(self, count: int) -> None:
        self.bytes_done += count

    def on_item(self, path: bytes, outcome: Outcome, size: int) -> None:
        del size
        self.outcomes[path] = outcome

    def on_removed(self, path: bytes) -> None:
        self.removed.append(path)

    def on_error(self, path: bytes, error: BackupForgeError) -> None:
        self.errors.append((path, str(error)))


def look(root: str | bytes | os.PathLike[str]) -> dict[bytes, tuple[object, ...]]:
    """Everything below a directory that a restore is answerable for: path -> kind, mode, owner, mtime, content,
    xattrs.
    """
    top = os.fsencode(root)
    found = {}
    for directory, names, files in os.walk(top):
        for name in [*names, *files]:
            path = os.path.join(directory, name)
            found[path[len(top) :]] = _look_at(path)
    return found


def _look_at(path: bytes) -> tuple[object, ...]:
    now = os.lstat(path)
    kind = stat.S_IFMT(now.st_mode)
    content: object = None
    if kind == stat.S_IFREG:
        with open(path, "rb") as file:
            content = file.read()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)
    elif kind in (stat.S_IFBLK, stat.S_IFCHR):
        content = now.st_rdev
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
    }
    return kind, stat.S_IMODE(now.st_mode), now.st_uid, now.st_gid, now.st_mtime_ns, content, xattrs
