"""What a restore has to do: the tree compared with what stands in the target, in windows of bounded size.

Planning changes nothing. A window is executed in this order, and only when the content of all windows before it is in
place:

    steps    too much is removed, directories and whatever has no content are made: in the order of the tree
    frames   content, by the frame it comes from; frames are read in the order in which they were stored
    links    further names of files that are in place by now
    closing  directories that the walk has left, innermost first: nothing in them changes any more, so their times stay

The order of the tree is nearly the order of the packs, so few frames are needed by two windows. The first windows are
small so that writing starts at once, later ones hold tens of thousands of files: ten million files never are objects
all at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bfrepo.core.concurrency import native_threads
from bfrepo.core.errors import DamagedObject, TargetError
from bfrepo.core.ids import ID_SIZE
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.layout import Layout, unpack_holes
from bfrepo.data.node import Node, is_safe_name
from bfrepo.data.records import load_records, split_ids
from bfrepo.data.tree import load_tree
from bfrepo.localfs._scan import Stat, scan
from bfrepo.localfs.apply import MetadataWriter, link_target, pinned
from bfrepo.localfs.metadata import path_of
from bfrepo.localfs.removal import Selection
from bfrepo.localfs.target import Directories, Directory
from bfrepo.restorer.report import Report
from bfrepo.restorer.window import Closing, Enter, Extra, FirstName, Item, Link, Make, Mend, Segment, Step, Window

Overwrite: TypeAlias = Literal["always", "if-changed", "if-newer", "never"]

FIRST_WINDOW: Final = 1 << 12
LARGEST_WINDOW: Final = 1 << 14
"""Files, pieces of content and directories in a window; each takes about 1 KiB, and up to three windows exist.

