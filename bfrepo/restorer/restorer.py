"""A restore from beginning to end: plan a window, start it, and finish the one before while it runs."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from bfrepo.core.errors import Interrupted
from bfrepo.core.protocols import BlobLoader
from bfrepo.data.node import Node
from bfrepo.data.tree import load_tree
from bfrepo.localfs.apply import MetadataWriter
from bfrepo.localfs.target import Directory, open_target
from bfrepo.restorer.fetch import Fetcher
from bfrepo.restorer.files import FileWriter
from bfrepo.restorer.plan import Planner, RestoreOptions
from bfrepo.restorer.preview import Preview
from bfrepo.restorer.report import Report, RestoreObserver, RestoreSummary
from bfrepo.restorer.steps import Steps
from bfrepo.restorer.verify import Verifier
from bfrepo.restorer.window import Window


def _never() -> bool:
    return False


def _ignore(frames: Iterable[int]) -> None:
    """For who does not want to know."""


def restore(
    loader: BlobLoader,
    tree_id: bytes,
    options: RestoreOptions,
    observer: RestoreObserver,
    *,
    cancelled: Callable[[], bool] = _never,
    on_frames: Callable[[Iterable[int]], None] = _ignore,
) -> RestoreSummary:
    """Restore what a tree holds directly into the target.

    An item that cannot be restored is reported and counted, the others are restored. Raises TargetError when the target
    cannot be used or is full, DamagedObject when the tree itself cannot be loaded, Interrupted once `cancelled()` is
    true, and what the loader raises when the repository cannot be read any more; then incomplete files have been
    removed. `cancelled` is called from several threads. In a dry run `on_frames` is told, a window at a time, which
    frames would be read.
    """
    return _restore_nodes(loader, load_tree(loader, tree_id), options, observer, cancelled, on_frames)


def restore_node(
    loader: BlobLoader,
    node: Node,
    options: RestoreOptions,
    observer: RestoreObserver,
    *,
    cancelled: Callable[[], bool] = _never,
    on_frames: Callable[[Iterable[int]], None] = _ignore,
) -> RestoreSummary:
    """Restore one entry, under its name in the target; otherwise as `restore`."""
    return _restore_nodes(loader, [node], options, observer, cancelled, on_frames)


def _restore_nodes(
    loader: BlobLoader,
    nodes: list[Node],
    options: RestoreOptions,
    observer: RestoreObserver,
    cancelled: Callable[[], bool],
    on_frames: Callable[[Iterable[int]], None],
) -> RestoreSummary:
    report = Report(observer)
    root_fd, made = open_target(options.target, make=not options.dry_run)
    root = Directory(None, b"", made=made)
    try:
        _Restore(loader, options, report, root_fd, cancelled, on_frames).run(root, nodes)
    finally:
        if root_fd >= 0:
            os.close(root_fd)
    return report.summary


@dataclass(slots=True)
class _Running:
    window: Window
    work: list[Future[None]]


class _Restore:
    """One restore. Used by one thread, which plans and does everything but content."""

    def __init__(
        self,
        loader: BlobLoader,
        options: RestoreOptions,
        report: Report,
        root_fd: int,
        cancelled: Callable[[], bool],
        on_frames: Callable[[Iterable[int]], None],
    ) -> None:
        self._on_frames = on_frames
        self._loader = loader
        self._options = options
        self._report = report
        self._root_fd = root_fd
        self._cancelled = cancelled
        self._metadata = MetadataWriter(numeric_ids=options.numeric_ids, xattrs=options.xattrs)
        self._writer = FileWriter(options, self._metadata, report)
        self._hands = self._writer.hands(root_fd)
        self._steps = Steps(options, self._hands, self._metadata, self._writer, report)
        self._verifier = Verifier(report)

    def run(self, root: Directory, nodes: list[Node]) -> None:
        """Plan, and execute unless this is a dry run."""
        directories = self._hands.directories
        planner = Planner(self._loader, self._options, directories, self._metadata, self._report, self._check_cancelled)
        with contextlib.closing(directories):
            if self._options.dry_run:
                preview = Preview(directories, self._metadata, self._report)
                for window in planner.windows(root, nodes):
                    preview.tell(window)
                    self._on_frames(window.frames.keys() | window.checks.keys())
                return
            hands = [self._writer.hands(self._root_fd) for _ in range(self._options.threads or self._loader.readers)]
            with Fetcher(self._loader, hands, self._cancelled) as fetcher:
                try:
                    self._execute(planner, fetcher, root, nodes)
                except BaseException:
                    fetcher.stop()
                    self._writer.abort(self._hands)
                    raise

    def _execute(self, planner: Planner, fetcher: Fetcher, root: Directory, nodes: list[Node]) -> None:
        running: deque[_Running] = deque()
        for window in planner.windows(root, nodes):
            for step in window.steps:
                self._check_cancelled()
                self._steps.take(step)
            running.append(_Running(window, fetcher.start(window.frames, self._writer)))
            if len(running) > 1:
                self._finish(running.popleft(), fetcher)
        while running:
            self._finish(running.popleft(), fetcher)

    def _finish(self, running: _Running, fetcher: Fetcher) -> None:
        window = running.window
        fetcher.finish(running.work)
        for link in window.links:
            self._check_cancelled()
            self._steps.link(link)
        if self._options.verify:
            self._verify(window, fetcher)
        for closing in window.closing:
            self._steps.close(closing)

    def _verify(self, window: Window, fetcher: Fetcher) -> None:
        os.sync()  # what is not on the disk yet cannot be read back from it
        fetcher.finish(fetcher.start(window.frames, self._verifier))
        fetcher.finish(fetcher.start(window.checks, self._verifier))

    def _check_cancelled(self) -> None:
        if self._cancelled():
            raise Interrupted("the restore was interrupted")
