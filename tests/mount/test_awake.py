"""Waiting for requests in place of the event loop: nobody is left out, and nobody waits who need not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import trio

from mount.awake import Awake, Loop, ReadLock
from mount.bridge import Bridge


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Where requests come from, and where they are written."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_a_request_that_is_there_takes_no_turn(pipe: tuple[int, int]) -> None:
    """What can be read at once is not waited for; yet the event loop has a turn now and then."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        awake = Awake(Bridge())
        os.write(pipe[1], b"request")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            for _ in range(1000):
                await awake.wait_readable(pipe[0])
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert 10 < turns < 300


def test_a_request_that_comes_later_is_waited_for(pipe: tuple[int, int]) -> None:
    """Where none comes, others go on until one does."""

    async def main() -> None:
        awake = Awake(Bridge())
        awake.note()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(awake.wait_readable, pipe[0])
            await trio.sleep(0.02)
            assert len(nursery.child_tasks) == 1
            os.write(pipe[1], b"request")

    trio.run(main)


def test_the_lock_goes_to_whoever_is_next() -> None:
    """One task at a time has the lock; the others have it when that one waits for something else."""
    order: list[str] = []

    async def work(name: str, lock: ReadLock) -> None:
        for _ in range(3):
            async with lock:
                order.append(name)
            if name == "waits":
                await trio.sleep(0.01)

    async def main() -> None:
        lock = ReadLock()
        async with trio.open_nursery() as nursery:
            for name in ("waits", "goes on"):
                nursery.start_soon(work, name, lock)

    trio.run(main)
    assert sorted(order) == ["goes on"] * 3 + ["waits"] * 3


def test_everything_else_is_that_of_trio() -> None:
    """pyfuse3 finds in it whatever it uses of trio."""
    loop = Loop(Awake(Bridge()))
    assert loop.open_nursery is trio.open_nursery
    assert loop.ClosedResourceError is trio.ClosedResourceError
    assert loop.lowlevel.current_task is trio.lowlevel.current_task
    assert loop.lowlevel.wait_readable is not trio.lowlevel.wait_readable
