"""Rewriting: snapshots without the paths that patterns name. Trees are read and written, the files' data never.

    all trees     every directory of every snapshot, once for each path it is at; a tree with nothing left out below it
                  keeps its ID; what remains is counted
    store         the trees that are new
    succeed       the new snapshots, each published before its original goes, if it is to go (succession.py)

Nothing is published before all trees of all snapshots were read: one that cannot be read ends the rewriting, and
nothing has changed. Originals that stay are told from the new ones by the tag of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from bfrepo.core.errors import DamagedObject, Interrupted, UnsupportedFormat
from bfrepo.core.ids import short_id
from bfrepo.core.progress import Reporter
from bfrepo.core.protocols import BlobLoader, BlobSaver
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.data.tree import load_tree, save_tree, stored_nodes, with_subtree
from bfrepo.operations.missing_packs import distrust_missing_packs
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.succession import publish_successor, remove_predecessor, storing, successor
from bfrepo.repository.repository import Repository
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.storage.discard import DiscardingBackend

REWRITTEN_TAG: Final = "rewrite"
"""What a new snapshot is tagged with while its original stays; the same tag that restic uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewriteOptions:
    """What to leave out: `rules` judge every path, also those above what was backed up; `patterns` are for the record.

    `forget` removes the originals.
    """

    rules: ExcludeRules
    patterns: tuple[str, ...]
    forget: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A snapshot that changes: the old one and the new one, whose ID is empty while it is not stored."""

    old_id: bytes
    old: Snapshot
    new: Snapshot
    new_id: bytes = b""


@dataclass(slots=True)
class RewriteResult:
    """What was rewritten, or would be, and how many snapshots hold nothing of what is left out.

    `done_before` are those whose originals stay beside what an earlier run has made of them.
    """

    rewritten: list[Rewritten] = field(default_factory=list)
    unchanged: int = 0
    done_before: int = 0


def rewrite(
    repository: Repository,
    snapshots: Mapping[bytes, Snapshot],
    options: RewriteOptions,
    reporter: Reporter,
    cancelled: Callable[[], bool],
    on_rewritten: Callable[[Rewritten], None] = lambda done: None,
) -> RewriteResult:
    """Make new snapshots of `snapshots`, without what the rules leave out.

    One that would be empty, or was removed by somebody meanwhile, is told and left as it is. Raises DamagedObject or
    UnsupportedFormat for a tree that cannot be read, and nothing has changed then. Raises Interrupted: each snapshot is
    rewritten then or as it was, and the next run goes on from there.
    """
    index = repository.refresh_index()
    # listed again after the index was read: see succession.py
    present = load_snapshots(repository, on_error=lambda name, error: None, held=snapshots)
    distrust_missing_packs(repository, reporter)
    target = DiscardingBackend(repository.backend) if options.dry_run else None
    saver = repository.make_saver(storing(repository), backend=target)
    result = RewriteResult()
    try:
        trees = _Trees(repository.loader, saver, options.rules, reporter, cancelled)
        planned = list(_plan(snapshots, present, options, trees, result, reporter))
        saver.flush()
        known = index.objects | saver.index_objects
        for each in planned:
            if cancelled():
                raise Interrupted(f"stopped: {len(result.rewritten)} of {len(planned)} snapshots were rewritten")
            repository.index = index  # publishing may have gone on to a later one, which has not all we rely on
            done = each if options.dry_run else _succeed(repository, each, known, options)
            result.rewritten.append(done)
            on_rewritten(done)
    finally:
        saver.close()
        repository.forget_index()  # it may name what was never stored
    return result


def _plan(
    snapshots: Mapping[bytes, Snapshot],
    present: Mapping[bytes, Snapshot],
    options: RewriteOptions,
    trees: _Trees,
    result: RewriteResult,
    reporter: Reporter,
) -> Iterator[Rewritten]:
    """Those of which something is left out. Nothing is visible yet, of any of them."""
    for identifier, snapshot in snapshots.items():
        if identifier not in present:
            reporter.warn(b"", f"snapshot {short_id(identifier)} was removed by somebody meanwhile")
            continue
        contents = _filter(trees, identifier, snapshot)
        if contents.tree_id == snapshot.tree:
            result.unchanged += 1
            continue
        if not contents.files and not contents.others:
            reporter.problem(
                b"", f"nothing would be left of snapshot {short_id(identifier)}: it stays, forget it instead"
            )
            continue
        new = _describe(identifier, snapshot, contents, options)
        made = _made_before(new, present)
        if made is not None and not options.forget:
            result.done_before += 1
        else:
            yield Rewritten(identifier, snapshot, new, made or b"")


def _filter(trees: _Trees, identifier: bytes, snapshot: Snapshot) -> Contents:
    try:
        return trees.filter(snapshot.tree)
    except (DamagedObject, UnsupportedFormat) as error:
        raise type(error)(
            f"snapshot {short_id(identifier)} cannot be rewritten, and nothing was changed: {error}",
            hint=error.hint or "see 'backupforge check', and mend it with 'backupforge repair' first",
        ) from error


def _made_before(wanted: Snapshot, present: Mapping[bytes, Snapshot]) -> bytes | None:
    """What an earlier run has made of the same snapshot, and left beside it."""
    for identifier, each in present.items():
        if (each.tree, each.original, each.time) == (wanted.tree, wanted.original, wanted.time):
            return identifier
    return None


def _describe(identifier: bytes, snapshot: Snapshot, contents: Contents, options: RewriteOptions) -> Snapshot:
    """The new snapshot, with the sizes of what is left. What the backup itself did stays as it was recorded."""
    summary = msgspec.structs.replace(
        snapshot.summary, files=contents.files, dirs=contents.dirs, others=contents.others, size=contents.size
    )
    return successor(
        identifier,
        snapshot,
        tree=contents.tree_id,
        excludes=list(dict.fromkeys([*snapshot.excludes, *options.patterns])),
        tags=snapshot.tags if options.forget else sorted({*snapshot.tags, REWRITTEN_TAG}),
        summary=summary,
    )


def _succeed(repository: Repository, each: Rewritten, known_index: set[str], options: RewriteOptions) -> Rewritten:
    new_id = each.new_id or publish_successor(repository, each.old_id, each.new, known_index)
    if options.forget:
        remove_predecessor(repository, each.old_id, new_id)
    return Rewritten(each.old_id, each.old, each.new, new_id)


class Contents(NamedTuple):
    """A tree without what is left out, and what is in it and below. Size in bytes, as summaries of backups count."""

    tree_id: bytes
    files: int
    dirs: int
    others: int
    size: int


class _Place(NamedTuple):
    """A tree at a path, which ends with a slash: the same directory may be judged otherwise elsewhere."""

    path: bytes
    tree_id: bytes


@dataclass(slots=True)
class _Level:
    """A directory that is being gone through: its nodes but for those left out, and the directories still to come."""

    place: _Place
    nodes: list[Node]
    kept: list[Node]
    coming: Iterator[_Place]


class _Trees:
    """Leaves things out of trees, and remembers what it made of each: snapshots share most of theirs."""

    def __init__(
        self,
        loader: BlobLoader,
        saver: BlobSaver,
        rules: ExcludeRules,
        reporter: Reporter,
        cancelled: Callable[[], bool],
    ) -> None:
        self._loader = loader
        self._saver = saver
        self._rules = rules
        self._reporter = reporter
        self._cancelled = cancelled
        self._done: dict[_Place, Contents] = {}

    def filter(self, root: bytes) -> Contents:
        """What is left of a tree. Raises DamagedObject with the path of what cannot be read, and Interrupted."""
        start = _Place(b"/", root)
        levels = [] if start in self._done else [self._open(start)]
        while levels:
            level = levels[-1]
            place = next((each for each in level.coming if each not in self._done), None)
            if place is not None:
                levels.append(self._open(place))
            else:
                self._done[level.place] = self._close(level)
                levels.pop()
        return self._done[start]

    def _open(self, place: _Place) -> _Level:
        if self._cancelled():
            raise Interrupted("stopped before anything was changed")
        progress = self._reporter.progress
        progress.files_done += 1
        progress.current = place.path
        try:
            nodes = load_tree(self._loader, place.tree_id)
        except (DamagedObject, UnsupportedFormat) as error:
            path = place.path.decode(errors="backslashreplace")
            raise type(error)(f"directory {path}: {error}", hint=error.hint) from error
        leaves_out = self._rules.leaves_out(place.path)
        kept = nodes if leaves_out is None else [node for node in nodes if not leaves_out(node.name, node.type)]
        coming = [_place_of(place, node) for node in kept if node.type == "dir"]
        return _Level(place, nodes, kept, iter(coming))

    def _close(self, level: _Level) -> Contents:
        """The tree of what is left, once all directories in it are done."""
        below = {node.name: self._done[_place_of(level.place, node)] for node in level.kept if node.type == "dir"}
        files = [node.size for node in level.kept if node.type == "file"]
        trees = {name: each.tree_id for name, each in below.items()}
        return Contents(
            self._tree_of(level, trees),
            files=len(files) + sum(each.files for each in below.values()),
            dirs=len(below) + sum(each.dirs for each in below.values()),
            others=len(level.kept) - len(files) - len(below) + sum(each.others for each in below.values()),
            size=sum(files) + sum(each.size for each in below.values()),
        )

    def _tree_of(self, level: _Level, trees: Mapping[bytes, bytes]) -> bytes:
        """The tree of what is left in a directory; `trees` are those of the directories in it, by name."""
        nodes = [
            msgspec.structs.replace(node, subtree=trees[node.name]) if node.type == "dir" else node
            for node in level.kept
        ]
        if nodes == level.nodes:
            return level.place.tree_id
        stored = stored_nodes(self._loader, level.place.tree_id, level.nodes)
        stored.update({name: with_subtree(stored[name], trees[name]) for name in trees if name in stored})
        return save_tree(self._saver, nodes, stored)


def _place_of(above: _Place, directory: Node) -> _Place:
    return _Place(above.path + directory.name + b"/", directory.subtree)
