"""Files of a host by its `tar`: it is given names, and sends each file with its attributes and its holes.

Names that will be wanted are collected; whenever the files of one list run out, the next has those that came in
meanwhile, and the one after that is sent early, so that the host works while we do. What breaks is begun again with
the file that was under way: of that, what had come already is read once more and passed over, provided that it is
still the same file.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from bfrepo.core.units import MIB
from bfrepo.data.node import Node
from bfrepo.formats.tar_header import MalformedTar
from bfrepo.formats.tar_reader import TarMember
from bfrepo.sources.base import StaleFile
from bfrepo.sources.ssh.find import look_again
from bfrepo.sources.ssh.host import HostLink
from bfrepo.sources.ssh.listing import Listing, RemoteStat, owner_name
from bfrepo.sources.ssh.tarsession import SessionEnded, TarRound, TarSession
from bfrepo.ssh.errors import SshError

_MOST_NAMES: Final = 4096
_MOST_NAME_BYTES: Final = MIB
"""How long a list may become: that many names, or bytes of them."""

_BROKEN: Final = (SshError, MalformedTar)
_PASSED_OVER: Final = MIB
_SECOND: Final = 1_000_000_000


class TarFeed:
    """Files by tar. `expect` may be called by any thread, the rest by one."""

    def __init__(self, link: HostLink, listing: Listing) -> None:
        self._link = link
        self._listing = listing
        self._lock = threading.Lock()
        self._expected: deque[bytes] = deque()
        self._failed: dict[bytes, OSError] = {}
        self._session: TarSession | None = None
        self._round: TarRound | None = None
        self._next: TarRound | None = None
        self._beside: TarSession | None = None
        """For what is not in the order that was expected."""
        self._alone: TarRound | None = None

    def expect(self, paths: Sequence[bytes]) -> None:
        """These will be wanted next, in this order."""
        with self._lock:
            self._expected.extend(paths)

    def find(self, path: bytes) -> tuple[TarRound, TarMember]:
        """A file, to be read by `read_into` of the round after `take`. Raises OSError, SourceError."""
        failure = self._failed.pop(path, None)
        if failure is not None:
            raise failure
        while True:
            try:
                found = self._round_with(path)
                member = found.find(path)
            except OSError:
                self._link.worked()
                raise
            except _BROKEN as error:
                self.broke(path, error)
            else:
                return found, member

    def fail_next(self, path: bytes, error: OSError) -> None:
        """The next `find` of this path raises this."""
        self._failed[path] = error

    def taken(self, found: TarRound, path: bytes) -> None:
        """The file is read now, and not wanted again."""
        found.take(path)
        self._link.worked()

    def is_as_listed(self, path: bytes, stat: RemoteStat) -> bool:
        """Whether the file has not changed since it was listed: not even its change time. Raises SourceError."""
        while True:
            try:
                now = look_again(self._link, path)
            except SshError as error:
                self._link.failed(error)
            else:
                return now is not None and (now.ctime_ns, now.inode, now.size) == (stat.ctime_ns, stat.inode, stat.size)

    def broke(self, path: bytes, error: Exception) -> None:
        """Begin again with this file. Raises SourceError when it is no use."""
        left = [path, *(each for each in self._waiting() if each != path)]
        self._close_rounds()
        self._close_alone()
        with self._lock:
            self._expected.extendleft(reversed(left))
        if not isinstance(error, SessionEnded):
            self._link.failed(error)

    def close(self) -> None:
        """Nothing more is wanted."""
        self._close_alone()
        self._close_rounds()

    def _waiting(self) -> list[bytes]:
        return [path for each in (self._round, self._next) if each is not None for path in each.waiting]

    def _close_rounds(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._round = self._next = None

    def _round_with(self, path: bytes) -> TarRound:
        """The list that the file is on."""
        if not self._is_expected(path):
            return self._round_of_one(path)
        while self._round is None or path not in self._round.waiting:
            if self._round is not None:
                self._leave_round(self._round)
            self._round, self._next = self._next or self._start(), None
        if self._next is None and self._expected:
            self._next = self._start()
        return self._round

    def _leave_round(self, left: TarRound) -> None:
        """What was on the list after it is asked for again, should the session be of no further use."""
        self._round = None
        if not left.finish():
            self._begin_anew()

    def _begin_anew(self) -> None:
        waiting = self._waiting()
        self._close_rounds()
        with self._lock:
            self._expected.extendleft(reversed(waiting))

    def _round_of_one(self, path: bytes) -> TarRound:
        if self._alone is None or path not in self._alone.waiting:
            if self._alone is not None and not self._alone.finish():
                self._close_alone()
            self._beside = self._beside or TarSession(self._link)
            self._alone = TarRound(self._beside, [path])
        return self._alone

    def _is_expected(self, path: bytes) -> bool:
        if any(each is not None and path in each.waiting for each in (self._round, self._next)):
            return True
        with self._lock:
            return path in self._expected

    def _close_alone(self) -> None:
        if self._beside is not None:
            self._beside.close()
        self._beside = self._alone = None

    def _start(self) -> TarRound:
        with self._lock:
            paths: list[bytes] = []
            size = 0
            while self._expected and len(paths) < _MOST_NAMES and size < _MOST_NAME_BYTES:
                paths.append(self._expected.popleft())
                size += len(paths[-1]) + 1
        try:
            self._session = self._session or TarSession(self._link)
            return TarRound(self._session, paths)
        except SshError:
            with self._lock:
                self._expected.extendleft(reversed(paths))
            raise


class TarredFile:
    """A regular file that tar sends; see OpenFile. It is read from front to back."""

    def __init__(self, feed: TarFeed, stat: RemoteStat, path: bytes, listing: Listing) -> None:
        """Raises OSError, SourceError."""
        self._feed = feed
        self._path = path
        self._stat = stat
        self._round, self._member = feed.find(path)
        if self._member.kind != "file":
            raise OSError(errno.ESTALE, "it is no regular file any more")
        self._node = node_of(self._member, stat, listing)
        self._taken = False
        self._read = 0

    def node(self) -> Node:
        """See OpenFile.node."""
        return self._node

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """See OpenFile.extents."""
        return iter(self._member.extents)

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile.read_into. Raises StaleFile where the connection broke and it is not the same file any more."""
        while True:
            try:
                if not self._taken:
                    self._feed.taken(self._round, self._path)
                    self._taken = True
                    self._pass_over(self._read)
                read = self._round.read_into(buffer)
                self._read += read
                return read
            except _BROKEN as error:
                self._begin_again(error)

    def changed(self, node: Node) -> bool:
        """See OpenFile.changed: as far as tar has noticed it."""
        return self._round.says_changed(self._path)

    def close(self) -> None:
        """See OpenFile.close."""

    def _begin_again(self, error: Exception) -> None:
        before = self._member
        self._feed.broke(self._path, error)
        self._round, self._member = self._feed.find(self._path)
        self._taken = False
        now, alike = self._member, (before.mtime_ns, before.size, before.extents)
        if (now.mtime_ns, now.size, now.extents) != alike or not self._feed.is_as_listed(self._path, self._stat):
            raise StaleFile(errno.ESTALE, "it changed while the connection was lost")

    def _pass_over(self, count: int) -> None:
        scratch = memoryview(bytearray(min(count, _PASSED_OVER)))
        while count:
            count -= self._round.read_into(scratch[:count])


def node_of(member: TarMember, stat: RemoteStat, listing: Listing) -> Node:
    """What tar and the listing say of a name. Tar has looked later; but what the listing says is the time of its last
    change is kept, so that whatever changed since is read again by the next backup.
    """
    node = listing.node(stat)
    node.mode = member.header.mode & 0o7777
    node.uid, node.gid = member.uid, member.gid
    node.user, node.group = owner_name(member.user), owner_name(member.group)
    if member.mtime_ns not in (0, stat.mtime_ns // _SECOND * _SECOND):  # 0: also what its header has no room for
        node.mtime_ns = member.mtime_ns
    node.xattrs = member.xattrs
    if node.type == "file":
        node.size = member.size
    return node
