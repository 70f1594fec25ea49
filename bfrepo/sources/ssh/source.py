"""Files and directories of a host, as a source.

There are two ways to list and two to read. `find` lists in one go, with inode numbers and change times; where there is
none, SFTP goes from directory to directory. GNU tar sends files with all they have; where there is none, SFTP reads
their content. What is used is found out by asking the host, and said by `way`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from bfrepo.core.errors import SourceError
from bfrepo.data.node import Node
from bfrepo.sources.base import Entry, StaleFile, StreamedSource
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.filesystem import OnError
from bfrepo.sources.ssh.attributes import TarredAttributes
from bfrepo.sources.ssh.find import add_owners
from bfrepo.sources.ssh.host import HostLink
from bfrepo.sources.ssh.lister import Lister
from bfrepo.sources.ssh.listing import Listing, RemoteStat
from bfrepo.sources.ssh.place import RemoteHost
from bfrepo.sources.ssh.sftpfeed import SftpFeed, SftpFile
from bfrepo.sources.ssh.tarfeed import TarFeed, TarredFile
from bfrepo.ssh.config import SshSettings
from bfrepo.ssh.errors import SshError


class SshSource(StreamedSource):
    """Paths of one host. `open_root` may be called again, for a new look at all of it."""

    def __init__(
        self,
        host: RemoteHost,
        paths: Sequence[bytes],
        settings: SshSettings,
        *,
        rules: ExcludeRules,
        one_file_system: bool,
        sudo: bool,
        on_error: OnError,
    ) -> None:
        """`paths` are absolute and tidy. Of the rules only patterns and sizes count. Connects to nothing yet."""
        self._link = HostLink(host, settings, sudo=sudo)
        self._paths = [path for path in paths if not any(_is_below(path, other) for other in paths)]
        self._lister = Lister(self._link, self._paths, one_file_system=one_file_system, sudo=sudo)
        self._rules = rules
        self.on_error = on_error
        self._tree: _Tree | None = None

    @property
    def way(self) -> str:
        """How the host is read, for people; empty before it is."""
        return self._tree.way if self._tree is not None else ""

    def begin(self) -> None:
        """Connect and list beside what the caller does until `open_root`. Never needed."""
        self._lister.begin()

    def open_root(self) -> SshDirectory:
        """See Source.open_root: lists everything. Raises SourceError."""
        listing = self._lister.list()
        missing = [path for path in self._paths if path not in listing.found]
        for path in missing:
            listing.unreadable.setdefault(path, FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
        for path, error in sorted(listing.unreadable.items(), key=lambda item: item[0]):
            self.on_error(path, error)
        if len(missing) == len(self._paths):
            self._link.close()
            raise SourceError(
                f"none of the paths to back up can be found on {self._link.host.shown}",
                hint="check how they are spelled, and that the user there may see them",
            )
        self._tree = _Tree(self._link, listing, self._rules, set(self._paths))
        return SshDirectory(self._tree, b"/", None)

    def expect(self, entries: Sequence[Entry]) -> None:
        """See StreamedSource.expect."""
        if self._tree is not None and self._tree.tar is not None:
            self._tree.tar.expect([entry.path for entry in entries])


class _Tree:
    """What directories and files have in common."""

    def __init__(self, link: HostLink, listing: Listing, rules: ExcludeRules, asked_for: set[bytes]) -> None:
        self.link = link
        self.listing = listing
        self.rules = rules
        self.asked_for = asked_for
        self.tar = TarFeed(link, listing) if listing.has_tar else None
        self.sftp = None if listing.has_tar else SftpFeed(link, listing)
        self._knows_owners = not listing.has_tar
        self._attributes = TarredAttributes(link, listing) if listing.has_tar else None
        listed = "find" if listing.now_ns else "SFTP"
        self.way = f"listed by {listed}, read by {'tar' if self.tar else 'SFTP'}"

    def node(self, path: bytes, stat: RemoteStat) -> Node:
        """The node of what is no regular file. Raises OSError, SourceError."""
        if self._attributes is not None and stat.type != "socket":
            return self._attributes.node(path, stat)
        if stat.type in ("chardev", "blockdev"):
            raise OSError(errno.ENOTSUP, "SFTP does not tell which device it is: that takes GNU tar on the host")
        if stat.type == "symlink" and not stat.target:
            raise OSError(errno.EIO, "the host does not say where it leads")
        if stat.type == "socket" and not self._knows_owners:
            self._ask_for_owners()
        return self.listing.node(stat)

    def _ask_for_owners(self) -> None:
        """tar sends no sockets."""
        while True:
            try:
                add_owners(self.link, self.listing)
            except SshError as error:
                self.link.failed(error)
            else:
                self.link.worked()
                self._knows_owners = True
                return

    def close(self) -> None:
        for feed in (self.tar, self.sftp, self._attributes):
            if feed is not None:
                feed.close()
        self.link.close()


class SshDirectory:
    """A directory of the listing."""

    __slots__ = ("_stat", "path", "prefix", "tree")

    def __init__(self, tree: _Tree, path: bytes, stat: RemoteStat | None) -> None:
        self.tree = tree
        self.path = path
        self.prefix = path if path == b"/" else path + b"/"
        self._stat = stat

    def node(self) -> Node | None:
        """See Directory.node."""
        return None if self._stat is None else self.tree.node(self.path, self._stat)

    def entries(self) -> list[SshEntry]:
        """See Directory.entries."""
        rules, asked_for, prefix = self.tree.rules, self.tree.asked_for, self.prefix
        stats = self.tree.listing.entries(self.path)
        leave_out = rules.leaves_out(prefix)
        return [
            SshEntry(self, stat)
            for stat in stats
            if prefix + stat.name in asked_for
            or not (rules.is_too_large(stat) or (leave_out is not None and self._is_inside(leave_out, stat)))
        ]

    def read_small(self, entries: Sequence[Entry], limit: int, buffer: memoryview) -> Sequence[tuple[Node, int] | None]:
        """See Directory.read_small. Raises SourceError."""
        files = [(entry.path, entry.stat) for entry in entries if isinstance(entry, SshEntry)]
        if self.tree.tar is not None:
            return _read_tarred(self.tree.tar, self.tree.listing, files, limit, buffer)
        if self.tree.sftp is None:
            return [None] * len(files)
        fitting, size = 0, 0
        while fitting < len(files) and size + files[fitting][1].size <= len(buffer):
            size += files[fitting][1].size
            fitting += 1
        return self.tree.sftp.read_small(files[:fitting], buffer)

    def close(self) -> None:
        """See Directory.close. With the root the connection ends."""
        if self.path == b"/":
            self.tree.close()

    def _is_inside(self, leave_out: Callable[..., bool], stat: RemoteStat) -> bool:
        """Whether a pattern leaves it out; directories on the way to what was asked for stay."""
        path = self.prefix + stat.name
        return not any(_is_below(asked, path) for asked in self.tree.asked_for) and leave_out(stat.name, stat.type)


class SshEntry:
    """One name in a directory."""

    __slots__ = ("_directory", "name", "stat")

    def __init__(self, directory: SshDirectory, stat: RemoteStat) -> None:
        self._directory = directory
        self.name = stat.name
        self.stat = stat

    @property
    def path(self) -> bytes:
        """See Entry.path."""
        return self._directory.prefix + self.name

    def node(self) -> Node:
        """See Entry.node. Raises OSError, SourceError."""
        return self._directory.tree.node(self.path, self.stat)

    def open_file(self) -> TarredFile | SftpFile:
        """See Entry.open_file. Raises OSError, SourceError."""
        tree = self._directory.tree
        if tree.tar is not None:
            return TarredFile(tree.tar, self.stat, self.path, tree.listing)
        if tree.sftp is not None:
            return SftpFile(tree.sftp, self.stat, self.path)
        raise OSError(errno.ENOTSUP, "there is no way to read it")

    def open_directory(self) -> SshDirectory:
        """See Entry.open_directory."""
        return SshDirectory(self._directory.tree, self.path, self.stat)


def _is_below(path: bytes, above: bytes) -> bool:
    return path != above and path.startswith(above if above == b"/" else above + b"/")


def _read_tarred(
    feed: TarFeed, listing: Listing, files: Sequence[tuple[bytes, RemoteStat]], limit: int, buffer: memoryview
) -> list[tuple[Node, int] | None]:
    found: list[tuple[Node, int] | None] = []
    filled = 0
    for path, stat in files:
        try:
            file = TarredFile(feed, stat, path, listing)
        except OSError as error:
            feed.fail_next(path, error)
            found.append(None)
            continue
        node = file.node()
        size = node.size
        if size > limit or list(file.extents(size)) != ([(0, size)] if size else []):
            found.append(None)
            break  # it comes next, and is read by itself
        if filled + size > len(buffer):
            break
        try:
            file.read_into(buffer[filled : filled + size], 0)
        except StaleFile:
            found.append(None)
            break
        found.append((node, size))
        filled += size
    return found
