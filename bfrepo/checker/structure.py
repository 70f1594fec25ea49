"""The first walk: is all there that the snapshots need? It only says yes or where to look closer, and is fast.

Every tree is loaded once, so its blob is read and proved; of the content of files only the index is asked: is each blob
known as data, and do the sizes add up?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from bfrepo.checker.content import content_fault
from bfrepo.core.errors import BackupForgeError, Interrupted
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import BlobLoader, BlobSizes
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, record_blobs
from bfrepo.data.references import ReachedTree, content_ids, walk_trees
from bfrepo.data.tree import decode_tree

_FILES_AT_ONCE: Final = 4096
"""So many files are compared with the index at a time; a single one costs several times its share."""


@dataclass(slots=True)
class Survey:
    """What the first walk found. `doubtful` are blobs that something is wrong with, or with what refers to them."""

    trees: int = 0
    nodes: int = 0
    doubtful: set[bytes] = field(default_factory=set)


def survey_trees(
    loader: BlobLoader,
    sizes: BlobSizes,
    roots: Iterable[bytes],
    progress: Progress,
    cancelled: Callable[[], bool],
) -> Survey:
    """Walk everything below `roots`, each tree once. Raises Interrupted when `cancelled` says so."""
    survey = Survey()
    seen: set[bytes] = set()
    files = _SmallFiles(sizes, survey.doubtful)
    for root in roots:
        for tree in walk_trees(loader, root, seen):
            if cancelled():
                raise Interrupted("stopped while checking trees")
            survey.trees += 1
            survey.nodes += len(tree.nodes)
            progress.files_done = survey.nodes
            progress.current = tree.path
            _survey_tree(loader, sizes, tree, files, survey.doubtful)
    files.compare()
    return survey


class _SmallFiles:
    """Files of one blob each: most of all there are."""

    def __init__(self, sizes: BlobSizes, doubtful: set[bytes]) -> None:
        self._sizes = sizes
        self._doubtful = doubtful
        self._waiting: list[tuple[bytes, list[Node]]] = []
        self._count = 0

    def add(self, tree_id: bytes, nodes: list[Node]) -> None:
        """Have files of a tree compared, at last by `compare`."""
        self._waiting.append((tree_id, nodes))
        self._count += len(nodes)
        if self._count >= _FILES_AT_ONCE:
            self.compare()

    def compare(self) -> None:
        """Compare the files that wait with the index."""
        nodes = list(chain.from_iterable(nodes for _, nodes in self._waiting))
        known = self._sizes.data_sizes([node.content for node in nodes])
        if known != [node.size for node in nodes]:
            rest = iter(known)
            for tree_id, of_tree in self._waiting:
                wrong = [node.content for node in of_tree if next(rest) != node.size]
                self._doubtful.update(wrong, (tree_id,) if wrong else ())
        self._waiting.clear()
        self._count = 0


def _survey_tree(
    loader: BlobLoader, sizes: BlobSizes, tree: ReachedTree, small: _SmallFiles, doubtful: set[bytes]
) -> None:
    if tree.error is not None:
        doubtful.update(tree_blobs(loader, tree.tree_id))
        return
    files = [node for node in tree.nodes if node.type == "file"]
    whole = [node for node in files if len(node.content) == ID_SIZE and not (node.content_depth or node.holes)]
    small.add(tree.tree_id, whole)
    if len(whole) == len(files):
        return
    for node in files:
        if len(node.content) == ID_SIZE and not (node.content_depth or node.holes):
            continue
        if (node.content or node.size or node.holes) and file_fault(loader, sizes, node) is not None:
            doubtful.update(file_blobs(loader, node), (tree.tree_id,))


def file_fault(loader: BlobLoader, sizes: BlobSizes, node: Node) -> str | None:
    """What is wrong with a file's list of blobs, its holes or its size, or None."""
    try:
        blob_ids = content_ids(loader, node)
        holes = load_records(loader, node.holes, node.holes_depth)
    except BackupForgeError as error:
        return str(error)
    return content_fault(node.size, holes, sizes.data_sizes(blob_ids))


def file_blobs(loader: BlobLoader, node: Node) -> list[bytes]:
    """The IDs of all blobs that a file needs, as far as they can be found out."""
    found: list[bytes] = []
    for packed, depth in ((node.holes, node.holes_depth), (node.content, node.content_depth)):
        with suppress(BackupForgeError):
            found.extend(record_blobs(loader, packed, depth))
    with suppress(BackupForgeError):
        found.extend(content_ids(loader, node))
    return found


def tree_blobs(loader: BlobLoader, tree_id: bytes) -> list[bytes]:
    """The IDs of all blobs that a tree consists of, as far as they can be found out."""
    try:
        return [tree_id, *decode_tree(tree_id, loader.load(BlobKind.TREE, tree_id))[1]]
    except BackupForgeError:
        return [tree_id]
