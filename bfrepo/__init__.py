"""BackupForge as a library: open a repository, back up into it, restore from it, look at it, check it.

    from bfrepo import SystemClock, load_snapshots, open_backend, open_repository, parse_location

    backend = open_backend(parse_location("/srv/backup"))
    with open_repository(backend, SystemClock(), lambda: b"password") as repository:
        for snapshot_id, snapshot in load_snapshots(repository).items():
            print(snapshot_id.hex()[:8], snapshot.time, snapshot.paths)

Names are loaded when they are first used, so importing one part of the library does not import all of it.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_HOMES: Final = {
    "BackupForgeError": "bfrepo.core.errors",
    "BackupOptions": "bfrepo.operations.backup",
    "BackupResult": "bfrepo.operations.backup",
    "CheckOptions": "bfrepo.operations.check",
    "CheckResult": "bfrepo.operations.check",
    "ExcludeRules": "bfrepo.sources.exclude",
    "FileSystemSource": "bfrepo.sources.filesystem",
    "PathFilter": "bfrepo.sources.exclude",
    "Quiet": "bfrepo.core.progress",
    "Reporter": "bfrepo.core.progress",
    "Repository": "bfrepo.repository.repository",
    "RestoreOptions": "bfrepo.restorer.plan",
    "RestoreResult": "bfrepo.operations.restore",
    "SystemClock": "bfrepo.core.clock",
    "backup": "bfrepo.operations.backup",
    "check": "bfrepo.operations.check",
    "init_repository": "bfrepo.repository.repository",
    "load_snapshots": "bfrepo.operations.snapshots",
    "new_config": "bfrepo.repository.config",
    "open_backend": "bfrepo.storage.location",
    "open_repository": "bfrepo.repository.repository",
    "parse_location": "bfrepo.storage.location",
    "restore": "bfrepo.operations.restore",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)
