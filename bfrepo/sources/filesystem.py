"""The machine's own file system as a source, in a tree that mirrors absolute paths.

Everything is reached from an open directory by one name, without following symlinks, so that no path is too long and
nothing that is swapped meanwhile leads elsewhere. Only the directories on the way to a path that was asked for may be
symlinks, since whoever named the path meant them: they are stored as the directories they lead to.

What is open at a time: one descriptor for each directory that has not been closed, and one for each file that is
being read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bfrepo.core.errors import SourceError
from bfrepo.data.node import Node
from bfrepo.localfs._scan import Stat, open_file, read_small, scan, stat_at, stat_fd
from bfrepo.localfs.extents import data_extents
from bfrepo.localfs.metadata import Owners, make_node, path_of, xattrs_named, xattrs_of
from bfrepo.localfs.walk import open_directory, open_waypoint, read_start, stat_path
from bfrepo.sources.base import Entry
from bfrepo.sources.exclude import ExcludeRules, Ignores, LeaveOut
from bfrepo.sources.paths import Wanted, absolute_path

OnError = Callable[[bytes, OSError], None]
"""Told of a path that cannot be looked at, by whichever thread meets it."""

_BLOCK = 512
"""Bytes of a block as statx counts them, whatever the file system's own blocks are."""

_NOTHING: Mapping[bytes, Wanted] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    rules: ExcludeRules
    one_file_system: bool
    with_atime: bool
    owners: Owners
    on_error: OnError


class FileSystemSource:
    """Files and directories of this machine. Immutable, for any number of threads, and `open_root` may be called
    again.
    """

    def __init__(
        self,
        paths: Sequence[bytes],
        *,
        rules: ExcludeRules,
        one_file_system: bool,
        with_atime: bool,
        owners: Owners,
        on_error: OnError,
    ) -> None:
        """Relative paths count from the working directory. Raises InvalidValue for what is no path."""
        cwd = os.getcwdb()
        self.paths = tuple(sorted({absolute_path(path, cwd) for path in paths}))
        """Absolute, tidy, each once, in order; those that do not exist included."""
        self._settings = _Settings(
            rules=rules, one_file_system=one_file_system, with_atime=with_atime, owners=owners, on_error=on_error
        )

    def open_root(self) -> FileSystemDirectory:
        """The root of the tree. Reports the paths that are missing; raises SourceError when none remains to be backed
        up.
        """
        wanted = Wanted.from_paths(self._remaining())
        fd = open_directory(b"/") if wanted.whole else open_waypoint(b"/", follow_symlinks=False)
        return FileSystemDirectory(self._settings, fd, b"/", whole=wanted.whole, children=wanted.children)

    def _remaining(self) -> list[bytes]:
        """The paths that exist and are not excluded."""
        found, remaining = 0, []
        for path in self.paths:
            try:
                stat = stat_path(path)
            except OSError as error:
                self._settings.on_error(path, error)
                continue
            found += 1
            if path == b"/" or not self._settings.rules.excludes(path, stat):
                remaining.append(path)
        if not found:
            raise SourceError(
                "none of the paths to back up can be found", hint="check how they are spelled, and from which directory"
            )
        if not remaining:
            raise SourceError("every path to back up is excluded, by a pattern or by its size")
        return remaining


