"""An object on its way to an SFTP server, and how it gets its name there.

    1. open `tmp/<32 hex digits>`, mode 0400
    2. the bytes, many requests under way     a crash leaves a nameless file that means nothing
    3. fsync of the file, and close           its bytes are on the disk
    4. rename to its place                    seen whole or not at all
    5. fsync of the directory                 its name is on the disk too

Each is answered before the next is sent, but for the last of a server that does one thing after the other, as OpenSSH's
does: three or four round trips, where the bytes take no longer. A new directory for packs is made and synced on the
side, and other directories stay open. What is asked of a server beyond the standard, and what is done without it:

    posix-rename@openssh.com    replaces what is there; else the standard's rename, which fails if the object is there
                                (a server may deny posix-rename on purpose: then nobody can replace an object)
    fsync@openssh.com           else the server's disk decides when the bytes are safe (sftp_sync.py for directories)
    hardlink@openssh.com        for `config`, which never replaces; else the standard's rename
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, Protocol

from bfrepo.core.errors import StorageObjectExists
from bfrepo.core.protocols import Buffer
from bfrepo.ssh.errors import SshError
from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import (
    CREATE_NEW,
    NO_SUCH_FILE,
    PIECE,
    SftpStatus,
    close_handle,
    extended,
    make_directory,
    open_file,
    remove,
    rename,
    status_of,
)
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.layout import describe, object_path
from bfrepo.storage.sftp_pool import Line, SftpPool
from bfrepo.storage.sftp_sync import FSYNC, DirectorySync, as_good_as_it_goes

DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o400

_UNDER_WAY: Final = 128
"""How many writes may wait for their answers: 4 MiB, two windows of an SSH channel."""

_POSIX_RENAME: Final = "posix-rename@openssh.com"
_HARDLINK: Final = "hardlink@openssh.com"


class Home(Protocol):
    """What an upload needs of its backend."""

    @property
    def location(self) -> str:
        """Where it is, for messages."""

    @property
    def pool(self) -> SftpPool:
        """The sessions."""

    @property
    def ready_directories(self) -> set[bytes]:
        """Directories of packs that are known to be there, durably."""

    def path(self, relative: str) -> bytes:
        """A path below the root."""

    def writing(self, kind: ObjectKind, name: str | None) -> AbstractContextManager[None]:
        """Turns what goes wrong with the connection into our errors."""

    def answered(self, line: Line, kind: ObjectKind, name: str | None) -> AbstractContextManager[None]:
        """Turns what the server says is wrong with a change into our errors."""


class SftpUpload:
    """A temporary file that becomes an object. All of it goes through one session, which others use in between."""

    def __init__(self, home: Home, kind: ObjectKind) -> None:
        """Raises what `Backend.upload` raises."""
        self._home = home
        self._kind = kind
        self._temporary = home.path(f"tmp/{secrets.token_hex(16)}")
        self._offset = 0
        self._unanswered: deque[int] = deque()
        self._handle: bytes | None = None
        with home.writing(kind, None), home.pool.borrow() as self._line, home.answered(self._line, kind, None):
            self._batch = Batch(self._line.session)
            self._handle = self._batch.handle(self._batch.send(open_file(self._temporary, CREATE_NEW, _FILE_MODE)))
            home.pool.count_upload(self._line, 1)
        self._open = True

    def write(self, data: Buffer) -> None:
        """See `Upload.write`."""
        rest = memoryview(data).cast("B")
        with self._in_session(None) as handle:
            for start in range(0, len(rest), PIECE):
                piece = rest[start : start + PIECE]
                self._unanswered.append(self._batch.write(handle, self._offset, piece))
                self._offset += len(piece)
                if len(self._unanswered) > _UNDER_WAY:
                    self._batch.done(self._unanswered.popleft())

    def commit(self, name: str) -> None:
        """See `Upload.commit`."""
        try:
            path = self._home.path(object_path(self._kind, name))  # refuses what is no name
            with self._in_session(name) as handle:
                if not self._publish(handle, path):
                    raise StorageObjectExists(
                        f"{describe(self._kind, name)} in {self._home.location} exists already",
                        hint="there is a repository: use it, or choose another place",
                    )
                self._end()
        finally:
            self.abort()
        self._home.pool.forget(path)

    def abort(self) -> None:
        """See `Upload.abort`. What a broken connection leaves behind is swept by a later run."""
        if not self._open:
            return
        try:
            with suppress(SshError, SftpStatus), self._home.pool.again(self._line), self._batch as batch:
                if self._handle is not None:
                    batch.send(close_handle(self._handle))
                batch.done(batch.send(remove(self._temporary)))
        finally:
            self._end()

    def _end(self) -> None:
        self._open = False
        self._home.pool.count_upload(self._line, -1)

    @contextmanager
    def _in_session(self, name: str | None) -> Iterator[bytes]:
        """Gives the handle of the file."""
        if not self._open or self._handle is None:
            raise ValueError("the upload has ended")
        home, line = self._home, self._line
        with home.writing(self._kind, name), home.pool.again(line), home.answered(line, self._kind, name):
            yield self._handle

    def _finish_file(self, handle: bytes) -> None:
        """Bring all bytes to the disk."""
        batch = self._batch
        flushed = batch.send(extended(FSYNC, handle)) if FSYNC in self._line.session.extensions else None
        closed = batch.send(close_handle(handle))
        self._handle = None  # its number may soon be that of another file
        while self._unanswered:
            batch.done(self._unanswered.popleft())
        if flushed is not None:
            with as_good_as_it_goes():
                batch.done(flushed)
        batch.done(closed)

    def _publish(self, handle: bytes, path: bytes) -> bool:
        """Give the temporary file its place and name, durably. False if it is a config and there is one."""
        directory = path.rpartition(b"/")[0]
        is_pack = self._kind is ObjectKind.PACK
        makes = is_pack and directory not in self._home.ready_directories
        with Batch(self._line.session) as batch:
            made = batch.send(make_directory(directory, DIRECTORY_MODE)) if makes else None
            syncs = [self._sync(directory, keep=not is_pack)]
            if makes:
                syncs.append(self._sync(directory.rpartition(b"/")[0], keep=True))
            self._finish_file(handle)
            refusal = _refusal(batch, made)
            try:
                renamed = self._rename(batch, path, syncs)
            except SftpStatus as status:
                raise refusal if refusal is not None and status.code == NO_SUCH_FILE else status from None
            for sync in syncs:
                sync.finish()
        if makes:
            self._home.ready_directories.add(directory)
        return renamed

    def _sync(self, directory: bytes, *, keep: bool) -> DirectorySync:
        return DirectorySync(self._line.session, directory, self._line.directories, keep=keep)

    def _rename(self, batch: Batch, path: bytes, syncs: Sequence[DirectorySync]) -> bool:
        session = self._line.session
        if self._kind is ObjectKind.CONFIG:
            return _rename_first(batch, session, self._temporary, path)
        if _POSIX_RENAME in session.extensions:
            renamed = batch.send(extended(_POSIX_RENAME, self._temporary, path))
            for sync in syncs:
                sync.change_sent()
            batch.done(renamed)
        else:
            _rename_or_leave(batch, self._temporary, path)
        return True


def _refusal(batch: Batch, made: int | None) -> SftpStatus | None:
    """Why a directory was not made. Servers do not say whether that is because it is there already."""
    try:
        if made is not None:
            batch.done(made)
    except SftpStatus as status:
        return status
    return None


def _rename_first(batch: Batch, session: SftpSession, temporary: bytes, path: bytes) -> bool:
    """Rename where there is no such file; False where there is."""
    if _exists(batch, path):  # some servers rename over what is there, whatever the standard says
        return False
    if _HARDLINK in session.extensions:
        try:
            batch.done(batch.send(extended(_HARDLINK, temporary, path)))
        except SftpStatus:
            if _exists(batch, path):
                return False  # otherwise this file system has no hard links
        else:
            _remove_if_allowed(batch, temporary)
            return True
    try:
        batch.done(batch.send(rename(temporary, path)))
    except SftpStatus:
        if _exists(batch, path):
            return False
        raise
    return True


def _rename_or_leave(batch: Batch, temporary: bytes, path: bytes) -> None:
    """Rename where nothing may be replaced: an object that is there already is the same, and stays."""
    try:
        batch.done(batch.send(rename(temporary, path)))
    except SftpStatus:
        if not _exists(batch, path):
            raise
        _remove_if_allowed(batch, temporary)


def _remove_if_allowed(batch: Batch, temporary: bytes) -> None:
    with suppress(SftpStatus):
        batch.done(batch.send(remove(temporary)))


def _exists(batch: Batch, path: bytes) -> bool:
    try:
        batch.attributes(batch.send(status_of(path)))
    except SftpStatus as status:
        if status.code == NO_SUCH_FILE:
            return False
        raise
    return True
