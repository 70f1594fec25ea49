"""Making a tree from a source: walk, compare with the parent, read what is new, store directories from the bottom up.

The walk is a depth-first loop without recursion, so depth is bounded by nothing but memory. A directory is left behind
as soon as its files are read; its tree is stored a little later, when the chunks of its large files have their IDs, and
always before the tree of its parent.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from bfrepo.archiver.filesaver import FileSaver, PendingFile
from bfrepo.archiver.parent import ParentTree, Reuse
from bfrepo.core.errors import DamagedObject, Interrupted
from bfrepo.core.progress import Change, Reporter
from bfrepo.core.protocols import BlobSaver
from bfrepo.data.node import Node
from bfrepo.data.tree import save_tree
from bfrepo.sources.base import Directory, Entry, Source, StaleFile, StreamedSource

_UNFINISHED: Final = 256
"""Directories that may wait for their large files before the walk waits for them."""

_MOST_OPENINGS: Final = 3
"""How often a file is read again that changed between two parts of it."""

_BATCH: Final = 64
"""Files that are read at a time: as many small ones as a source may be asked for in one call."""


@dataclass(slots=True)
class ArchiveStats:
    """What a backup saw. `size` is the bytes of all files."""

    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    dirs: int = 0
    others: int = 0
    size: int = 0
    errors: int = 0
    warnings: int = 0


@dataclass(slots=True)
class _Read:
    """A file to read, and in the end what came of it: None if it could not be read."""

    entry: Entry
    before: Node | None
    result: Node | PendingFile | None = None
    reused: bool = False


@dataclass(slots=True)
class _Level:
    """A directory on its way.

    `slots` has an item for each entry, in order, that becomes a node when the directory ends.
    """

    directory: Directory
    node: Node | None
    before: dict[bytes, Node]
    before_id: bytes
    """The parent's tree of this directory, if it can be taken over as it is; else empty."""
    slots: list[Node | _Read | _Level] = field(default_factory=list)
    subdirectories: list[Entry] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    next_subdirectory: int = 0
    reading: list[Future[None]] = field(default_factory=list)
    same: bool = True
    tree_id: bytes = b""


