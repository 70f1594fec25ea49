"""The snapshots that a command line means, for commands that change them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.app import Work

if TYPE_CHECKING:
    from bfrepo.data.selection import SnapshotFilter
    from bfrepo.data.snapshot import Snapshot
    from bfrepo.repository.repository import Repository


def choose_snapshots(
    repository: Repository, names: Sequence[str], chosen: SnapshotFilter, work: Work
) -> dict[bytes, Snapshot]:
    """Those that are named, or all that match the filters, oldest first. One that cannot be read is reported."""
    from bfrepo.data.selection import find_snapshot
    from bfrepo.operations.snapshots import load_snapshots

    known = load_snapshots(repository, on_error=lambda name, error: work.display.problem(b"", str(error)))
    if not names:
        return chosen.apply(known)
    wanted = {find_snapshot(name, known, chosen) for name in names}
    return {identifier: snapshot for identifier, snapshot in known.items() if identifier in wanted}
