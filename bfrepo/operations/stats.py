"""What snapshots cost: by snapshot and together.

    restore size   bytes of all files, as a restore writes them; the names of one hard-linked file count once
    unique         plaintext of the different blobs a snapshot reaches, data and trees
    stored         what those blobs take in the packs: each frame's stored bytes, shared out by plaintext length

Every tree is loaded once, however many snapshots share it. Blobs are counted by number rather than by ID from there on,
so that a hundred snapshots of a hundred thousand files take seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted
from bfrepo.core.progress import Reporter
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.references import content_ids, list_blobs, walk_trees
from bfrepo.data.snapshot import Snapshot
from bfrepo.data.tree import load_tree_blobs
from bfrepo.index.table import BlobTable
from bfrepo.repository.repository import Repository


@dataclass(slots=True, kw_only=True)
class Sizes:
    """Counts and bytes, as the head of this file explains them. `stored` is None where nobody asked for it."""

    files: int = 0
    restore_size: int = 0
    blobs: int = 0
    unique: int = 0
    stored: int = 0


@dataclass(frozen=True, slots=True)
class StatsResult:
    """The sizes of each snapshot, and of all of them together: files add up there, blobs count once.

    `repository_size` is what all packs take, whether a snapshot needs what is in them or not.
    """

    snapshots: dict[bytes, Sizes]
    total: Sizes
    packs: int
    repository_size: int


@dataclass(frozen=True, slots=True)
class ContentSizes:
    """Files with equal content counted once: how many, their bytes, and the blobs of each and their bytes."""

    files: int
    size: int
    blobs: int
    blob_size: int


def stats(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> StatsResult:
    """Add up snapshots. What cannot be read is reported and not counted. Raises Interrupted."""
    table = repository.refresh_index().table
    forest = _Forest(repository.loader, table, reporter, cancelled)
    found: dict[bytes, Sizes] = {}
    everything: set[int] = set()
    total = Sizes()
    for identifier, snapshot in snapshots.items():
        reach = forest.reach(snapshot.tree)
        everything |= reach.blobs
        found[identifier] = forest.sizes(reach)
        total.files += found[identifier].files
        total.restore_size += found[identifier].restore_size
    total.blobs, total.unique, total.stored = forest.blob_sizes(everything)
    packs = list(table.packs())
    return StatsResult(found, total, len(packs), sum(pack.size for pack in packs))


def total_sizes(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> Sizes:
    """What snapshots cost together, as `total` of `stats`, in the time that one snapshot of all their trees would take.

    What cannot be read is reported and not counted. Raises Interrupted. The index has to be fresh.
    """
    forest = _Forest(repository.loader, repository.index.table, reporter, cancelled)
    total = Sizes()
    for snapshot in snapshots.values():
        files, size = forest.restore_size(snapshot.tree)
        total.files += files
        total.restore_size += size
    total.blobs, total.unique, total.stored = forest.all_blob_sizes()
    return total


def content_stats(
    repository: Repository, snapshots: Iterable[Snapshot], reporter: Reporter, cancelled: Callable[[], bool]
) -> ContentSizes:
    """Add up the different files of snapshots. What cannot be read is reported and not counted. Raises Interrupted."""
    table, loader = repository.refresh_index().table, repository.loader
    seen_trees: set[bytes] = set()
    contents: set[tuple[bytes, bytes, int]] = set()
    size = blobs = blob_size = 0
    for snapshot in snapshots:
        for tree in walk_trees(loader, snapshot.tree, seen_trees):
            _check(cancelled)
            if tree.error is not None:
                reporter.problem(tree.path, str(tree.error))
            for node in tree.nodes:
                key = (node.content, node.holes, node.size)
                if node.type != "file" or key in contents:
                    continue
                contents.add(key)
                size += node.size
                known = [
                    each for each in table.data_sizes(list(set(_ids(loader, node, tree.path, reporter)))) if each > 0
                ]
                blobs += len(known)
                blob_size += sum(known)
    return ContentSizes(len(contents), size, blobs, blob_size)


@dataclass(slots=True)
class _Tree:
    """What one directory holds itself, and what it holds with all below it."""

    blobs: list[int]
    subtrees: list[bytes]
    links: list[tuple[tuple[int, int], int]]
    files: int
    size: int
    all_files: int = 0
    all_size: int = 0
    has_links: bool = False


@dataclass(slots=True)
class _Reach:
    files: int
    size: int
    blobs: set[int] = field(default_factory=set)


class _Forest:
    """All trees met so far, and all blobs by number."""

    def __init__(self, loader: BlobLoader, table: BlobTable, reporter: Reporter, cancelled: Callable[[], bool]) -> None:
        self._loader = loader
        self._table = table
        self._reporter = reporter
        self._cancelled = cancelled
        self._trees: dict[bytes, _Tree] = {}
        self._numbers: dict[bytes, int] = {}
        self._blob_sizes: list[int] = []
        self._blob_shares: list[float] = []
        self._frames: dict[int, float] = {}

    def reach(self, root: bytes) -> _Reach:
        """What a root tree reaches."""
        self._load_below(root)
        tree = self._trees[root]
        reach = _Reach(tree.all_files, tree.all_size)
        links: dict[tuple[int, int], int] = {}
        seen, stack = {root}, [root]
        while stack:
            tree = self._trees[stack.pop()]
            reach.blobs.update(tree.blobs)
            links.update(tree.links)
            fresh = [each for each in tree.subtrees if each not in seen]
            seen.update(fresh)
            stack += fresh
        reach.size += sum(links.values())
        return reach

    def restore_size(self, root: bytes) -> tuple[int, int]:
        """Files and bytes of a root tree, looking only where hard links are."""
        self._load_below(root)
        links: dict[tuple[int, int], int] = {}
        seen, stack = {root}, [root]
        while stack:
            tree = self._trees[stack.pop()]
            links.update(tree.links)
            fresh = [each for each in tree.subtrees if each not in seen and self._trees[each].has_links]
            seen.update(fresh)
            stack += fresh
        top = self._trees[root]
        return top.all_files, top.all_size + sum(links.values())

    def all_blob_sizes(self) -> tuple[int, int, int]:
        """As `blob_sizes` for all that was met."""
        return len(self._blob_sizes), sum(self._blob_sizes), round(sum(self._blob_shares))

    def sizes(self, reach: _Reach) -> Sizes:
        """The reach in numbers."""
        blobs, unique, stored = self.blob_sizes(reach.blobs)
        return Sizes(files=reach.files, restore_size=reach.size, blobs=blobs, unique=unique, stored=stored)

    def blob_sizes(self, numbers: set[int]) -> tuple[int, int, int]:
        """How many blobs, their plaintext, and what they take in the packs."""
        unique = sum(map(self._blob_sizes.__getitem__, numbers))
        return len(numbers), unique, round(sum(map(self._blob_shares.__getitem__, numbers)))

    def _load_below(self, root: bytes) -> None:
        """Load what is not known yet, and add up directories after those below them."""
        stack = [(root, b"/", False)]
        while stack:
            tree_id, path, below_is_known = stack.pop()
            if below_is_known:
                self._add_up(self._trees[tree_id])
                continue
            if tree_id in self._trees:
                continue
            _check(self._cancelled)
            nodes = self._load(tree_id, path)
            stack.append((tree_id, path, True))
            stack += [(node.subtree, path + node.name + b"/", False) for node in nodes if node.type == "dir"]

    def _add_up(self, tree: _Tree) -> None:
        below = [self._trees[each] for each in tree.subtrees]
        tree.all_files = tree.files + sum(each.all_files for each in below)
        tree.all_size = tree.size + sum(each.all_size for each in below)
        tree.has_links = bool(tree.links) or any(each.has_links for each in below)

    def _load(self, tree_id: bytes, path: bytes) -> list[Node]:
        try:
            nodes, parts = load_tree_blobs(self._loader, tree_id)
        except DamagedObject as error:
            self._reporter.problem(path, str(error))
            self._trees[tree_id] = _Tree([], [], [], 0, 0)
            return []
        files = [node for node in nodes if node.type == "file"]
        identifiers = [tree_id, *parts]
        for node in files:
            identifiers += _ids(self._loader, node, path, self._reporter)
        self._trees[tree_id] = _Tree(
            blobs=list(self._number(identifiers, path)),
            subtrees=[node.subtree for node in nodes if node.type == "dir"],
            links=[((node.device, node.inode), node.size) for node in files if node.links > 1],
            files=len(files),
            size=sum(node.size for node in files if node.links <= 1),
        )
        self._reporter.progress.files_done += len(files)
        return nodes

    def _number(self, identifiers: Sequence[bytes], path: bytes) -> Iterable[int]:
        """The numbers of blobs, which are given to those that have none. A blob that is missing gets none."""
        numbers = self._numbers
        for blob_id in identifiers:
            number = numbers.get(blob_id)
            if number is None:
                try:
                    place = self._table.place(blob_id)
                except BackupForgeError as error:
                    self._reporter.problem(path, str(error))
                    continue
                number = numbers[blob_id] = len(numbers)
                self._blob_sizes.append(place.size)
                self._blob_shares.append(place.size * self._stored_per_byte(place.frame))
            yield number

    def _stored_per_byte(self, number: int) -> float:
        ratio = self._frames.get(number)
        if ratio is None:
            frame = self._table.frame(number)
            ratio = self._frames[number] = frame.stored_size / max(frame.plain_size, 1)
        return ratio


def _ids(loader: BlobLoader, node: Node, path: bytes, reporter: Reporter) -> list[bytes]:
    """All blobs of a file: its data, and those that hold its own long lists."""
    try:
        return content_ids(loader, node) + list_blobs(loader, node)
    except DamagedObject as error:
        reporter.problem(path + node.name, str(error))
        return []


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise Interrupted("stopped while adding up")
