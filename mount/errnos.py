"""Which errno a process gets for an error of ours. The one place that decides it."""

from __future__ import annotations

import errno
from typing import Final

from bfrepo.core.errors import BackupForgeError, Interrupted, ObjectNotFound, StorageDenied

_ERRNOS: Final[tuple[tuple[type[Exception], int], ...]] = (
    (ObjectNotFound, errno.ENOENT),
    (StorageDenied, errno.EACCES),
    (Interrupted, errno.EINTR),
    (BackupForgeError, errno.EIO),
    (MemoryError, errno.ENOMEM),
)


def errno_of(error: Exception) -> int:
    """The errno that says best what happened; EIO where none does."""
    return next((number for kind, number in _ERRNOS if isinstance(error, kind)), errno.EIO)
