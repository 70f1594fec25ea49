"""A dry run: what the steps of a plan would do, without taking them."""

from __future__ import annotations

from bfrepo.localfs._scan import stat_fd
from bfrepo.localfs.apply import MetadataWriter
from bfrepo.localfs.target import Directories
from bfrepo.restorer.report import Report
from bfrepo.restorer.steps import directory_differs, is_linked
from bfrepo.restorer.window import Closing, Enter, Extra, Link, Make, Mend, Step, Window


class Preview:
    """Reports windows of a plan as if they had been executed. A file that would be compared counts as updated."""

    def __init__(self, directories: Directories, metadata: MetadataWriter, report: Report) -> None:
        self._directories = directories
        self._metadata = metadata
        self._report = report

    def tell(self, window: Window) -> None:
        """Report everything in a window."""
        for step in window.steps:
            self._tell_step(step)
        for item in window.items:
            self._report.item("file", item.path, item.outcome, item.node.size)
        for link in window.links:
            self._tell_link(link)
        for closing in window.closing:
            self._tell_closing(closing)

    def _tell_step(self, step: Step) -> None:
        match step:
            case Extra(directory, name, selected):
                if selected:
                    self._report.removed(directory.path + b"/" + name)
            case Enter(directory, old):
                if directory.made:
                    self._report.item("dir", directory.path, "created" if old is None else "updated")
            case Make(item):
                self._report.item(item.node.type, item.path, item.outcome, item.node.size)
            case Mend(item):
                self._report.item(item.node.type, item.path, "updated", item.node.size)

    def _tell_link(self, link: Link) -> None:
        item, source = link.item, link.source
        try:
            there = not source.directory.made and is_linked(self._directories, item, source.directory, source.name)
        except OSError as error:
            self._report.failed(item.path, error)
            return
        self._report.item(item.node.type, item.path, "unchanged" if there else item.outcome, item.node.size)

    def _tell_closing(self, closing: Closing) -> None:
        directory = closing.directory
        if directory.made:
            return
        try:
            fd = self._directories.open(directory)
            changed = directory_differs(self._metadata, fd, closing.node, stat_fd(fd))
        except OSError as error:
            self._report.failed(directory.path, error)
            return
        self._report.item("dir", directory.path, "updated" if changed else "unchanged")
