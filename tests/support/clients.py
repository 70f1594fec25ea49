"""Several clients at once on one repository, as processes that a test gives orders to, waits for, and kills."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from bfrepo.core.errors import DamagedObject, StorageObjectMissing
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository
from bfrepo.storage.location import open_backend, parse_location
from tests.support.client import Answer, Order, tree_of
from tests.support.program import ROOT, process_environment
from tests.support.repositories import reopen
from tests.support.restoring import expected, restored

_MOST_TRIES = 20


class Client:
    """One process. A killed one starts again with the next order. Used by one thread, but for `kill`."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.order: Order | None = None
        """What it is at."""
        self._address = address
        self._stream: TextIO | None = None
        self._pid = 0
        self._is_killed = False

    @property
    def is_idle(self) -> bool:
        """Whether it waits for an order."""
        return self.order is None

    def give(self, order: Order) -> None:
        """Send an order; the answer is waited for later."""
        if self._is_killed:  # but what it had answered before was read
            self.end()
        if self._stream is None:
            self._connect()
        self.order = order
        with suppress(BrokenPipeError):  # it was killed between two orders
            print(json.dumps(order), file=self._stream, flush=True)

    def wait(self) -> Answer | None:
        """The answer to the order; None if it was killed meanwhile."""
        assert self._stream is not None
        try:
            line = self._stream.readline()
        except ConnectionResetError:
            line = ""
        self.order = None
        if not line:
            self.end()
            return None
        answer: Answer = json.loads(line)
        assert "bug" not in answer, answer["bug"]
        return answer

    def kill(self) -> None:
        """kill -9, whatever it is at."""
        if self._pid:
            self._is_killed = True
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    def end(self) -> None:
        """Let go of the process."""
        self.kill()
        self._pid, self._is_killed = 0, False
        if self._stream is not None:
            with suppress(BrokenPipeError):
                self._stream.close()
            self._stream = None

    def _connect(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._address)
            self._stream = connection.makefile("rw")
        self._pid = int(self._stream.readline())


@contextmanager
def clients(count: int, folder: Path) -> Iterator[list[Client]]:
    """Some clients, none of which outlives the block."""
    address = str(folder / "clients.socket")
    parent = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "tests.support.client", address],
        cwd=ROOT, env=process_environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    made = [Client(f"client-{number}", address) for number in range(count)]
    with parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            yield made
        finally:
            for client in made:
                client.end()


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory where there is one, as repositories are written to it without end."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="clients-", dir=place) as name:
        yield Path(name)


def look(place: Path | str) -> Repository:
    """The repository at a path or any other location as it is now."""
    return reopen(open_backend(parse_location(str(place))))


def wrong_with(place: Path | str, identifier: bytes) -> str:
    """What is wrong with a snapshot, or nothing; it has to hold the tree of its label.

    A prune may move what is being read: then it is read by the index of now. A snapshot that is gone is not wrong.
    """
    why = ""
    for _ in range(_MOST_TRIES):
        with look(place) as repository:
            snapshot = load_snapshots(repository).get(identifier)
            if snapshot is None:
                return ""
            try:
                return _compare(repository, snapshot)
            except (DamagedObject, StorageObjectMissing) as error:
                why = f"snapshot {identifier.hex()[:8]} of seed {snapshot.label}: {error}"
    return why


def _compare(repository: Repository, snapshot: Snapshot) -> str:
    found = restored(repository.loader, snapshot.tree)
    if found == expected(tree_of(int(snapshot.label))):
        return ""
    return f"a snapshot of seed {snapshot.label} holds something else"


def wrong_with_all(place: Path | str, finished: set[bytes]) -> list[str]:
    """What is wrong with the snapshots there are, and which of `finished` are neither there nor their successors.

    Nobody may be at work.
    """
    with look(place) as repository:
        snapshots = load_snapshots(repository)
        present = snapshots.keys() | {snapshot.original for snapshot in snapshots.values()}
        wrong = [f"snapshot {each.hex()[:8]} is gone" for each in sorted(finished - present)]
        for identifier, snapshot in snapshots.items():
            try:
                why = _compare(repository, snapshot)
            except (DamagedObject, StorageObjectMissing) as error:
                why = f"snapshot {identifier.hex()[:8]} of seed {snapshot.label}: {error}"
            wrong += [why] if why else []
        return wrong
