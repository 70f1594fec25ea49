"""Trees on their way to another repository: what is below them first.

Where both repositories name blobs alike, trees are blobs like others. Otherwise each tree is written anew, from the
leaves up, with the new IDs of all it names. What has been copied before need not be read again: where a snapshot and an
older one that was copied, a *pair* with its copy, have the same directory, the copy of it is taken over; where they
have different ones, the older one and its copy are read side by side, and tell what the files in them are called in
the target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from borghash import HashTable

from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted, MissingBlob
from bfrepo.core.ids import ID_SIZE, short_id
from bfrepo.core.progress import Reporter
from bfrepo.data.node import Node
from bfrepo.data.references import content_ids, list_blobs, walk_trees
from bfrepo.data.rekeying import rekey_tree
from bfrepo.data.tree import load_tree, load_tree_blobs
from bfrepo.operations.copy_blobs import NO_ID, BlobCopier, CopySource
from bfrepo.repository.repository import Repository
from bfrepo.repository.saver import Saver


@dataclass(frozen=True, slots=True)
class Pair:
    """A tree of the source and its copy in the target."""

    old: bytes
    new: bytes


class TreeCopier:
    """Copies trees with all they reach. Used by one thread."""

    def __init__(
        self,
        source: CopySource,
        target: Repository,
        saver: Saver,
        blobs: BlobCopier,
        reporter: Reporter,
        cancelled: Callable[[], bool],
        *,
        trusts_pairs: bool,
    ) -> None:
        self.reused = False
        """Whether some directory was taken over from another snapshot, unread."""
        self._source = source
        self._target = target.loader
        self._sizes = target.index.table
        self._saver = saver
        self._blobs = blobs
        self._reporter = reporter
        self._cancelled = cancelled
        self._trusts_pairs = trusts_pairs
        self._trees = HashTable(key_size=ID_SIZE, value_size=ID_SIZE)

    def copy(self, root: bytes, pair: Pair | None) -> bytes | None:
        """The new ID of a tree; None if something that it reaches cannot be read, which is reported.

        Raises Interrupted and StorageError.
        """
        order = self._gather(root, pair)
        self._blobs.fetch()
        if self._blobs.same_ids:
            return None if self._blobs.lost and self._report_lost(root) else root
        self._rekey(order)
        new: bytes = self._trees[root]
        if new == NO_ID:
            self._report_lost(root)
            return None
        return new

    def _gather(self, root: bytes, pair: Pair | None) -> bytearray:
        """Note all blobs that are needed; the IDs of the trees to write, each behind those below it."""
        order = bytearray()
        stack: list[tuple[bytes, Pair | None, bool]] = [(root, pair, False)]
        while stack:
            tree_id, pair, below_is_done = stack.pop()
            if below_is_done:
                order += tree_id
                continue
            if tree_id in self._trees:
                continue
            if pair is not None and pair.old == tree_id and self._trusts_pairs:
                self._trees[tree_id] = pair.new
                self.reused = True
                continue
            self._trees[tree_id] = NO_ID
            nodes = self._load(tree_id)
            pairs = self._compare(pair, nodes) if pair is not None else {}
            self._want_content(tree_id, nodes)
            stack.append((tree_id, None, True))
            stack += [(node.subtree, pairs.get(node.name), False) for node in reversed(nodes) if node.type == "dir"]
        return order

    def _load(self, tree_id: bytes) -> list[Node]:
        """The nodes of a tree; none of one that cannot be read."""
        if self._cancelled():
            raise Interrupted("stopped while reading directories")
        try:
            nodes, part_ids = self._load_blobs(tree_id)
        except BackupForgeError as error:
            self._source.must_answer(error)
            self._blobs.lost[tree_id] = str(error)
            return []
        if self._blobs.same_ids:
            self._blobs.want([tree_id, *part_ids])
        return nodes

    def _load_blobs(self, tree_id: bytes) -> tuple[list[Node], list[bytes]]:
        try:
            return load_tree_blobs(self._source.loader, tree_id)
        except BackupForgeError:
            if not self._source.look_again():
                raise
            return load_tree_blobs(self._source.loader, tree_id)

    def _want_content(self, tree_id: bytes, nodes: list[Node]) -> None:
        """Note the blobs of the files in a directory."""
        wanted: list[bytes] = []
        loader, same_ids = self._source.loader, self._blobs.same_ids
        try:
            for node in nodes:
                if same_ids:
                    wanted += list_blobs(loader, node)
                if node.content:
                    wanted += content_ids(loader, node)
        except DamagedObject as error:
            self._blobs.lost[tree_id] = str(error)
        self._blobs.want(wanted)

    def _compare(self, pair: Pair, nodes: list[Node]) -> dict[bytes, Pair]:
        """Learn from a directory and its copy what `nodes` share with it; the pairs of directories below."""
        try:
            olds = {node.name: node for node in load_tree(self._source.loader, pair.old)}
            news = {node.name: node for node in load_tree(self._target, pair.new)}
        except BackupForgeError:
            return {}  # a shortcut that is not there: all is read instead
        pairs: dict[bytes, Pair] = {}
        for node in nodes:
            old, new = olds.get(node.name), news.get(node.name)
            if old is None or new is None or old.type != new.type:
                continue
            if old.type == "dir":
                pairs[node.name] = Pair(old.subtree, new.subtree)
            elif node.content:
                self._learn(old, new)
        return pairs

    def _learn(self, old: Node, new: Node) -> None:
        """What the blobs of a file are called in the target, from the file and its copy."""
        try:
            old_ids, new_ids = content_ids(self._source.loader, old), content_ids(self._target, new)
        except BackupForgeError:
            return
        sizes = self._source.loader.table.data_sizes(old_ids)
        if len(old_ids) == len(new_ids) and sizes == self._sizes.data_sizes(new_ids):
            self._blobs.learn(old_ids, new_ids)

    def _rekey(self, order: bytearray) -> None:
        """Write trees with new IDs. One that needs what was lost gets none."""
        for at in range(0, len(order), ID_SIZE):
            tree_id = bytes(order[at : at + ID_SIZE])
            if tree_id in self._blobs.lost:
                continue
            if self._cancelled():
                raise Interrupted("stopped while writing directories")
            try:
                self._trees[tree_id] = rekey_tree(
                    self._source.loader,
                    self._saver,
                    tree_id,
                    data_ids=self._blobs.new_ids,
                    subtree_id=self._new_tree_id,
                )
            except DamagedObject:
                continue  # whoever asks for the root finds no new ID, and looks for the reasons

    def _new_tree_id(self, old: bytes) -> bytes:
        new: bytes = self._trees.get(old, NO_ID)
        if new == NO_ID:
            raise MissingBlob(f"tree {short_id(old)} was not copied")
        return new

    def _report_lost(self, root: bytes) -> int:
        """Name the files and directories below a tree that are not in the target; how many."""
        count = 0
        for tree in walk_trees(self._source.loader, root, set()):
            why = str(tree.error) if tree.error else self._why_missing([tree.tree_id, *tree.part_ids])
            if why:
                self._reporter.problem(tree.path, why)
                count += 1
            for node in tree.nodes:
                why = self._why_node_is_missing(node)
                if why:
                    self._reporter.problem(tree.path.rstrip(b"/") + b"/" + node.name, why)
                    count += 1
        return count

    def _why_node_is_missing(self, node: Node) -> str | None:
        try:
            needed = list_blobs(self._source.loader, node) + content_ids(self._source.loader, node)
        except BackupForgeError as error:
            return str(error)
        return self._why_missing(needed)

    def _why_missing(self, needed: list[bytes]) -> str | None:
        """What is wrong with the first of these blobs that is not in the target. Exact where both name blobs alike."""
        lost, holds = self._blobs.lost, self._saver.holds
        if self._blobs.same_ids:
            return next(
                (lost.get(each, f"blob {short_id(each)} was not copied") for each in needed if not holds(each)), None
            )
        return next((lost[each] for each in needed if each in lost), None)
