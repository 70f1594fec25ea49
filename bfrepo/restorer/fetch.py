"""Content, frame by frame: each is read and opened once, by several threads, from both ends of the order of packs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, Self

from bfrepo.core.errors import DamagedObject, Interrupted
from bfrepo.core.protocols import BlobLoader
from bfrepo.restorer.files import Hands
from bfrepo.restorer.window import Item, Segment


class Sink(Protocol):
    """Where content goes. Called from several threads, each with its own Hands."""

    def take(self, hands: Hands, item: Item, offset: int, data: memoryview | DamagedObject) -> None:
        """A piece of content for a file and an offset, or the error that says why there is none."""

    def flush(self, hands: Hands) -> None:
        """What this thread has taken is about to become invalid."""


class Fetcher:
    """Brings content to sinks with a thread for each of `hands`. Used by one thread, which also closes it."""

    def __init__(self, loader: BlobLoader, hands: Sequence[Hands], cancelled: Callable[[], bool]) -> None:
        self._loader = loader
        self._cancelled = cancelled
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._hands = hands
        self._free = deque(enumerate(hands))
        self._pool = ThreadPoolExecutor(len(hands), thread_name_prefix="restore")

    def __enter__(self) -> Self:
        return self

    def stop(self) -> None:
        """Wait for what is being written; nothing more is begun. Idempotent."""
        self._stopped.set()
        self._pool.shutdown(cancel_futures=True)

    def __exit__(self, *_: object) -> None:
        self.stop()
        for hands in self._hands:
            hands.directories.close()

    def start(self, frames: Mapping[int, Sequence[Segment]], sink: Sink) -> list[Future[None]]:
        """Begin to bring all segments to `sink`. The work of earlier calls comes first.

        Every second thread begins at the end. The system lets one thread at a time write to a file, or make a file in a
        directory: side by side in neighbouring frames they would wait for each other.
        """
        left = deque(self._loader.runs(sorted(frames)))
        return [self._pool.submit(self._fetch, left, frames, sink) for _ in range(len(left))]

    def finish(self, work: list[Future[None]]) -> None:
        """Wait for what `start` began. Raises the first error that any sink or the loader raised."""
        for future in work:
            future.result()
        if self._failure is not None:
            raise self._failure

    def _fetch(self, left: deque[list[int]], frames: Mapping[int, Sequence[Segment]], sink: Sink) -> None:
        if self._stopped.is_set():
            return
        number, hands = self._free.pop()
        try:
            run = left.popleft() if number % 2 == 0 else left.pop()
            self._check()
            self._loader.read_ahead(run)
            for frame in run:
                if self._stopped.is_set():
                    return
                self._deliver(hands, frame, frames[frame], sink)
        except BaseException as error:
            with self._lock:
                self._failure = self._failure or error
            self._stopped.set()
        finally:
            self._free.append((number, hands))

    def _deliver(self, hands: Hands, frame: int, segments: Sequence[Segment], sink: Sink) -> None:
        uses: dict[bytes, list[Segment]] = {}
        for segment in segments:
            uses.setdefault(segment[0], []).append(segment)
        self._check()
        take = sink.take
        for blob_id, data in self._loader.read_frame(frame, list(uses)):
            for _, item, offset in uses[blob_id]:
                take(hands, item, offset, data)
            if self._stopped.is_set():
                return
        sink.flush(hands)

    def _check(self) -> None:
        if self._cancelled():
            raise Interrupted("the restore was interrupted")
