"""A mount from its beginning to its end."""

from __future__ import annotations

import ctypes
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

from bfrepo.core.errors import BackupForgeError
from bfrepo.repository.repository import Repository
from mount.filesystem import SnapshotOperations
from mount.mountpoint import check_mountpoint
from mount.options import Log, MountOptions
from mount.session import mounted, read_further_ahead, serve

REFRESH_S: Final = 3
"""Seconds between two looks for snapshots that are new or gone."""

_M_ARENA_MAX: Final = -8  # of mallopt(3)

_STOP: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def share_freed_memory() -> None:
    """Let all threads take memory from one heap: what one has freed of its own the others could not use.

    Frames come from one thread and go by another: with 256 MiB of them kept, a mount took 370 MB in place of 620 MB.
    Of use only while there are no threads, so before a repository is opened.
    """
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):  # glibc's; others have no such switch
        allocator.mallopt(_M_ARENA_MAX, 1)


def run(repository: Repository, place: bytes, options: MountOptions, *, on_ready: Callable[[], None], log: Log) -> None:
    """Show the snapshots of a repository on an absolute path until it is unmounted, or a signal says to end.

    Must be called in the main thread. `on_ready` is called when they are there. When this returns or raises, nothing
    is mounted any more. Raises MountError, and errors of the repository as long as nothing is mounted; later ones go
    to `log`.
    """
    check_mountpoint(place)
    try:
        trio.run(_run, repository, place, options, on_ready, log)
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _run(
    repository: Repository, place: bytes, options: MountOptions, on_ready: Callable[[], None], log: Log
) -> None:
    operations = SnapshotOperations(repository, options, log)
    try:
        with trio.CancelScope() as scope, _signals_end(scope):
            await operations.refresh()
            gc.collect()
            gc.freeze()  # what is there now stays: the collector need not look at it again
            with mounted(operations, place, allow_other=options.allow_other):
                on_ready()
                await _serve(operations, place, log)
    finally:
        operations.close()


async def _serve(operations: SnapshotOperations, place: bytes, log: Log) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_keep_fresh, operations, log)
        nursery.start_soon(read_further_ahead, place)
        await serve(operations.awake)
        nursery.cancel_scope.cancel()


async def _keep_fresh(operations: SnapshotOperations, log: Log) -> None:
    """Look for new snapshots every few seconds. A storage that cannot be reached is said once, and when it is back."""
    failing = False
    while True:
        await trio.sleep(REFRESH_S)
        try:
            await operations.refresh()
        except BackupForgeError as error:
            if not failing:
                log("warning", b"", f"cannot look for new snapshots, and go on trying: {error}")
            failing = True
        else:
            if failing:
                log("warning", b"", "new snapshots can be looked for again")
            failing = False


@contextmanager
def _signals_end(scope: trio.CancelScope) -> Iterator[None]:
    """While inside, the first signal cancels the scope. The next one is left to the system, should that take long."""
    token = trio.lowlevel.current_trio_token()

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        token.run_sync_soon(scope.cancel)

    ignored = {number for number in _STOP if signal.getsignal(number) is signal.SIG_IGN}  # by nohup, for one
    before = {number: signal.signal(number, stop) for number in _STOP if number not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error that is none of a group: whoever reports it wants to name it."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
