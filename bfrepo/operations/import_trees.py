"""Trees and chunks of a restic repository on their way into ours.

Chunks stay as they are cut, so that a file is the same list of chunks under other IDs, and nothing is cut or hashed
twice. What a snapshot needs is found first, from its trees; then it is fetched pack by pack, by several threads; then
each tree is written anew, from the leaves up.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from borghash import HashTable

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import DamagedObject, Interrupted, MissingBlob
from bfrepo.core.ids import ID_SIZE, BlobKind, short_id
from bfrepo.core.progress import Reporter
from bfrepo.data.node import Node, NodeType, is_safe_name
from bfrepo.data.records import save_records
from bfrepo.data.tree import save_tree
from bfrepo.operations.import_map import NO_ID, ImportMap
from bfrepo.repository.saver import Saver
from bfrepo.restic.records import NodeRecord, link_target, nanoseconds, raw_name, unix_mode, xattrs
from bfrepo.restic.repository import ResticRepository

_TYPES: Final[dict[str, NodeType]] = {
    "file": "file", "dir": "dir", "symlink": "symlink", "dev": "blockdev", "chardev": "chardev", "fifo": "fifo",
    "socket": "socket",
}  # fmt: skip
_LONGEST_NAME: Final = 4096


class _BelowFailed(Exception):
    """A directory below could not be imported, and that was reported."""


class TreeImporter:
    """Imports trees with all they reach. Used by one thread."""

    def __init__(
        self,
        source: ResticRepository,
        saver: Saver,
        blobs: ImportMap,
        reporter: Reporter,
        cancelled: Callable[[], bool],
    ) -> None:
        self._source = source
        self._saver = saver
        self._blobs = blobs
        self._reporter = reporter
        self._cancelled = cancelled
        self._trees = HashTable(key_size=ID_SIZE, value_size=ID_SIZE)
        self._threads = max(native_threads(), source.backend.connections)

    def run(self, root: bytes) -> bytes | None:
        """Our ID of a tree; None if something that it reaches cannot be read, which is reported.

        Raises Interrupted and StorageError.
        """
        order = self._gather(root)
        if order is None:
            return None
        whole = True
        for tree_id, path in order:
            if self._cancelled():
                raise Interrupted("the import was interrupted")
            try:
                self._trees[tree_id] = self._convert(tree_id, path)
            except _BelowFailed:
                whole = False
            except DamagedObject as error:
                self._reporter.problem(path, str(error))
                whole = False
        return self._trees.get(root) if whole else None

    def _gather(self, root: bytes) -> list[tuple[bytes, bytes]] | None:
        """The trees that are new, those below before those above, with a path of each; and fetch what they name."""
        order: list[tuple[bytes, bytes]] = []
        wanted = array("I")
        seen: set[bytes] = set()
        whole = True
        stack = [(root, b"/", False)]
        while stack:
            tree_id, path, is_done = stack.pop()
            if is_done:
                order.append((tree_id, path))
                continue
            if tree_id in seen or tree_id in self._trees:
                continue
            seen.add(tree_id)
            if self._cancelled():
                raise Interrupted("the import was interrupted")
            stack.append((tree_id, path, True))
            try:
                for node in self._source.load_tree(tree_id).nodes or ():
                    if node.type == "dir" and node.subtree:
                        stack.append((bytes.fromhex(node.subtree), path + node.name.encode() + b"/", False))
                    elif node.content and node.type == "file":
                        self._want(node.content, wanted)
            except DamagedObject as error:
                self._reporter.problem(path, str(error))
                whole = False
        self._fetch(wanted)
        return order if whole else None

    def _want(self, content: Sequence[str], wanted: array[int]) -> None:
        """Note what is not in the target yet. What is nowhere is found out when the file is converted."""
        for name in content:
            blob_id = bytes.fromhex(name)
            if self._blobs.get(blob_id) is None:
                self._blobs.expect(blob_id)
                number = self._source.index.find(blob_id)
                if number is not None and not self._source.index.is_tree(number):
                    wanted.append(number)

    def _fetch(self, wanted: array[int]) -> None:
        progress = self._reporter.progress
        under_way: deque[tuple[list[int], Future[list[bytes | None]]]] = deque()
        index = self._source.index
        progress.bytes_total = (progress.bytes_total or 0) + sum(index.copy(number).plain for number in wanted)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="import") as pool:
            try:
                for run in self._source.runs(wanted):
                    if self._cancelled():
                        raise Interrupted("the import was interrupted")
                    under_way.append((run, pool.submit(self._store, run)))
                    if len(under_way) > 2 * self._threads:
                        self._note(*under_way.popleft())
                while under_way:
                    self._note(*under_way.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _store(self, run: list[int]) -> list[bytes | None]:
        """Read some chunks, and store them; our ID of each."""
        plains = self._source.read_run(run)
        good = [plain for plain in plains if plain]
        data = memoryview(b"".join(good))
        new_ids = iter(self._saver.save_many(BlobKind.DATA, data, list(map(len, good))))
        self._reporter.progress.bytes_done += len(data)
        return [next(new_ids) if plain else None for plain in plains]

    def _note(self, run: list[int], stored: Future[list[bytes | None]]) -> None:
        for number, new_id in zip(run, stored.result(), strict=True):
            if new_id is not None:
                self._blobs.put(self._source.index.id_of(number), new_id)

    def _convert(self, tree_id: bytes, path: bytes) -> bytes:
        nodes: dict[bytes, Node] = {}
        for record in self._source.load_tree(tree_id).nodes or ():
            kind = _TYPES.get(record.type)
            if kind is None:
                self._reporter.warn(path + record.name.encode(), f"left out: a {record.type or 'nameless type'}")
                continue
            try:
                node = self._node(record, kind)
            except ValueError as error:
                raise DamagedObject(f"{record.name!r} does not decode: {error}") from error
            if not is_safe_name(node.name) or len(node.name) > _LONGEST_NAME or node.name in nodes:
                raise DamagedObject(f"{record.name!r} is a name that is not allowed, or there twice")
            nodes[node.name] = node
        return save_tree(self._saver, [nodes[name] for name in sorted(nodes)])

    def _node(self, record: NodeRecord, kind: NodeType) -> Node:
        """The entry, as a backup of ours would have it. Raises ValueError, DamagedObject."""
        linked = record.links > 1 and kind != "dir"
        mtime_ns, atime_ns = nanoseconds(record.mtime), record.atime != record.mtime and nanoseconds(record.atime)
        node = Node(
            name=raw_name(record.name),
            type=kind,
            mode=unix_mode(record.mode),
            uid=record.uid,
            gid=record.gid,
            user=record.user,
            group=record.group,
            mtime_ns=mtime_ns,
            ctime_ns=nanoseconds(record.ctime),
            atime_ns=atime_ns or None,
            inode=record.inode,
            device=record.device_id if linked else 0,
            links=min(record.links, 0xFFFF_FFFF) if linked else 1,
            rdev=record.device if kind in ("blockdev", "chardev") else 0,
            xattrs=xattrs(record),
        )
        if kind == "file":
            self._add_content(node, record.content or ())
        elif kind == "symlink":
            node.target = link_target(record)
        elif kind == "dir":
            subtree = self._trees.get(bytes.fromhex(record.subtree)) if record.subtree else None
            if subtree is None:
                raise _BelowFailed
            node.subtree = subtree
        return node

    def _add_content(self, node: Node, content: Sequence[str]) -> None:
        """The chunks of a file. Its size is what they add up to: restic checks neither."""
        index = self._source.index
        new_ids = []
        for name in content:
            blob_id = bytes.fromhex(name)
            new_id, number = self._blobs.get(blob_id), index.find(blob_id)
            if new_id is None or new_id == NO_ID or number is None:
                raise MissingBlob(f"{node.name!r}: its chunk {short_id(blob_id)} is missing or damaged")
            node.size += index.copy(number).plain
            new_ids.append(new_id)
        node.content, node.content_depth = save_records(self._saver, b"".join(new_ids), ID_SIZE)
