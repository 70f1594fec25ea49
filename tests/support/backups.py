"""Backing up a dictionary: the real operation, with as few words as a test has to spare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bfrepo.core.progress import Quiet, Reporter
from bfrepo.operations.backup import BackupOptions, BackupResult, backup
from bfrepo.repository.repository import Repository
from tests.support.sources import DictSource, Item


def backup_options(**changes: Any) -> BackupOptions:
    """Options with everything filled in that a test does not care about; one worker, so that it is repeatable."""
    plain: dict[str, Any] = {
        "paths": (b"/data",), "hostname": "here", "username": "me", "program": "tests", "workers": 1,
    }  # fmt: skip
    return BackupOptions(**{**plain, **changes})


def never() -> bool:
    """Nobody asks to stop."""
    return False


def run_backup(
    repository: Repository,
    tree: Mapping[str, Item | bytes] | DictSource,
    *,
    reporter: Reporter | None = None,
    cancelled: Callable[[], bool] = never,
    **options: Any,
) -> BackupResult:
    """Back up a tree."""
    source = tree if isinstance(tree, DictSource) else DictSource(tree)
    return backup(repository, lambda: source, backup_options(**options), reporter or Quiet(), cancelled)


def incompressible(seed: int, size: int) -> bytes:
    """Bytes that look random and are the same every time."""
    from blake3 import blake3

    return blake3(seed.to_bytes(8, "little")).digest(length=size)
