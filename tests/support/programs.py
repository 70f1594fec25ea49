"""Small programs that share a repository, for tests of every order of their calls: backups, prunes, a forget."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

from bfrepo.core.progress import Quiet
from bfrepo.operations.prune import PruneOptions, prune
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import never, run_backup
from tests.support.pruning import Faults, Prune
from tests.support.repositories import PASSWORD, FakeClock, make_repository
from tests.support.restoring import expected
from tests.support.scheduler import Program
from tests.support.sources import Item

OLD: Mapping[str, Item | bytes] = {"data/x": b"shared", "data/y": b"only the old one has this"}
SAME: Mapping[str, Item | bytes] = {"data/x": b"shared"}
MORE: Mapping[str, Item | bytes] = {"data/x": b"shared", "data/sub/z": b"new"}
AT_ONCE: Final = PruneOptions(grace=timedelta(0), workers=1, allow_remove_all=True)
"""A prune that deletes what nobody needs in one run."""

MODELS = [expected(tree) for tree in (OLD, SAME, MORE)]


def opened(backend: Backend) -> Repository:
    """The repository as a new process opens it, its index not yet read."""
    return open_repository(backend, FakeClock(), lambda: PASSWORD)


def disk_after(*trees: Mapping[str, Item | bytes], forgotten: bool) -> MemoryBackend:
    """A repository that the trees were backed up to, the snapshots still there or gone."""
    disk = MemoryBackend()
    repository = make_repository(disk)
    for tree in trees:
        run_backup(repository, tree)
    if forgotten:
        forget_all(disk)
    return disk


def forget_all(backend: Backend) -> None:
    """Remove all snapshots there are now."""
    for info in list(backend.list(ObjectKind.SNAPSHOT)):
        backend.delete(ObjectKind.SNAPSHOT, info.name)


def backs_up(tree: Mapping[str, Item | bytes]) -> Program:
    """A backup."""
    return lambda backend: run_backup(opened(backend), tree)


def prunes_by_the_book(name: str, *, repack: bool = False, merge: bool = True, faults: Faults | None = None) -> Program:
    """The prune that the design describes, without grace time, with as little else as possible."""
    return lambda backend: Prune(backend, name, repack=repack, merge=merge, faults=faults).run()


def prunes(backend: Backend) -> None:
    """A prune without grace time."""
    prune(opened(backend), AT_ONCE, Quiet(), never)
