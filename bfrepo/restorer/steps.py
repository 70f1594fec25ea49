"""Everything of a restore that is not content: removing, directories, special files, hard links, metadata."""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec.structs import replace

from bfrepo.data.node import Node
from bfrepo.localfs._scan import Stat, stat_at, stat_fd
from bfrepo.localfs.apply import MetadataWriter, make_special, pinned
from bfrepo.localfs.metadata import path_of
from bfrepo.localfs.removal import make_way, remove
from bfrepo.localfs.target import Directories, Directory
from bfrepo.restorer.files import REFUSED, FileWriter, Hands
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import Outcome, Report
from bfrepo.restorer.window import Closing, Enter, Extra, Item, Link, Make, Mend, Step

_REOPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Steps:
    """Takes the steps of a plan, one at a time. Used by one thread."""

    def __init__(
        self, options: RestoreOptions, hands: Hands, metadata: MetadataWriter, writer: FileWriter, report: Report
    ) -> None:
        self._within = options.selection if options.delete else None
        self._selection = options.selection
        self._hands = hands
        self._directories = hands.directories
        self._metadata = metadata
        self._writer = writer
        self._report = report
        self._superuser = os.geteuid() == 0

    def take(self, step: Step) -> None:
        """Do it, or report why not. Raises TargetError when the target is full."""
        match step:
            case Extra():
                self._remove(step)
            case Enter():
                self._enter(step)
            case Make(item) if item.node.type == "file" and not item.directory.failed:
                self._writer.make_empty(self._hands, item)
            case Make(item):
                self._guard(item, self._make_special)
            case Mend(item):
                self._guard(item, self._mend)

    def link(self, link: Link) -> None:
        """Give a file that is in place a further name, or report why not."""
        item, source = link.item, link.source
        if source.failed or source.directory.failed:
            other = os.fsdecode(source.directory.path + b"/" + source.name)
            self._writer.fail(item, ValueError(f"it is the same file as {other}, which could not be restored"))
            return
        self._guard(item, lambda each: self._make_link(each, source.directory, source.name))

    def close(self, closing: Closing) -> None:
        """Give a directory its metadata, or report why not."""
        directory, node = closing.directory, closing.node
        if directory.failed:
            return
        try:
            fd = self._directories.open(directory)
            now = stat_fd(fd)
            changed = directory.made or directory_differs(self._metadata, fd, node, now)
            problems = []
            if changed:  # what is right already may be immutable
                problems = self._metadata.apply(fd, node, (now.uid, now.gid), bare=directory.made)
                if node.flags or now.flags:
                    problems += self._metadata.apply_flags(fd, node)
        except REFUSED as error:
            self._report.failed(directory.path, error)
            return
        if problems:
            self._report.failed(directory.path, "; ".join(problems))
        if not directory.made:
            self._report.item("dir", directory.path, "updated" if changed else "unchanged")

    def _guard(self, item: Item, make: Callable[[Item], Outcome]) -> None:
        """Do something for an item; tell how it ended."""
        if item.directory.failed:
            item.fail()
            return
        try:
            outcome = make(item)
        except REFUSED as error:
            self._writer.fail(item, error)
        else:
            self._report.item(item.node.type, item.path, outcome, item.node.size)

    def _remove(self, extra: Extra) -> None:
        path = extra.directory.path + b"/" + extra.name
        if extra.directory.failed:
            return
        try:
            gone = remove(self._directories, extra.directory, extra.name, self._selection, force=False)
        except FileNotFoundError:
            return
        except REFUSED as error:
            self._report.failed(path, error)
            return
        if gone:
            self._report.removed(path)

    def _enter(self, step: Enter) -> None:
        directory = step.directory
        if directory.parent is None or directory.parent.failed:
            directory.failed = True
            return
        try:
            if directory.made:
                if step.old is not None:
                    make_way(self._directories, directory.parent, directory.name, None)
                self._directories.make(directory)
                self._report.item("dir", directory.path, "created" if step.old is None else "updated")
            elif step.old is not None and not self._superuser and step.old.mode & 0o700 != 0o700:
                os.chmod(self._directories.open(directory), step.old.mode | 0o700)  # closing gives it its own mode
        except REFUSED as error:
            directory.failed = True
            self._report.failed(directory.path, error)

    def _make_special(self, item: Item) -> Outcome:
        if item.obstacle:
            make_way(self._directories, item.directory, item.node.name, self._within)
        make_special(self._directories.open(item.directory), item.node)
        self._apply(item, bare=not item.directory.inherits_acl)
        return item.outcome

    def _mend(self, item: Item) -> Outcome:
        node, old = item.node, item.old
        self._apply(item, bare=False)
        if node.type == "file":
            self._report.moved(node.size, 0)
            if old is not None and old.flags != node.flags:
                self._apply_flags(item)
        return "updated"

    def _apply(self, item: Item, *, bare: bool) -> None:
        with pinned(self._directories.open(item.directory), item.node.name) as fd:
            now = stat_fd(fd)
            problems = self._metadata.apply(path_of(fd), item.node, (now.uid, now.gid), bare=bare)
        if problems:
            self._report.failed(item.path, "; ".join(problems))

    def _apply_flags(self, item: Item) -> None:
        fd = os.open(item.node.name, _REOPEN, dir_fd=self._directories.open(item.directory))
        try:
            problems = self._metadata.apply_flags(fd, item.node)
        finally:
            os.close(fd)
        if problems:
            self._report.failed(item.path, "; ".join(problems))

    def _make_link(self, item: Item, directory: Directory, name: bytes) -> Outcome:
        if is_linked(self._directories, item, directory, name):
            return "unchanged"
        if item.old is not None:
            make_way(self._directories, item.directory, item.node.name, self._within)
        # Both are opened before either descriptor can be closed again: a descriptor is valid until the next one is
        # taken.
        with pinned(self._directories.open(directory), b".") as source_fd:
            to_fd = self._directories.open(item.directory)
            try:
                os.link(name, item.node.name, src_dir_fd=source_fd, dst_dir_fd=to_fd, follow_symlinks=False)
            except PermissionError:
                if not item.node.flags:
                    raise
                self._link_protected(item, source_fd, name, to_fd)
        return item.outcome

    def _link_protected(self, item: Item, source_fd: int, name: bytes, to_fd: int) -> None:
        """A file that is immutable or append-only takes no further name: it is neither for a moment."""
        fd = os.open(name, _REOPEN, dir_fd=source_fd)
        try:
            self._metadata.apply_flags(fd, replace(item.node, flags=0))
            os.link(name, item.node.name, src_dir_fd=source_fd, dst_dir_fd=to_fd, follow_symlinks=False)
        finally:
            problems = self._metadata.apply_flags(fd, item.node)
            os.close(fd)
        if problems:
            self._report.failed(item.path, "; ".join(problems))


def is_linked(directories: Directories, item: Item, directory: Directory, name: bytes) -> bool:
    """Whether an item that exists is the file of that other name already.

    Raises OSError for an unreadable directory.
    """
    if item.old is None:
        return False
    try:
        other = stat_at(directories.open(directory), name)
    except FileNotFoundError:
        return False
    return (other.device, other.inode) == (item.old.device, item.old.inode)


def directory_differs(metadata: MetadataWriter, fd: int, node: Node, now: Stat) -> bool:
    """Whether an existing directory has other metadata than the snapshot. Raises OSError."""
    return metadata.differs(node, now) or metadata.xattrs_differ(fd, node)
