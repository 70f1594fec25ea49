"""Copying between repositories in memory, and what must be the same afterwards."""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import timedelta

import msgspec

from bfrepo.core.ids import BlobKind
from bfrepo.core.progress import Quiet, Reporter
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.copy import CopyResult, copy_snapshots
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.repository import Repository, open_repository
from bfrepo.storage.base import Backend, ObjectKind
from tests.support.backups import never
from tests.support.faulty import FaultyBackend
from tests.support.repositories import PASSWORD, START, FakeClock
from tests.support.restoring import file_content, restored_nodes


def opened(backend: Backend, *, password: bytes = PASSWORD) -> Repository:
    """The repository as a program opens it two days after it was made, its index not yet read."""
    return open_repository(backend, FakeClock(START + timedelta(days=2)), lambda: password)


def run_copy(
    source: Backend | Repository,
    target: Backend | Repository,
    ids: Collection[bytes] | None = None,
    *,
    reporter: Reporter | None = None,
    cancelled: Callable[[], bool] = never,
) -> CopyResult:
    """Copy these snapshots, or all that can be read, as a program of its own would."""
    source = source if isinstance(source, Repository) else opened(source)
    target = target if isinstance(target, Repository) else opened(target)
    if ids is None:
        ids = set(load_snapshots(source, on_error=lambda name, error: None))
    return copy_snapshots(source, target, ids, reporter or Quiet(), cancelled)


def everything_in(repository: Repository) -> list[tuple[Snapshot, dict[str, tuple[Node, bytes]]]]:
    """Every snapshot with all its entries and their content, without what a copy has of its own: IDs."""
    repository.refresh_index()
    found = []
    for identifier, snapshot in load_snapshots(repository).items():
        nodes = restored_nodes(repository.loader, snapshot.tree)
        entries = {path: (_without_ids(node), file_content(repository.loader, node)) for path, node in nodes.items()}
        plain = msgspec.structs.replace(
            snapshot, tree=b"", twin=b"", parent=b"", original=snapshot.original or identifier
        )
        found.append((plain, entries))
    return sorted(found, key=lambda each: (each[0].when, each[0].original, len(each[1])))


def _without_ids(node: Node) -> Node:
    return msgspec.structs.replace(node, content=b"", subtree=b"", holes=b"" if node.holes_depth else node.holes)


def reads_of(backend: FaultyBackend, repository: Repository, kind: BlobKind) -> int:
    """How many frames of packs of a kind were read of a repository on `backend`."""
    packs = {pack.id.hex() for pack in repository.refresh_index().table.packs() if pack.kind is kind}
    return sum(call.method == "read_into" and call.name in packs for call in backend.calls)


def objects_of(backend: Backend) -> set[tuple[ObjectKind, str]]:
    """Kind and name of everything that is stored."""
    return {(kind, info.name) for kind in ObjectKind for info in backend.list(kind)}
