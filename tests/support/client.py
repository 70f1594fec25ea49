"""Clients in processes of their own, that a test can kill: python -m tests.support.client SOCKET

Whoever connects to the socket gets a process, forked from one that has loaded everything, and its process ID in a line.
It reads an order a line, as JSON, carries it out on a repository, and answers with a line. It backs up trees
that follow from a seed, the label of their snapshots: so whatever a snapshot is found to hold can be judged, also one
whose client was killed before it could answer. The trees have much in common, so that backups want back what prunes are
deleting.

    {"do": "backup", "repository": "/...", "seed": 7, "host": "a"}     {"snapshot": "3f2a..."}
    {"do": "prune", "repository": "/...", "grace_s": 0}                {"deleted": 3}
    {"do": "forget", "repository": "/...", "snapshots": ["3f2a..."]}   {}
    ...                                                                {"error": "CannotPrune: ..."}

`repository` may be any location; the keys to it are in the environment. `ahead_s` in an order moves the client's clock
forward, `cache` is a directory for the index cache.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from bfrepo.core.clock import SystemClock
from bfrepo.core.errors import BackupForgeError
from bfrepo.core.progress import Quiet
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.copy import copy_snapshots
from bfrepo.operations.forget import remove_snapshots
from bfrepo.operations.prune import PruneOptions, UnusedLimit, prune
from bfrepo.operations.repair_index import plan_index_repair, repair_index
from bfrepo.operations.repair_packs import plan_pack_repair, repair_packs
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.operations.tag import TagChange, change_tags
from bfrepo.repository.quarantine import Quarantine
from bfrepo.repository.repository import Repository
from bfrepo.storage.location import open_backend, parse_location
from tests.support.backups import incompressible, never, run_backup
from tests.support.repositories import reopen
from tests.support.sources import Item, written

PACK_SIZE: Final = 16_000
FILES: Final = 10
VERSIONS: Final = 3

Order = dict[str, Any]
Answer = dict[str, Any]


@dataclass(frozen=True)
class ShiftedClock:
    """The machine's clock, ahead of itself."""

    ahead: timedelta

    def now(self) -> datetime:
        return SystemClock().now() + self.ahead

    def monotonic(self) -> float:
        return SystemClock().monotonic()


def tree_of(seed: int) -> Mapping[str, Item | bytes]:
    """A tree of some of thirty files, each of one or a few blobs, in a few directories."""
    chance = random.Random(seed)
    tree: dict[str, Item | bytes] = {"data/always": b"here"}
    for number in range(FILES):
        if chance.random() < 0.5:
            version = chance.randrange(VERSIONS)
            content = incompressible(number * VERSIONS + version, 700 * (number + 1))
            tree[f"data/{number % 3}/{number}"] = written(content, again=version + 1)
    return tree


@contextmanager
def open_here(order: Order, folder: str = "repository") -> Iterator[Repository]:
    """The repository that an order is about."""
    clock = ShiftedClock(timedelta(seconds=order.get("ahead_s", 0)))
    backend = open_backend(parse_location(order[folder]), clock=clock)
    cache = Path(order["cache"]) if "cache" in order else None
    with reopen(backend, pack_size=PACK_SIZE, clock=clock, cache_dir=cache) as repository:
        yield repository


def back_up(order: Order) -> Answer:
    """Make a snapshot."""
    with open_here(order) as repository:
        seed = order["seed"]
        result = run_backup(repository, tree_of(seed), hostname=order["host"], label=str(seed), workers=2)
    return {"snapshot": result.snapshot_id.hex() if result.snapshot_id else None}


def remove_unneeded(order: Order) -> Answer:
    """Prune."""
    options = PruneOptions(
        grace=timedelta(seconds=order["grace_s"]), max_unused=UnusedLimit.parse(order.get("max_unused", "5%"))
    )
    with open_here(order) as repository:
        result = prune(repository, options, Quiet(), never)
    return {"deleted": result.deleted, "condemned": result.condemned, "repacked": result.repacked}


def forget(order: Order) -> Answer:
    """Remove snapshots."""
    with open_here(order) as repository:
        remove_snapshots(repository, [bytes.fromhex(name) for name in order["snapshots"]], Quiet())
    return {}


def copy(order: Order) -> Answer:
    """Copy snapshots to the repository in `target`."""
    with open_here(order) as source, open_here(order, "target") as target:
        present = load_snapshots(source)
        wanted = [bytes.fromhex(name) for name in order["snapshots"]]
        result = copy_snapshots(source, target, [each for each in wanted if each in present], Quiet(), never)
    return {"copied": {old.hex(): new.hex() for old, new in result.copied.items()}, "failed": len(result.failed)}


def tag(order: Order) -> Answer:
    """Give snapshots a tag: each gets a new ID."""
    with open_here(order) as repository:
        present = load_snapshots(repository)
        wanted: dict[bytes, Snapshot] = {
            bytes.fromhex(name): present[bytes.fromhex(name)]
            for name in order["snapshots"]
            if bytes.fromhex(name) in present
        }
        change_tags(repository, wanted, TagChange(add=frozenset({order["tag"]})), Quiet(), never)
    return {}


def repair(order: Order) -> Answer:
    """Mend the index, then the packs, whatever is wrong with them."""
    with open_here(order) as repository:
        quarantine = Quarantine(Path(order["quarantine"]))
        plan = plan_index_repair(repository, Quiet(), never, read_all=True)
        repair_index(repository, plan, quarantine)
        packs = plan_pack_repair(repository, [], Quiet(), never)
        if not packs.does_nothing:
            repair_packs(repository, packs, quarantine, Quiet(), never)
    return {"damaged": len(plan.damaged), "lost": len(packs.lost)}


DEEDS: Mapping[str, Callable[[Order], Answer]] = {
    "backup": back_up,
    "prune": remove_unneeded,
    "forget": forget,
    "copy": copy,
    "tag": tag,
    "repair": repair,
}


def carry_out(order: Order) -> Answer:
    """The answer to an order; with `bug` where the program failed in a way that it must not."""
    try:
        return DEEDS[order["do"]](order)
    except BackupForgeError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    except Exception:
        return {"bug": traceback.format_exc()}


def serve(connection: socket.socket) -> None:
    """One client's life."""
    with connection, connection.makefile("rw") as stream:
        print(os.getpid(), file=stream, flush=True)
        for line in stream:
            print(json.dumps(carry_out(json.loads(line))), file=stream, flush=True)


def main(path: str) -> None:
    """The program: a client for each connection, until stdin is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries those that end
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                serve(connection)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    main(sys.argv[1])
