"""A backup in a process of its own, so that a test can kill it: python -m tests.support.backup_process LOCATION SIZE

Backs up `sample_tree(SIZE)` with small packs that are indexed often. Writes "ready" when it begins, and the snapshot's
ID when it is done.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from bfrepo.core.clock import SystemClock
from bfrepo.repository import packing
from bfrepo.repository.repository import Repository
from bfrepo.storage.location import open_backend, parse_location
from tests.support.backups import incompressible, run_backup
from tests.support.repositories import reopen
from tests.support.sources import Item

PACK_SIZE = 128 << 10
INDEXED_AFTER_PACKS = 4


def sample_tree(size: int) -> Mapping[str, Item | bytes]:
    """About `size` bytes in files large and small, always the same; a larger tree has all files of a smaller."""
    large: dict[str, Item | bytes] = {
        f"data/large/{number:03}": incompressible(number, 400_000) for number in range(size // 500_000)
    }
    small: dict[str, Item | bytes] = {
        f"data/small/{number % 7}/{number:04}": incompressible(number, 1000) for number in range(size // 5_000)
    }
    return large | small


def open_here(place: Path | str) -> Repository:
    """The repository, set up as this program uses it."""
    return reopen(open_backend(parse_location(str(place))), pack_size=PACK_SIZE, clock=SystemClock())


def main(location: str, size: str) -> None:
    """The program."""
    packing._CHECKPOINT_PACKS = INDEXED_AFTER_PACKS  # type: ignore[misc]
    tree = sample_tree(int(size))
    repository = open_here(location)
    print("ready", flush=True)
    result = run_backup(repository, tree, workers=2)
    print(result.snapshot_id.hex() if result.snapshot_id else "", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
