"""SFTP sessions for many threads: several channels over one connection, each used by one thread at a time.

One connection, because logging in takes ten round trips and perhaps the touch of a finger, a further channel three. It
is made when the first call needs it, channels when a call finds all others busy, up to a limit or to what the server
allows. A session that broke is dropped by whoever notices, with its connection if that broke too; the next call makes
new ones.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from bfrepo.ssh.connect import SshConnection
from bfrepo.ssh.errors import SshError, SshRefused
from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import close_handle

_OPEN_FILES = 8
"""How many packs a session keeps open for reading: a restore reads a few packs frame by frame."""

_LEFT_OPEN = 32
"""How many files that nobody needs any more stay open, because the end of the session closes them for nothing."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file open for reading, and the size in bytes that it had then."""

    handle: bytes
    size: int


class Line:
    """A session and what is open in it. Whoever borrowed it has it alone."""

    def __init__(self, connection: SshConnection) -> None:
        """Opens a channel. Raises SshRefused, SshError."""
        self.connection = connection
        channel = connection.open_subsystem("sftp")
        self.session = SftpSession(channel, connection.host.shown, in_order=connection.is_openssh)
        self.uploads = 0
        self.busy = True
        self.files: OrderedDict[bytes, RemoteFile] = OrderedDict()
        self.to_close: list[bytes] = []
        self.directories: dict[bytes, bytes | None] = {}
        """Handles of directories that stay open to be synced, None for those that cannot be opened."""


class SftpPool:
    """The sessions of a backend. Any thread may call anything."""

    def __init__(self, connect: Callable[[], SshConnection], limit: int) -> None:
        self._connect = connect
        self._limit = limit
        self._changed = threading.Condition()
        self._connecting = threading.Lock()
        self._lines: list[Line] = []
        self._opening = 0
        self._deletions = 0
        self._connection: SshConnection | None = None

    @contextmanager
    def borrow(self, path: bytes | None = None) -> Iterator[Line]:
        """A session for the time of the block: best one with the file at `path` open, else one with few uploads.

        Raises SshRefused, SshError.
        """
        line = self._take(path)
        try:
            yield line
        finally:
            self._give_back(line)

    @contextmanager
    def again(self, line: Line) -> Iterator[Line]:
        """The same session as before, as soon as nobody else has it. Raises SshError when it broke meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not line.busy)
            if line not in self._lines:
                raise SshError(f"the connection to {line.connection.host.shown} was lost")
            line.busy = True
        try:
            yield line
        finally:
            self._give_back(line)

    def keep_open(self, line: Line, path: bytes, file: RemoteFile, deletions: int) -> None:
        """Keep a file open for the next read. `deletions` is what there were before it was opened."""
        with self._changed:
            if deletions != self._deletions:
                line.to_close.append(file.handle)
                return
            line.files[path] = file
            while len(line.files) > _OPEN_FILES:
                line.to_close.append(line.files.popitem(last=False)[1].handle)

    def count_upload(self, line: Line, change: int) -> None:
        """One more upload goes through the session, or one less."""
        with self._changed:
            line.uploads += change

    @property
    def deletions(self) -> int:
        """How often `forget` was called."""
        with self._changed:
            return self._deletions

    def forget(self, path: bytes) -> None:
        """Nobody finds the file open any more: it was deleted or replaced."""
        with self._changed:
            self._deletions += 1
            for line in self._lines:
                file = line.files.pop(path, None)
                if file is not None:
                    line.to_close.append(file.handle)

    def close(self) -> None:
        """End all sessions and the connection. May be called again."""
        with self._changed:
            lines, self._lines = self._lines, []
            connection, self._connection = self._connection, None
        for line in lines:
            line.session.close()
        if connection is not None:
            connection.close()

    def _take(self, path: bytes | None) -> Line:
        with self._changed:
            while True:
                free = sorted(self._free_lines(), key=lambda line: (path not in line.files, line.uploads))
                may_open = len(self._lines) + self._opening < self._limit
                if free and not (may_open and free[0].uploads and path not in free[0].files):
                    free[0].busy = True
                    return free[0]
                if may_open:
                    self._opening += 1
                    break
                self._changed.wait()
        line = self._open()
        return line if line is not None else self._take(path)

    def _free_lines(self) -> list[Line]:
        """The sessions that nobody has. Those that broke while they lay idle are dropped."""
        idle = [line for line in self._lines if not line.busy]
        for line in idle:
            if not line.session.usable:
                self._drop(line)
        return [line for line in idle if line.session.usable]

    def _open(self) -> Line | None:
        """A new session; None if the server allows no more than there are."""
        line = None
        try:
            line = self._new_line()
        except SshRefused:
            with self._changed:
                if not self._lines:
                    raise
                self._limit = len(self._lines)
        finally:
            with self._changed:
                self._opening -= 1
                if line is not None:
                    self._lines.append(line)
                self._changed.notify_all()
        return line

    def _new_line(self) -> Line:
        """A session on the connection there is; on a new one if that broke and nobody had noticed."""
        connection = self._connected()
        try:
            return Line(connection)
        except SshError:
            if connection.alive:
                raise
            return Line(self._connected())

    def _connected(self) -> SshConnection:
        with self._connecting:
            if self._connection is not None and not self._connection.alive:
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _give_back(self, line: Line) -> None:
        if line.session.usable and len(line.to_close) > _LEFT_OPEN:
            with self._changed:
                handles, line.to_close = line.to_close, []
            with suppress(SshError), Batch(line.session) as batch:
                for handle in handles:
                    batch.send(close_handle(handle))
        with self._changed:
            line.busy = False
            if not line.session.usable:
                self._drop(line)
            self._changed.notify_all()

    def _drop(self, line: Line) -> None:
        if line in self._lines:
            self._lines.remove(line)
            line.session.close()
