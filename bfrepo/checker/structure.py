"""The first walk: is all there that the snapshots need? It only says yes or where to look closer, and is fast.

Every tree is loaded once, so its blob is read and proved; of the content of files only the index is asked: is each blob
known as data, and do the sizes add up?
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from bfrepo.checker.content import content_fault
from bfrepo.core.errors import BackupForgeError, Interrupted
from bfrepo.core.ids import ID_SIZE, BlobKind
from bfrepo.core.progress import Progress
from bfrepo.core.protocols import BlobLoader, BlobSizes
from bfrepo.data.node import Node
from bfrepo.data.records import load_records, record_blobs
from bfrepo.data.references import ReachedTree, content_ids, walk_trees
from bfrepo.data.tree import decode_tree


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
    for root in roots:
        for tree in walk_trees(loader, root, seen):
            if cancelled():
                raise Interrupted("stopped while checking trees")
            survey.trees += 1
            survey.nodes += len(tree.nodes)
            progress.files_done = survey.nodes
            progress.current = tree.path
            _survey_tree(loader, sizes, tree, survey.doubtful)
    return survey


def _survey_tree(loader: BlobLoader, sizes: BlobSizes, tree: ReachedTree, doubtful: set[bytes]) -> None:
    if tree.error is not None:
        doubtful.update(tree_blobs(loader, tree.tree_id))
        return
    whole: list[Node] = []
    for node in tree.nodes:
        if node.type == "file":
            if len(node.content) == ID_SIZE and not node.content_depth and not node.holes:
                whole.append(node)
            elif (node.content or node.size or node.holes) and file_fault(loader, sizes, node) is not None:
                doubtful.update(file_blobs(loader, node), (tree.tree_id,))
    known = sizes.data_sizes([node.content for node in whole])
    if known != [node.size for node in whole]:
        wrong = (node.content for node, size in zip(whole, known, strict=True) if node.size != size)
        doubtful.update(wrong, (tree.tree_id,))


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
