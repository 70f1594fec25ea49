"""Finding things in many snapshots: entries by name, or by the blob, pack or tree that they use.

Every tree is looked into once, however many snapshots share it; then it is said for each snapshot where in it what was
found is. Where there is a catalogue (`bfrepo.operations.catalogue`), names are looked up in it, and trees are read only
of snapshots that it does not have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import hexdigits
from typing import Final, Literal, Protocol, TypeAlias

from bfrepo.catalogue.catalogue import Catalogue
from bfrepo.core.errors import BackupForgeError, DamagedObject, Interrupted, InvalidValue
from bfrepo.core.ids import ID_SIZE, MIN_PREFIX, resolve_prefix
from bfrepo.core.progress import Reporter
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.forest import Tree, read_forest
from bfrepo.data.node import Node
from bfrepo.data.references import content_ids, list_blobs
from bfrepo.data.snapshot import Snapshot
from bfrepo.data.trail import Found, Trail, TrailMaker
from bfrepo.index.table import BlobTable
from bfrepo.repository.repository import Repository
from bfrepo.sources.query import NameQuery

UsedKind: TypeAlias = Literal["blob", "pack", "tree"]

_DIRECTORY: Final = Node(name=b"", type="dir")
"""Stands for the directory whose tree it is that was looked for."""


@dataclass(frozen=True, slots=True)
class Match:
    """One entry that was found: its raw absolute path in the snapshot, and its node.

    Out of a catalogue the node has no content, attributes or inode. `object_id` is the blob on account of which it was
    found; empty where its name was looked for.
    """

    path: bytes
    node: Node
    object_id: bytes = b""


@dataclass(frozen=True, slots=True)
class SnapshotMatches:
    """What was found in one snapshot, sorted by path."""

    snapshot_id: bytes
    snapshot: Snapshot
    matches: list[Match]


class _Query(Protocol):
    """What is looked for: what of a tree comes into question, and whether its path fits in the end."""

    def select(self, tree: Tree) -> list[Found]: ...
    def fits(self, path: bytes, node: Node) -> bool: ...


_Part: TypeAlias = tuple[Trail, Mapping[bytes, int]]
"""A trail, and the numbers of the root trees of the snapshots it is about, by snapshot ID."""


def find_names(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    query: NameQuery,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    *,
    catalogue: Catalogue | None = None,
) -> Iterator[SnapshotMatches]:
    """What has a name that is looked for, in each snapshot that has any, in the order of `snapshots`.

    The same with a catalogue and without. What cannot be read is reported. Raises Interrupted.
    """
    names = _Names(query)
    parts: list[_Part] = []
    rest = dict(snapshots)
    if catalogue is not None:
        parts.append(catalogue.search(query, snapshots))
        rest = {identifier: each for identifier, each in snapshots.items() if identifier not in parts[0][1]}
    parts.append(_walk(repository, rest, names, reporter, cancelled))
    return _tell(snapshots, parts, names, reporter, cancelled)


def find_objects(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    kind: UsedKind,
    prefixes: Sequence[str],
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> Iterator[SnapshotMatches]:
    """Which files and directories use blobs, packs or trees, given by the starts of their IDs.

    A directory uses the blobs of its own tree, a file those of its content and of its own long lists. What cannot be
    read is reported. Raises InvalidValue, for a pack ObjectNotFound or AmbiguousPrefix, and Interrupted.
    """
    table = repository.refresh_index().table
    wanted = _in_packs(table, prefixes) if kind == "pack" else _with_prefix(prefixes, kind)
    query = _Objects(repository.loader, wanted, reporter, only_trees=kind == "tree")
    return _tell(snapshots, [_walk(repository, snapshots, query, reporter, cancelled)], query, reporter, cancelled)


def _walk(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    query: _Query,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> _Part:
    """Look into every tree of the snapshots."""
    maker = TrailMaker()
    roots = {identifier: maker.number(snapshot.tree) for identifier, snapshot in snapshots.items()}
    if roots:
        repository.refresh_index()
        for tree in read_forest(repository.loader, {each.tree for each in snapshots.values()}, cancelled):
            maker.add(tree, query.select(tree))
            reporter.progress.files_done += len(tree.nodes)
    return maker.finish(), roots


def _tell(
    snapshots: Mapping[bytes, Snapshot],
    parts: Sequence[_Part],
    query: _Query,
    reporter: Reporter,
    cancelled: Callable[[], bool],
) -> Iterator[SnapshotMatches]:
    """Go down to what was found. A tree that cannot be read is reported once, where it is met first."""
    reported: set[BackupForgeError] = set()
    for identifier, snapshot in snapshots.items():
        if cancelled():
            raise Interrupted("stopped while telling what was found")
        trail, root = next((trail, roots[identifier]) for trail, roots in parts if identifier in roots)
        matches = []
        for path, found in trail.follow(root):
            if isinstance(found, Found):
                if query.fits(path, found.node):
                    matches.append(Match(path, found.node, found.object_id))
            elif found not in reported:
                reported.add(found)
                reporter.problem(path, str(found))
        if matches:
            yield SnapshotMatches(identifier, snapshot, sorted(matches, key=lambda each: (each.path, each.object_id)))


class _Names:
    """A query by name and path."""

    def __init__(self, query: NameQuery) -> None:
        self._query = query

    def select(self, tree: Tree) -> list[Found]:
        return [Found(node) for node in self._query.select(tree.nodes)]

    def fits(self, path: bytes, node: Node) -> bool:
        return self._query.fits(path, is_dir=node.type == "dir")


class _Objects:
    """A query by the blobs that something uses."""

    def __init__(
        self, loader: BlobLoader, wanted: Callable[[bytes], bool], reporter: Reporter, *, only_trees: bool
    ) -> None:
        self._loader = loader
        self._wanted = wanted
        self._reporter = reporter
        self._only_trees = only_trees

    def select(self, tree: Tree) -> list[Found]:
        found = [Found(_DIRECTORY, tree.id)] if self._wanted(tree.id) else []
        if not self._only_trees:
            for node in tree.nodes:
                if node.content or node.holes:
                    found += [Found(node, each) for each in dict.fromkeys(self._blobs(node)) if self._wanted(each)]
        return found

    def fits(self, path: bytes, node: Node) -> bool:
        return True

    def _blobs(self, node: Node) -> list[bytes]:
        try:
            return content_ids(self._loader, node) + list_blobs(self._loader, node)
        except DamagedObject as error:
            self._reporter.problem(node.name, str(error))
            return []


def _with_prefix(prefixes: Sequence[str], kind: UsedKind) -> Callable[[bytes], bool]:
    """Whether an ID starts with any of the prefixes."""
    texts = tuple(prefix.lower() for prefix in prefixes)
    for prefix, text in zip(prefixes, texts, strict=True):
        if not MIN_PREFIX <= len(text) <= 2 * ID_SIZE or not set(text) <= set(hexdigits):
            raise InvalidValue(f"{prefix!r} is not a {kind} ID: give at least {MIN_PREFIX} hex digits")
    whole_bytes = tuple(bytes.fromhex(text[: len(text) // 2 * 2]) for text in texts)
    return lambda blob_id: blob_id.startswith(whole_bytes) and blob_id.hex().startswith(texts)


def _in_packs(table: BlobTable, prefixes: Sequence[str]) -> Callable[[bytes], bool]:
    """Whether a blob is in any of the packs, be it the copy that is used or another."""
    packs = {pack.id: pack for pack in table.packs()}
    frames = [packs[resolve_prefix(prefix, packs, what="pack")].frames for prefix in prefixes]
    return lambda blob_id: any(copy.frame in each for copy in table.copies(blob_id) for each in frames)