class Archiver:
    """Stores what a source holds and gives the root of the tree. Used once."""

    def __init__(
        self,
        saver: BlobSaver,
        files: FileSaver,
        parent: ParentTree | None,
        reporter: Reporter,
        cancelled: Callable[[], bool],
        *,
        readers: int = 1,
    ) -> None:
        self.stats = ArchiveStats()
        self._saver = saver
        self._files = files
        self._parent = parent
        self._reporter = reporter
        self._cancelled = cancelled
        self._readers = ThreadPoolExecutor(readers, thread_name_prefix="reader") if readers > 1 else None
        self._sender: StreamedSource | None = None
        self._unfinished: deque[_Level] = deque()

    def save(self, source: Source | StreamedSource, parent_tree: bytes = b"") -> bytes:
        """The tree ID of everything in `source`. Raises Interrupted, and whatever storing raises."""
        if isinstance(source, StreamedSource):
            self._sender = source
            self._readers = ThreadPoolExecutor(1, thread_name_prefix="reader")
        root = _Level(source.open_root(), None, *self._before(parent_tree))
        stack = [root]
        try:
            self._list(root)
            while stack:
                level = stack[-1]
                child = self._next_child(level)
                if child is not None:
                    stack.append(child)
                    self._list(child)
                else:
                    self._leave(stack.pop())
            while self._unfinished:
                self._finish(self._unfinished.popleft())
        finally:
            self._close(stack)
        return root.tree_id

    def _list(self, level: _Level) -> None:
        """Look at every entry: what is unchanged is taken over, files are read, directories are left for later."""
        if self._cancelled():
            raise Interrupted("stopped while reading files")
        try:
            entries = level.directory.entries()
        except OSError as error:
            self._failed(level.directory.path, error)
            level.same = False
            return
        before = level.before
        reads: list[_Read] = []
        for entry in entries:
            kind = entry.stat.type
            if kind == "dir":
                level.positions.append(len(level.slots))
                level.subdirectories.append(entry)
                level.slots.append(level)  # replaced when the subdirectory is entered
                continue
            node = before.get(entry.name)
            reused = self._take_over(entry, node)
            if reused is not None:
                level.slots.append(reused)
            elif kind == "file":
                read = _Read(entry, node)
                reads.append(read)
                level.slots.append(read)
            else:
                self._add_other(level, entry)
        level.same = level.same and not reads and len(entries) == len(before)
        self._read(level, reads)

    def _take_over(self, entry: Entry, node: Node | None) -> Node | None:
        """The parent's node if it still says everything, counted; else None."""
        if node is None or self._parent is None:
            return None
        if self._parent.policy.reuse(node, entry.stat) is not Reuse.ALL:
            return None
        if node.type == "file":
            if not self._parent.holds_content(node):
                return None
            self.stats.files_unmodified += 1
            self.stats.size += node.size
            progress = self._reporter.progress
            progress.files_done += 1
            progress.bytes_done += node.size
            if self._reporter.wants_items:
                self._reporter.item(entry.path, "unmodified", node.size)
        else:
            self.stats.others += 1
        return node

    def _add_other(self, level: _Level, entry: Entry) -> None:
        level.same = False
        try:
            node = entry.node()
        except OSError as error:
            self._failed(entry.path, error)
            return
        node.name = entry.name
        level.slots.append(node)
        self.stats.others += 1

    def _read(self, level: _Level, reads: list[_Read]) -> None:
        if self._readers is None:
            self._read_all(level.directory, reads)
            return
        if self._sender is not None:
            self._sender.expect([read.entry for read in reads if self._is_to_be_read(read)])
        for start in range(0, len(reads), _BATCH):
            batch = reads[start : start + _BATCH]
            level.reading.append(self._readers.submit(self._read_all, level.directory, batch))

    def _read_all(self, directory: Directory, reads: list[_Read]) -> None:
        reads = [read for read in reads if read.before is None or not self._reuse_content(read)]
        at = 0
        while at < len(reads):
            self._reporter.progress.current = reads[at].entry.path
            nodes = self._files.save_small(directory, [read.entry for read in reads[at : at + _BATCH]])
            for read, node in zip(reads[at:], nodes, strict=False):
                read.result = node or self._read_one(read.entry)
            self._count_done(reads[at : at + len(nodes)])
            at += len(nodes)

    def _read_one(self, entry: Entry) -> PendingFile | None:
        path = entry.path
        self._reporter.progress.current = path
        try:
            pending, torn = self._save(entry)
        except OSError as error:
            self._failed(path, error)
            return None
        if torn:
            self.stats.warnings += 1
            self._reporter.warn(path, "changed while it was read")
        return pending

    def _save(self, entry: Entry) -> tuple[PendingFile, bool]:
        for _ in range(_MOST_OPENINGS - 1):
            with suppress(StaleFile):
                return self._files.save(entry)
        return self._files.save(entry)

    def _is_to_be_read(self, read: _Read) -> bool:
        """Whether not even the content is known to be unchanged."""
        before, parent = read.before, self._parent
        return before is None or parent is None or parent.policy.reuse(before, read.entry.stat) is Reuse.NOTHING

    def _count_done(self, reads: list[_Read]) -> None:
        progress = self._reporter.progress
        progress.files_done += len(reads)
        for read in reads:
            result = read.result
            if result is not None:
                progress.bytes_done += result.size if isinstance(result, Node) else result.node.size

    def _reuse_content(self, read: _Read) -> bool:
        """Give the file fresh metadata and the parent's content, where only the content is known to be unchanged."""
        before, parent = read.before, self._parent
        if before is None or parent is None or before.type != "file":
            return False
        if parent.policy.reuse(before, read.entry.stat) is Reuse.NOTHING or not parent.holds_content(before):
            return False
        try:
            file = read.entry.open_file()
        except OSError as error:
            self._failed(read.entry.path, error)
            return True
        try:
            node = file.node()
        finally:
            file.close()
        node.name, node.size = read.entry.name, before.size
        node.holes, node.holes_depth = before.holes, before.holes_depth
        node.content, node.content_depth = before.content, before.content_depth
        read.result, read.reused = node, True
        self._count_done([read])
        return True

    def _next_child(self, level: _Level) -> _Level | None:
        """Enter the next subdirectory; None when there is none left."""
        while level.next_subdirectory < len(level.subdirectories):
            at = level.next_subdirectory
            level.next_subdirectory += 1
            entry = level.subdirectories[at]
            before = level.before.get(entry.name)
            try:
                child = self._enter(entry, before)
            except OSError as error:
                self._failed(entry.path, error)
                level.same = False
                continue
            level.slots[level.positions[at]] = child
            return child
        return None

    def _enter(self, entry: Entry, before: Node | None) -> _Level:
        directory = entry.open_directory()
        try:
            whole = (
                before is not None
                and self._parent is not None
                and self._parent.policy.reuse(before, entry.stat) is Reuse.ALL
            )
            node = before if whole else directory.node()
        except OSError:
            directory.close()
            raise
        if node is not None:
            node.name = entry.name
        subtree = before.subtree if before is not None and before.type == "dir" else b""
        level = _Level(directory, node, *self._before(subtree))
        level.same = bool(level.before_id)
        return level

    def _before(self, tree_id: bytes) -> tuple[dict[bytes, Node], bytes]:
        """The parent's nodes, and its tree ID again if the tree may be taken over."""
        if not tree_id or self._parent is None:
            return {}, b""
        try:
            nodes, held = self._parent.nodes(tree_id)
        except DamagedObject as error:
            self._reporter.warn(b"", f"the parent snapshot cannot be used fully: {error}")
            return {}, b""
        return nodes, tree_id if held else b""

    def _leave(self, level: _Level) -> None:
        """The directory is walked: store its tree as soon as its files are."""
        self._unfinished.append(level)
        while self._unfinished and (len(self._unfinished) > _UNFINISHED or _is_ready(self._unfinished[0])):
            self._finish(self._unfinished.popleft())

    def _finish(self, level: _Level) -> None:
        try:
            for job in level.reading:
                job.result()
        finally:
            level.directory.close()
        nodes: list[Node] = []
        for slot in level.slots:
            if isinstance(slot, Node):
                nodes.append(slot)
            elif isinstance(slot, _Read):
                if slot.result is not None:
                    nodes.append(self._finish_file(slot, slot.result))
            elif slot is not level and slot.node is not None:
                nodes.append(self._finish_directory(level, slot, slot.node))
        if level.same and level.before_id and self._saver.holds(level.before_id):
            level.tree_id = level.before_id
        else:
            level.tree_id = save_tree(self._saver, nodes)
        level.slots.clear()

    def _finish_file(self, read: _Read, result: Node | PendingFile) -> Node:
        node = result if isinstance(result, Node) else result.finish(self._saver)
        self.stats.size += node.size
        change: Change = "new" if read.before is None else "changed"
        if read.before is None:
            self.stats.files_new += 1
        elif read.reused:
            self.stats.files_unmodified += 1
            change = "unmodified"
        else:
            self.stats.files_changed += 1
        if self._reporter.wants_items:
            self._reporter.item(read.entry.path, change, node.size)
        return node

    def _finish_directory(self, level: _Level, child: _Level, node: Node) -> Node:
        self.stats.dirs += 1
        if self._reporter.wants_items:
            self._reporter.item(child.directory.path, "unmodified" if child.same else "changed", 0)
        if node.subtree == child.tree_id:
            return node
        level.same = False
        return msgspec.structs.replace(node, subtree=child.tree_id)

    def _failed(self, path: bytes, error: OSError) -> None:
        if error.errno == errno.ENOENT:
            self.stats.warnings += 1
            self._reporter.warn(path, "vanished before it could be read")
            return
        self.stats.errors += 1
        self._reporter.problem(path, error.strerror or str(error))

    def _close(self, stack: list[_Level]) -> None:
        if self._readers is not None:
            self._readers.shutdown(cancel_futures=True)
        for level in (*stack, *self._unfinished):
            level.directory.close()


def _is_ready(level: _Level) -> bool:
    """Whether the level's tree can be stored without waiting."""
    if not all(job.done() for job in level.reading):
        return False
    reads = (slot.result for slot in level.slots if isinstance(slot, _Read))
    return all(result.is_ready() for result in reads if isinstance(result, PendingFile))
