"""Every tree below many roots, each once, read frame by frame and several frames at a time.

A backup stores a directory behind those that lie in it, so what a tree refers to stands mostly in the same frame or in
one before it. Whoever takes the last frame that is asked for first, and follows a tree within its frame at once, opens
each frame about once. The parts of a large directory are trees of their own here.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted, MissingBlob
from bfrepo.core.protocols import BlobLoader, Buffer
from bfrepo.data.node import Node
from bfrepo.data.tree import check_nodes, decode_tree


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree blob: its nodes and the IDs of its parts, or what is wrong with it."""

    id: bytes
    nodes: list[Node]
    part_ids: list[bytes]
    error: BackupForgeError | None = None

    def below(self) -> Iterator[tuple[bytes, bytes]]:
        """The trees that it refers to: (name, ID); a part of it has an empty name."""
        for part_id in self.part_ids:
            yield b"", part_id
        for node in self.nodes:
            if node.type == "dir":
                yield node.name, node.subtree


def open_tree(tree_id: bytes, data: Buffer | DamagedObject) -> Tree:
    """The tree in a blob, with whatever is wrong with it in its `error`."""
    if isinstance(data, DamagedObject):
        return Tree(tree_id, [], [], data)
    try:
        nodes, part_ids = decode_tree(tree_id, data)
        check_nodes(tree_id, nodes)
    except BackupForgeError as error:
        return Tree(tree_id, [], [], error)
    return Tree(tree_id, nodes, part_ids)


def read_forest(loader: BlobLoader, roots: Iterable[bytes], cancelled: Callable[[], bool]) -> Iterator[Tree]:
    """Every tree below `roots`, once each, in no order; one that cannot be read comes with its error.

    Raises Interrupted when `cancelled` says so, and the error of a storage that fails.
    """
    return _Forest(loader, roots).read(cancelled)


class _Forest:
    """The trees that are still to be read, by frame. `_seen` has whatever was ever waiting or read."""

    def __init__(self, loader: BlobLoader, roots: Iterable[bytes]) -> None:
        self._loader = loader
        self._seen: set[bytes] = set()
        self._waiting: dict[int, list[bytes]] = defaultdict(list)
        self._missing: list[Tree] = []
        self._stopped = threading.Event()
        for root in roots:
            self._enqueue(root)

    def read(self, cancelled: Callable[[], bool]) -> Iterator[Tree]:
        workers = self._loader.readers
        running: dict[Future[_FrameTrees], int] = {}
        with ThreadPoolExecutor(workers, thread_name_prefix="trees") as pool:
            try:
                while True:
                    yield from self._take_missing()
                    for frame in self._next_frames(set(running.values()), workers - len(running)):
                        running[pool.submit(self._read_frame, frame, self._waiting.pop(frame))] = frame
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        if cancelled():
                            raise Interrupted("stopped while reading directories")
                        yield from self._finish(running.pop(future), future.result())
            finally:
                self._stopped.set()
                for future in running:
                    future.cancel()

    def _next_frames(self, busy: set[int], count: int) -> list[int]:
        """The last frames that are waited for; a frame is with one thread at a time."""
        return sorted(self._waiting.keys() - busy, reverse=True)[:count]

    def _read_frame(self, frame: int, wanted: list[bytes]) -> _FrameTrees:
        """The trees in one frame, and those in the same frame that they refer to. Runs in a thread of the pool."""
        found = _FrameTrees([], [], {})
        queued = set(wanted)
        for tree_id, data in self._loader.read_frame(frame, wanted):  # which takes up what is added to `wanted`
            tree = open_tree(tree_id, data)
            found.trees.append(tree)
            for _, child in tree.below():
                if child in queued or child in self._seen:
                    continue
                queued.add(child)
                try:
                    place = self._loader.place(child).frame
                except MissingBlob as error:
                    found.missing[child] = error
                    continue
                if place == frame:
                    wanted.append(child)
                else:
                    found.elsewhere.append((place, child))
            if self._stopped.is_set():
                break
        return found

    def _finish(self, frame: int, found: _FrameTrees) -> Iterator[Tree]:
        """Take in what a thread has found. What others have asked for in its frame meanwhile, it may have read."""
        done = {tree.id for tree in found.trees}
        self._seen |= done
        left = [each for each in self._waiting.pop(frame, ()) if each not in done]
        if left:
            self._waiting[frame] = left
        for place, tree_id in found.elsewhere:
            if tree_id not in self._seen:
                self._seen.add(tree_id)
                self._waiting[place].append(tree_id)
        for tree_id, error in found.missing.items():
            self._add_missing(tree_id, error)
        yield from found.trees

    def _enqueue(self, tree_id: bytes) -> None:
        if tree_id in self._seen:
            return
        try:
            self._waiting[self._loader.place(tree_id).frame].append(tree_id)
            self._seen.add(tree_id)
        except MissingBlob as error:
            self._add_missing(tree_id, error)

    def _add_missing(self, tree_id: bytes, error: BackupForgeError) -> None:
        if tree_id not in self._seen:
            self._seen.add(tree_id)
            self._missing.append(Tree(tree_id, [], [], error))

    def _take_missing(self) -> list[Tree]:
        missing, self._missing = self._missing, []
        return missing


@dataclass(frozen=True, slots=True)
class _FrameTrees:
    """What a thread found in a frame: trees, those to be read from other frames, and those that are nowhere."""

    trees: list[Tree]
    elsewhere: list[tuple[int, bytes]]
    missing: dict[bytes, BackupForgeError]
