"""Bringing to the disk what happens to names in a directory on a server, where the server can (fsync@openssh.com).

A directory is opened like a file for it, which servers on Linux allow; where it fails, its fsync is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import BAD_MESSAGE, READ, UNSUPPORTED, SftpStatus, close_handle, extended, open_file

FSYNC: Final = "fsync@openssh.com"


class DirectorySync:
    """Syncs one directory after one change in it.

    1. made before the change, so that the directory is opened on the side
    2. `change_sent`, when the request for the change is on its way
    3. `finish`, when the change was answered; nothing of this where the change fails

    A server that does one thing after the other (`SftpSession.in_order`) is told to sync without waiting for the answer
    to the change. `kept` has handles of directories that were opened before, None for those that cannot be; this one is
    put there if it is there for good (`keep`), and else closed. Methods raise SftpStatus and SshError.
    """

    def __init__(self, session: SftpSession, directory: bytes, kept: dict[bytes, bytes | None], *, keep: bool) -> None:
        self._session = session
        self._batch = Batch(session)
        self._directory = directory
        self._kept = kept
        self._keep = keep
        self._synced: int | None = None
        unknown = FSYNC in session.extensions and directory not in kept
        self._opened = self._batch.send(open_file(directory, READ)) if unknown else None

    def change_sent(self) -> None:
        """The request for the change was sent, and nothing after it."""
        if self._session.in_order:
            self._send()

    def finish(self) -> None:
        """Return when what happened to the names is on the disk."""
        if self._synced is None:
            self._send()
        if self._synced is not None:
            with as_good_as_it_goes():
                self._batch.done(self._synced)

    def _send(self) -> None:
        handle = self._handle()
        if handle is not None:
            self._synced = self._batch.send(extended(FSYNC, handle))
            if not self._keep:
                self._batch.send(close_handle(handle))

    def _handle(self) -> bytes | None:
        if self._opened is None:
            return self._kept.get(self._directory)
        handle = None
        with suppress(SftpStatus):
            handle = self._batch.handle(self._opened)
        self._opened = None
        if self._keep:
            self._kept[self._directory] = handle
        return handle


@contextmanager
def as_good_as_it_goes() -> Iterator[None]:
    """Some file systems have no fsync, for directories or at all; they keep what promise they can."""
    try:
        yield
    except SftpStatus as status:
        if status.code not in (UNSUPPORTED, BAD_MESSAGE):
            raise