class FileSystemDirectory:
    """An open directory: listed as a whole, or only gone through to what is wanted in it."""

    __slots__ = ("_children", "_fd", "_ignores", "_stat", "_whole", "device", "path", "prefix", "settings")

    def __init__(
        self,
        settings: _Settings,
        fd: int,
        path: bytes,
        *,
        whole: bool,
        children: Mapping[bytes, Wanted] = _NOTHING,
        device: int | None = None,
        above: Ignores | None = None,
    ) -> None:
        """Takes over `fd`. `device` is that of the path that was asked for, None when it is this one."""
        self.path = path
        self.prefix = path if path == b"/" else path + b"/"
        self.settings = settings
        self._fd = fd
        self._stat = stat_fd(fd)
        self._whole = whole
        self._children = children
        self.device = self._stat.device if device is None else device
        self._ignores = above

    @property
    def fd(self) -> int:
        """Negative once it is closed, and then every use of it fails."""
        return self._fd

    def node(self) -> Node | None:
        """See Directory.node. Attributes that cannot be read are reported."""
        if self.path == b"/":
            return None
        place = self._fd if self._whole else path_of(self._fd)
        return _make_node(self.settings, self._stat, self.path.rpartition(b"/")[2], self.path, lambda: xattrs_of(place))

    def entries(self) -> list[FileSystemEntry]:
        """See Directory.entries. Raises OSError."""
        stats = self._list() if self._whole else self._look_at_children()
        rules = self.settings.rules
        if not self._children and not rules:
            return [FileSystemEntry(self, stat, stat.name) for stat in stats]
        marks = [name for name in rules.marks if self._holds(name)]
        tag = rules.tag(marks, self._read_start) if self._whole else None
        self._ignores = rules.ignores(self.path, marks, self._read_start, self._ignores)
        return list(self._chosen(stats, tag))

    def open_child(
        self, name: bytes, stat: Stat, *, whole: bool, children: Mapping[bytes, Wanted], device: int | None
    ) -> FileSystemDirectory:
        """Open a directory in this one. Of another file system, where that is not wanted, only the directory itself
        is seen.
        """
        if self.settings.one_file_system and device is not None and stat.device != device:
            whole = False
        if whole:
            fd = open_directory(name, self._fd)
        else:
            fd = open_waypoint(name, self._fd, follow_symlinks=bool(children))
        return FileSystemDirectory(
            self.settings, fd, self.prefix + name, whole=whole, children=children, device=device, above=self._ignores
        )

    def close(self) -> None:
        """See Directory.close."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read_small(self, entries: Sequence[Entry], limit: int, buffer: memoryview) -> Sequence[tuple[Node, int] | None]:
        """See Directory.read_small."""
        owners, with_atime = self.settings.owners, self.settings.with_atime
        stats = read_small(self._fd, tuple([entry.name for entry in entries]), limit, buffer)
        return [
            stat and (make_node(stat, owners, name=stat.name, xattrs=[], with_atime=with_atime), stat.size)
            for stat in stats
        ]

    def _list(self) -> list[Stat]:
        stats, errors = scan(self._fd, self._leaves_out())
        for name, code in errors:
            self.settings.on_error(self.prefix + name, OSError(code, os.strerror(code)))
        return stats

    def _leaves_out(self) -> LeaveOut | None:
        """What the patterns say, but for the names that were asked for: those are judged one by one."""
        leave_out = self.settings.rules.leaves_out(self.prefix)
        children = self._children
        if leave_out is None or not children:
            return leave_out
        return lambda name, kind: name not in children and leave_out(name, kind)

    def _look_at_children(self) -> Iterator[Stat]:
        for name in sorted(self._children):
            try:
                yield stat_at(self._fd, name)
            except OSError as error:
                self.settings.on_error(self.prefix + name, error)

    def _chosen(self, stats: Iterator[Stat] | list[Stat], tag: bytes | None) -> Iterator[FileSystemEntry]:
        for stat in stats:
            wanted = self._children.get(stat.name)
            if wanted is not None:
                yield from self._asked_for(stat, wanted, tag)
            elif not self._left_out(stat, tag):
                yield FileSystemEntry(self, stat, stat.name)

    def _asked_for(self, stat: Stat, wanted: Wanted, tag: bytes | None) -> Iterator[FileSystemEntry]:
        """The entry of a name that was asked for itself, or leads to something that was."""
        name = stat.name
        whole = wanted.whole and not self._ignored(stat)
        if self._whole and not self._left_out(stat, tag):
            whole = whole or not self.settings.rules.excludes(self.prefix + name, stat)
        if wanted.children and stat.type == "symlink":
            try:
                stat, whole = self._look_through(name), False
            except OSError as error:
                self.settings.on_error(self.prefix + name, error)
                return
        if whole or wanted.children:
            device = None if wanted.whole else self.device
            yield _WantedEntry(self, stat, name, whole=whole, children=wanted.children, device=device)

    def _left_out(self, stat: Stat, tag: bytes | None) -> bool:
        """By anything but patterns."""
        if tag is not None and stat.name != tag:
            return True
        return self.settings.rules.is_too_large(stat) or self._ignored(stat)

    def _ignored(self, stat: Stat) -> bool:
        return self._ignores is not None and self._ignores.ignore(self.prefix + stat.name, stat.type)

    def _look_through(self, name: bytes) -> Stat:
        fd = open_waypoint(name, self._fd, follow_symlinks=True)
        try:
            return stat_fd(fd)
        finally:
            os.close(fd)

    def _holds(self, name: bytes) -> bool:
        try:
            stat_at(self._fd, name)
        except OSError:
            return False
        return True

    def _read_start(self, name: bytes, limit: int) -> bytes:
        return read_start(name, self._fd, limit)


class FileSystemEntry:
    """One name in a directory that is backed up as a whole."""

    __slots__ = ("_directory", "name", "stat")

    def __init__(self, directory: FileSystemDirectory, stat: Stat, name: bytes) -> None:
        self._directory = directory
        self.stat = stat
        self.name = name

    @property
    def path(self) -> bytes:
        """See Entry.path."""
        return self._directory.prefix + self.name

    def node(self) -> Node:
        """See Entry.node. Raises OSError; attributes that cannot be read are reported."""
        directory = self._directory
        target = os.readlink(self.name, dir_fd=directory.fd) if self.stat.type == "symlink" else b""
        place = path_of(directory.fd) + b"/" + self.name
        return _make_node(
            directory.settings,
            self.stat,
            self.name,
            self.path,
            lambda: xattrs_of(place, follow_symlinks=False),
            target=target,
        )

    def open_file(self) -> FileSystemFile:
        """See Entry.open_file."""
        return FileSystemFile(self, self._directory)

    def open_directory(self) -> FileSystemDirectory:
        """See Entry.open_directory."""
        directory = self._directory
        return directory.open_child(self.name, self.stat, whole=True, children=_NOTHING, device=directory.device)


class _WantedEntry(FileSystemEntry):
    """A name that was asked for itself, or that leads to something that was."""

    __slots__ = ("_children", "_device", "_whole")

    def __init__(
        self,
        directory: FileSystemDirectory,
        stat: Stat,
        name: bytes,
        *,
        whole: bool,
        children: Mapping[bytes, Wanted],
        device: int | None,
    ) -> None:
        super().__init__(directory, stat, name)
        self._whole = whole
        self._children = children
        self._device = device

    def open_directory(self) -> FileSystemDirectory:
        """See Entry.open_directory."""
        return self._directory.open_child(
            self.name, self.stat, whole=self._whole, children=self._children, device=self._device
        )


class FileSystemFile:
    """A regular file that is being read."""

    __slots__ = ("_entry", "_fd", "_settings", "_stat", "_xattrs")

    def __init__(self, entry: FileSystemEntry, directory: FileSystemDirectory) -> None:
        """Opens it. Raises OSError, also when it is no regular file any more."""
        self._entry = entry
        self._settings = directory.settings
        self._fd, self._stat, self._xattrs = open_file(directory.fd, entry.name)

    def node(self) -> Node:
        """See OpenFile.node. Attributes that cannot be read are reported."""
        entry = self._entry
        if not self._xattrs:
            settings = self._settings
            return make_node(self._stat, settings.owners, name=entry.name, xattrs=[], with_atime=settings.with_atime)
        return _make_node(
            self._settings, self._stat, entry.name, entry.path, lambda: xattrs_named(self._fd, self._xattrs)
        )

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """See OpenFile.extents. A file that takes up all of its size has no holes to look for."""
        if self._stat.blocks * _BLOCK < size:
            return data_extents(self._fd, size)
        return iter([(0, size)] if size else [])

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile.read_into."""
        total = os.preadv(self._fd, [buffer], offset)
        # Where the known size ends, the end need not be asked for: one call less for every small file.
        while total < len(buffer) and offset + total != self._stat.size:
            read = os.preadv(self._fd, [buffer[total:]], offset + total)
            if read == 0:
                break
            total += read
        return total

    def changed(self, node: Node) -> bool:
        """See OpenFile.changed. The ctime tells even of writers that set the mtime back."""
        now = stat_fd(self._fd)
        return now.mtime_ns != node.mtime_ns or now.ctime_ns != node.ctime_ns or now.size != node.size

    def close(self) -> None:
        """See OpenFile.close."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _make_node(
    settings: _Settings,
    stat: Stat,
    name: bytes,
    path: bytes,
    read_xattrs: Callable[[], list[tuple[bytes, bytes]]],
    *,
    target: bytes = b"",
) -> Node:
    """A node with its extended attributes; those that cannot be read are reported, and the rest is worth keeping
    without them.
    """
    try:
        xattrs = read_xattrs()
    except OSError as error:
        settings.on_error(path, error)
        xattrs = []
    return make_node(stat, settings.owners, name=name, xattrs=xattrs, target=target, with_atime=settings.with_atime)
