"""Files of a host by SFTP, for a host that has no GNU tar: many small ones at a time, and many pieces of a large one.

SFTP tells neither of attributes nor of holes: a file comes without them, and its zeros are read.
"""

from __future__ import annotations

import errno
import stat as modes
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from bfrepo.data.node import Node
from bfrepo.sources.base import StaleFile
from bfrepo.sources.ssh.crawl import as_os_error
from bfrepo.sources.ssh.host import HostLink
from bfrepo.sources.ssh.listing import Listing, RemoteStat
from bfrepo.ssh.errors import SshError
from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import (
    PIECE,
    READ,
    Attributes,
    SftpStatus,
    close_handle,
    open_file,
    open_status,
    read_piece,
)

_SECOND: Final = 1_000_000_000


class SftpFeed:
    """Files by SFTP. Used by one thread."""

    def __init__(self, link: HostLink, listing: Listing) -> None:
        self.link = link
        self.listing = listing
        self._session: SftpSession | None = None

    def session(self) -> SftpSession:
        """A session that is not known to be broken. Raises SshRefused, SshError."""
        if self._session is None or not self._session.usable:
            self._session = self.link.open_sftp()
        return self._session

    def read_small(
        self, files: Sequence[tuple[bytes, RemoteStat]], buffer: memoryview
    ) -> list[tuple[Node, int] | None]:
        """See Directory.read_small: `files` are paths and what the listing said of them; they fit."""
        while True:
            try:
                found = _read_small(self.session(), files, buffer)
            except SshError as error:
                self.link.failed(error)
            else:
                self.link.worked()
                return [
                    (self.node(stat, now), stat.size) if now is not None else None
                    for now, (_, stat) in zip(found, files, strict=True)
                ]

    def node(self, stat: RemoteStat, now: Attributes) -> Node:
        """What the listing said, or SFTP where that has changed since; that is read again by the next backup."""
        node = self.listing.node(stat)
        if not _is_same(stat, now):
            node.mode = modes.S_IMODE(now.mode or 0)
            node.size, node.mtime_ns, node.ctime_ns = now.size or 0, (now.mtime or 0) * _SECOND, 0
        return node

    def close(self) -> None:
        """Nothing more is wanted."""
        if self._session is not None:
            self._session.close()


def _is_same(stat: RemoteStat, now: Attributes) -> bool:
    return now.size == stat.size and now.mtime == (stat.mtime_ns // _SECOND) & 0xFFFF_FFFF


def _read_small(
    session: SftpSession, files: Sequence[tuple[bytes, RemoteStat]], buffer: memoryview
) -> list[Attributes | None]:
    """Each file whole, one after the other in the buffer; None for one that is not as the listing said."""
    found: list[Attributes | None] = []
    start = 0
    with Batch(session) as batch:
        opened = [batch.send(open_file(path, READ)) for path, _ in files]
        asked: list[tuple[bytes, list[int], int] | None] = []
        for number, (_, stat) in zip(opened, files, strict=True):
            try:
                handle = batch.handle(number)
            except SftpStatus:
                asked.append(None)
                continue
            pieces = range(0, stat.size + 1, PIECE)  # one byte more shows whether the file has grown
            reads = [batch.send(read_piece(handle, at, min(PIECE, stat.size + 1 - at))) for at in pieces]
            asked.append((handle, reads, batch.send(open_status(handle))))
        for request, (_, stat) in zip(asked, files, strict=True):
            now = _take_small(batch, request, stat, buffer[start : start + stat.size]) if request else None
            found.append(now)
            start += stat.size if now is not None else 0
    return found


def _take_small(
    batch: Batch, request: tuple[bytes, list[int], int], stat: RemoteStat, buffer: memoryview
) -> Attributes | None:
    handle, reads, status = request
    end, whole = 0, True
    try:
        for number in reads:
            data = batch.data(number)
            if data is None:
                continue
            if end + len(data) > len(buffer):
                whole = False
                continue
            buffer[end : end + len(data)] = data
            end += len(data)
        now = batch.attributes(status)
    except SftpStatus:
        return None
    finally:
        batch.send(close_handle(handle))
    return now if whole and end == stat.size and _is_same(stat, now) and modes.S_ISREG(now.mode or 0) else None


class SftpFile:
    """A regular file that is read by SFTP; see OpenFile. Where the connection breaks, it goes on with a new one."""

    def __init__(self, feed: SftpFeed, stat: RemoteStat, path: bytes) -> None:
        """Opens it. Raises OSError, SourceError."""
        self._feed = feed
        self._stat = stat
        self._path = path
        self._handle = b""
        self._session: SftpSession | None = None
        self._begun = self._open_until_it_works()
        if not modes.S_ISREG(self._begun.mode or 0):
            self.close()
            raise OSError(errno.ESTALE, "it is no regular file any more")

    def node(self) -> Node:
        """See OpenFile.node."""
        return self._feed.node(self._stat, self._begun)

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """See OpenFile.extents. Of holes nothing is known."""
        return iter([(0, size)] if size else [])

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile.read_into. Raises StaleFile where the connection broke and it is not the same file any more."""
        while True:
            try:
                read = self._read(buffer, offset)
            except SftpStatus as status:
                raise as_os_error(status) from status
            except SshError as error:
                self._feed.link.failed(error)
                if not _alike(self._open_until_it_works(), self._begun):
                    raise StaleFile(errno.ESTALE, "it changed while the connection was lost") from error
            else:
                self._feed.link.worked()
                return read

    def changed(self, node: Node) -> bool:
        """See OpenFile.changed, as far as SFTP tells."""
        try:
            return not _alike(self._status(), self._begun)
        except (SftpStatus, SshError):
            return True

    def close(self) -> None:
        """See OpenFile.close."""
        handle, self._handle = self._handle, b""
        session = self._session
        if handle and session is not None and session.usable:
            with suppress(SshError), Batch(session) as batch:  # with the connection everything was closed
                batch.send(close_handle(handle))

    def _open_until_it_works(self) -> Attributes:
        while True:
            try:
                self._session = self._feed.session()
                with Batch(self._session) as batch:
                    self._handle = batch.handle(batch.send(open_file(self._path, READ)))
                return self._status()
            except SftpStatus as status:
                raise as_os_error(status) from status
            except SshError as error:
                self._feed.link.failed(error)

    def _status(self) -> Attributes:
        with Batch(self._usable()) as batch:
            return batch.attributes(batch.send(open_status(self._handle)))

    def _read(self, buffer: memoryview, offset: int) -> int:
        with Batch(self._usable()) as batch:
            return batch.read(self._handle, offset, buffer)

    def _usable(self) -> SftpSession:
        if self._session is None or not self._session.usable:
            raise SshError(f"the connection to {self._feed.link.host.shown} was lost")
        return self._session


def _alike(one: Attributes, other: Attributes) -> bool:
    return (one.size, one.mtime, one.mode) == (other.size, other.mtime, other.mode)