The first is large enough that threads which begin at its two ends work on different files, even if all are large. Where
a storage is far away it is as large as the others: what two windows need of a pack is asked for twice.
"""


def select_all(path: bytes, is_dir: bool) -> tuple[bool, bool]:
    """The selection that leaves nothing out."""
    del path, is_dir
    return True, True


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOptions:
    """What to restore where, and how.

    `overwrite` decides about what exists: `always` compares every block, `if-changed` those of files whose size or
    mtime is another one, `if-newer` touches only what is older than in the snapshot, `never` nothing. Only blocks that
    differ are written. `delete` removes from restored directories what is selected and not in the snapshot. `verify`
    reads back and compares again. `sparse` leaves holes where the snapshot has holes or zeros. `numeric_ids` takes
    owners by number even where their names exist here. `threads` read and write at the same time: None for
    as many as the storage and this machine are worth.
    """

    target: bytes
    overwrite: Overwrite = "if-changed"
    delete: bool = False
    dry_run: bool = False
    verify: bool = False
    sparse: bool = True
    xattrs: bool = True
    numeric_ids: bool = False
    selection: Selection = select_all
    threads: int | None = None


_Content: TypeAlias = tuple[bool, Iterator[tuple[int, Segment]]]
"""Whether it is only compared, and pieces with the frames they come from."""


@dataclass(slots=True)
class _Level:
    """A directory on the way down. `pending`: nobody needs it yet, as nothing in it was selected so far."""

    directory: Directory
    node: Node | None
    nodes: Iterator[Node]
    present: dict[bytes, Stat]
    old: Stat | None
    selected: bool
    pending: bool


class Planner:
    """Walks a tree once. Used by one thread."""

    def __init__(
        self,
        loader: BlobLoader,
        options: RestoreOptions,
        directories: Directories,
        metadata: MetadataWriter,
        report: Report,
        check_cancelled: Callable[[], None],
    ) -> None:
        self._loader = loader
        self._options = options
        self._select = options.selection
        self._directories = directories
        self._metadata = metadata
        self._report = report
        self._check_cancelled = check_cancelled
        self._levels: list[_Level] = []
        self._window = Window()
        self._limit = LARGEST_WINDOW if loader.readers > native_threads() else FIRST_WINDOW
        self._first_names: dict[tuple[int, int], FirstName] = {}
        self._claimed: dict[tuple[int, int], tuple[int, int]] = {}

    def windows(self, root: Directory, nodes: list[Node]) -> Iterator[Window]:
        """The plan for `nodes`, which belong directly into `root`.

        Raises what `check_cancelled` raises, and TargetError when `root` cannot be read.
        """
        try:
            present = {} if root.made else self._look(root)
        except OSError as error:
            raise TargetError(f"cannot look into the target: {os.strerror(error.errno or 0)}") from error
        self._levels.append(_Level(root, None, iter(nodes), present, None, True, False))
        self._plan_extras(self._levels[0], nodes)
        while self._levels:
            self._check_cancelled()
            level = self._levels[-1]
            node = next(level.nodes, None)
            if node is None or level.directory.failed:
                self._leave(self._levels.pop())
            else:
                content = self._visit(level, node)
                if content is not None:
                    yield from self._add_segments(*content)
            if self._window.weight >= self._limit:
                yield self._cut()
        yield self._cut()

    def _add_segments(self, checks: bool, segments: Iterator[tuple[int, Segment]]) -> Iterator[Window]:
        """Spread the content of one file over as many windows as it takes."""
        for frame, segment in segments:
            self._add_segment(frame, segment, checks=checks)
            if self._window.weight >= self._limit:
                yield self._cut()

    def _add_segment(self, frame: int, segment: Segment, *, checks: bool) -> None:
        window = self._window
        frames = window.checks if checks else window.frames
        segments = frames.get(frame)
        if segments is None:
            frames[frame] = [segment]
        else:
            segments.append(segment)
        window.weight += 1

    def _cut(self) -> Window:
        window, self._window = self._window, Window()
        self._limit = min(2 * self._limit, LARGEST_WINDOW)
        self._report.tell_total()
        return window

    def _step(self, step: Step) -> None:
        self._window.steps.append(step)
        self._window.weight += 1

    def _visit(self, level: _Level, node: Node) -> _Content | None:
        """Plan one entry; the content that is still to be planned when it is more than one blob."""
        name = node.name
        item: Item | None = None
        try:
            if not is_safe_name(name):
                raise DamagedObject("its name is not allowed")
            if node.type == "dir":
                self._visit_directory(level, node)
                return None
            if self._select is not select_all and not self._select(level.directory.path + b"/" + name, False)[0]:
                return None
            item = Item(level.directory, node)
            return self._visit_item(level, item)
        except (DamagedObject, TargetError, OSError) as error:
            if item is not None:
                item.fail()
            self._report.failed(level.directory.path + b"/" + name, error)
            return None

    # ---- directories

    def _visit_directory(self, level: _Level, node: Node) -> None:
        path = level.directory.path + b"/" + node.name
        selected, may_contain = self._select(path, True)
        if not (selected or may_contain):
            return
        old = level.present.get(node.name)
        if old is not None and old.type != "dir" and not self._may_touch(node, old):
            self._report.item("dir", path, "skipped")
            return
        made = old is None or old.type != "dir"
        directory = Directory(level.directory, node.name, made=made)
        present = {} if made else self._look(directory)
        try:
            nodes, whole = load_tree(self._loader, node.subtree), True
        except DamagedObject as error:
            self._report.failed(path, error)
            nodes, whole = [], False
        inner = _Level(directory, node, iter(nodes), present, old, selected, True)
        self._levels.append(inner)
        if selected:
            self._need_levels()
        if whole:
            self._plan_extras(inner, nodes)

    def _look(self, directory: Directory) -> dict[bytes, Stat]:
        """What an existing directory holds."""
        self._directories.learn_acl(directory)
        entries, _ = scan(self._directories.open(directory))
        return {stat.name: stat for stat in entries}

    def _need_levels(self) -> None:
        """Something will be made inside: plan those of the directories around it that nobody needed so far."""
        for level in self._levels:
            if level.pending:
                level.pending = False
                self._step(Enter(level.directory, level.old))

    def _plan_extras(self, level: _Level, nodes: list[Node]) -> None:
        if not self._options.delete or not level.present:
            return
        for name in sorted(level.present.keys() - {node.name for node in nodes}):
            is_dir = level.present[name].type == "dir"
            selected, may_contain = self._select(level.directory.path + b"/" + name, is_dir)
            if selected or (is_dir and may_contain):
                self._step(Extra(level.directory, name, selected))

    def _leave(self, level: _Level) -> None:
        if level.node is None or level.pending:
            return
        if level.directory.made or (level.selected and self._options.overwrite != "never"):
            self._window.closing.append(Closing(level.directory, level.node))
            self._window.weight += 1

    # ---- everything else

    def _visit_item(self, level: _Level, item: Item) -> _Content | None:
        node = item.node
        old = level.present.get(node.name)
        if old is not None and not self._may_touch(node, old):
            self._report.item(node.type, item.path, "skipped", node.size)
            return None
        if level.pending:
            self._need_levels()
        if node.links > 1 and self._is_further_name(item, old):
            return None
        if node.type == "file":
            self._report.planned(node.size)
        if old is not None and self._keeps(item, old):
            return self._plan_content(item, checks=True) if self._options.verify and node.type == "file" else None
        if node.type == "file":
            return self._plan_content(item, checks=False)
        self._step(Make(item))
        return None

    def _may_touch(self, node: Node, old: Stat) -> bool:
        overwrite = self._options.overwrite
        return overwrite in ("always", "if-changed") or (overwrite == "if-newer" and node.mtime_ns > old.mtime_ns)

    def _is_further_name(self, item: Item, old: Stat | None) -> bool:
        """Plan a hard link if the file has come up under another name."""
        node = item.node
        key = (node.device, node.inode)
        first = self._first_names.get(key)
        if first is None or first.type != node.type:
            item.name = self._first_names[key] = FirstName(item.directory, node.name, node.type, node.links - 1)
            return False
        item.old = old
        self._window.links.append(Link(item, first))
        self._window.weight += 1
        first.missing -= 1
        if first.missing <= 0:
            del self._first_names[key]
        return True

    def _keeps(self, item: Item, old: Stat) -> bool:
        """Whether what exists has the right content and needs at most new metadata; if not, `item` says how it goes."""
        if self._is_same(item, old) and self._is_own_file(item.node, old):
            if not self._differs(item, old):
                self._report.item(item.node.type, item.path, "unchanged", item.node.size)
                self._report.moved(item.node.size if item.node.type == "file" else 0, 0)
                return True
            if old.links == 1:
                item.old = old
                self._step(Mend(item))
                return True
        if old.type == "file" == item.node.type and old.links == 1:
            item.old = old
        else:
            item.obstacle = True
        return False

    def _is_same(self, item: Item, old: Stat) -> bool:
        node = item.node
        if old.type != node.type:
            return False
        if node.type == "file":
            same = old.size == node.size and old.mtime_ns == node.mtime_ns
            return same and self._options.overwrite == "if-changed"
        if node.type == "symlink":
            return link_target(self._directories.open(item.directory), node.name) == node.target
        return old.rdev == node.rdev

    def _is_own_file(self, node: Node, old: Stat) -> bool:
        """Whether what exists is a file of its own, or shared by names that the snapshot says share it.

        Writing to a file that has further names would change those too, wherever they are.
        """
        if old.links == 1:
            return True
        key = (node.device, node.inode)
        return node.links > 1 and self._claimed.setdefault((old.device, old.inode), key) == key

    def _differs(self, item: Item, old: Stat) -> bool:
        if self._metadata.differs(item.node, old):
            return True
        if not self._options.xattrs:
            return False  # and no descriptor is needed to find that out
        with pinned(self._directories.open(item.directory), item.node.name) as fd:
            return self._metadata.xattrs_differ(path_of(fd), item.node)

    def _plan_content(self, item: Item, *, checks: bool) -> _Content | None:
        """Look up where the content is. Raises DamagedObject, before anything is touched, when it is not all there."""
        node = item.node
        if len(node.content) == ID_SIZE and not node.holes and not node.content_depth:
            place = self._loader.place(node.content)
            if place.size != node.size:
                raise DamagedObject(f"its content has {place.size} bytes, its size is {node.size}")
            item.parts = 1
            item.simple = (
                item.old is None
                and not item.obstacle
                and not node.flags
                and not item.directory.inherits_acl
                and not (node.xattrs and self._options.xattrs)
            )
            self._add_item(item, checks=checks)
            self._add_segment(place.frame, (node.content, item, 0), checks=checks)
            return None
        item.holes = unpack_holes(node.size, load_records(self._loader, node.holes, node.holes_depth))
        blob_ids = split_ids(load_records(self._loader, node.content, node.content_depth))
        item.parts = len(blob_ids)
        for _ in self._lay_out(item, blob_ids):
            pass
        if not blob_ids:
            if not checks:
                self._step(Make(item))
            return None
        self._add_item(item, checks=checks)
        return checks, self._lay_out(item, blob_ids)

    def _add_item(self, item: Item, *, checks: bool) -> None:
        if not checks:
            self._window.items.append(item)

    def _lay_out(self, item: Item, blob_ids: list[bytes]) -> Iterator[tuple[int, Segment]]:
        layout = Layout(item.node.size, list(item.holes))
        for blob_id in blob_ids:
            place = self._loader.place(blob_id)
            yield place.frame, (blob_id, item, layout.take(place.size))
        layout.finish()
