"""What goes wrong between two machines, before anybody knows what the connection is for.

Whoever uses a connection turns these into errors of its own: a storage into StorageError and StorageDenied.
"""

from __future__ import annotations

from bfrepo.core.errors import BackupForgeError


class SshError(BackupForgeError):
    """The connection did not come about, or was lost. Another attempt may succeed."""

    code = "ssh-failed"


class SshRefused(SshError):
    """There will be no connection until somebody changes something: a key, a password, a file, the server."""

    code = "ssh-refused"
