"""Content into files: small ones whole and many at a time, blocks of large ones where they belong if they differ.

A file that is made gets its final name at once and mode 0600 until it is complete. When it cannot be completed it is
removed again: under a name from the snapshot there never is a file of ours with bytes that are not the snapshot's. An
existing file that is updated in place and cannot be completed stays, without the snapshot's time, so that the next
restore looks at all of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat as stat_module
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from bfrepo.core.errors import DamagedObject
from bfrepo.core.units import KIB
from bfrepo.localfs._make import make_files
from bfrepo.localfs._scan import stat_at, stat_fd
from bfrepo.localfs.apply import MetadataWriter, NewFile, pinned
from bfrepo.localfs.metadata import path_of
from bfrepo.localfs.removal import make_way
from bfrepo.localfs.sparse import is_zero, nonzero_blocks, write_zeros
from bfrepo.localfs.target import Directories
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import Report
from bfrepo.restorer.window import Item

REFUSED: Final = (OSError, ValueError, OverflowError)
"""What the system, or Python before it asks the system, raises for an item that cannot be made."""

_MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UPDATE: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_OPEN: Final = 64
_SPARSE_FROM: Final = 4 * KIB


class Hands:
    """What one thread works with: open directories, files about to be made, and memory to compare in."""

    def __init__(self, root_fd: int, flush: Callable[[Hands], None]) -> None:
        self.directories = Directories(root_fd, before_close=self.flush)
        self.new_files: list[NewFile] = []
        self.new_items: list[Item] = []
        self._flush = flush
        self._buffer = bytearray(256 * KIB)

    def flush(self) -> None:
        """Make the files that are waiting. Raises TargetError when the target is full."""
        if self.new_files:
            self._flush(self)

    def read_at(self, fd: int, size: int, offset: int) -> bytearray:
        """What the file holds there, and then anything; empty if it holds less.

        Valid until the next call. Raises OSError.
        """
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        with memoryview(self._buffer) as view, view[:size] as part:
            read = os.preadv(fd, [part], offset)
        return self._buffer if read == size else bytearray()


class _Open:
    """A file that is written piece by piece. Guarded by the writer's lock."""

    __slots__ = ("fd", "identity", "item", "made", "missing", "owner", "users", "written")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.fd = -1
        self.identity = (0, 0)
        self.owner = (0, 0)
        self.made = False
        self.missing = item.parts
        self.users = 0
        self.written = 0


class FileWriter:
    """Writes the content of planned files. May be used from any number of threads, each with its own Hands."""

    def __init__(self, options: RestoreOptions, metadata: MetadataWriter, report: Report) -> None:
        self._options = options
        self._metadata = metadata
        self._report = report
        self._lock = threading.RLock()  # opening a directory may flush, and a flush may report a file that failed
        self._files: dict[Item, _Open] = {}
        self._with_fd: OrderedDict[Item, _Open] = OrderedDict()

    def hands(self, root_fd: int) -> Hands:
        """What one more thread needs."""
        return Hands(root_fd, self._flush)

    def take(self, hands: Hands, item: Item, offset: int, data: memoryview | DamagedObject) -> None:
        """Put one piece of content in its place, by the next flush at the latest.

        Raises TargetError when the target is full.
        """
        if item.failed:
            return
        if isinstance(data, DamagedObject):
            self._lose(hands, item, data)
        elif item.simple and not (len(data) >= _SPARSE_FROM and self._options.sparse and is_zero(data)):
            self._add(hands, item, data)
        else:
            self._write_part(hands, item, offset, data)

    def flush(self, hands: Hands) -> None:
        """Nothing that was taken is needed any longer. Raises TargetError when the target is full."""
        hands.flush()

    def make_empty(self, hands: Hands, item: Item) -> None:
        """Make a file that has no content, or only holes. Raises TargetError when the target is full."""
        try:
            with self._lock:
                file = self._open(hands, item)
                file.users += 1
            try:
                self._complete(file)
            finally:
                self._give_back(hands, file)
        except REFUSED as error:
            self.fail(item, error)

    def fail(self, item: Item, error: Exception) -> None:
        """Report an item once, or not at all where its directory is the reason.

        Raises TargetError when the target is full.
        """
        with self._lock:
            first = not item.failed
            item.fail()
        if first and not item.directory.failed:
            self._report.failed(item.path, error)

    def abort(self, hands: Hands) -> None:
        """Remove what was begun and is not complete."""
        for file in list(self._files.values()):
            file.item.fail()
            self._drop(hands, file)

    # ---- small files that are new

    def _add(self, hands: Hands, item: Item, data: memoryview) -> None:
        """Let a file wait for others, so that one call makes many."""
        try:
            dir_fd = hands.directories.open(item.directory)
        except OSError as error:
            self.fail(item, error)
            return
        hands.new_files.append(self._metadata.new_file(dir_fd, item.node, data))
        hands.new_items.append(item)

    def _flush(self, hands: Hands) -> None:
        files, items = hands.new_files, hands.new_items
        hands.new_files, hands.new_items = [], []
        for index, failed, metadata in reversed(make_files(files)):
            item = items[index]
            if failed:
                del items[index]
                self.fail(item, OSError(failed, os.strerror(failed)))
            elif metadata:
                self._mend_metadata(files[index][0], item)
        self._report.made([(item.path, item.node.size) for item in items])

    def _mend_metadata(self, dir_fd: int, item: Item) -> None:
        """Set what can be set after all, and find the words for the rest."""
        try:
            with pinned(dir_fd, item.node.name) as fd:
                now = stat_fd(fd)
                problems = self._metadata.apply(path_of(fd), item.node, (now.uid, now.gid), bare=True)
        except OSError as error:
            problems = [str(error)]
        if problems:
            self._report.failed(item.path, "; ".join(problems))

    # ---- any other file

    def _make(self, hands: Hands, item: Item, dir_fd: int) -> int:
        try:
            return os.open(item.node.name, _MAKE, 0o600, dir_fd=dir_fd)
        except FileExistsError:
            if not item.obstacle:
                raise
        self._make_way(hands, item)
        return os.open(item.node.name, _MAKE, 0o600, dir_fd=hands.directories.open(item.directory))

    def _make_way(self, hands: Hands, item: Item) -> None:
        within = self._options.selection if self._options.delete else None
        make_way(hands.directories, item.directory, item.node.name, within)

    def _write_part(self, hands: Hands, item: Item, offset: int, data: memoryview) -> None:
        try:
            file = self._take(hands, item)
        except REFUSED as error:
            self.fail(item, error)
            return
        if file is None:
            return
        try:
            written = self._put(hands, file, offset, data)
            self._report.moved(len(data), written)
            with self._lock:
                file.written += written
                file.missing -= 1
                last = file.missing == 0
            if last and not item.failed:
                self._complete(file)
        except REFUSED as error:
            self.fail(item, error)
        finally:
            self._give_back(hands, file)

    def _take(self, hands: Hands, item: Item) -> _Open | None:
        """The file, open until it is given back; None if another thread has given it up meanwhile."""
        with self._lock:
            if item.failed:
                return None
            file = self._files.get(item)
            if file is None:
                file = self._open(hands, item)
            elif file.fd < 0:
                self._reopen(hands, file)
            file.users += 1
            self._with_fd[item] = file
            self._with_fd.move_to_end(item)
            if len(self._with_fd) > _MOST_OPEN:
                self._close_idle()
            return file

    def _give_back(self, hands: Hands, file: _Open) -> None:
        with self._lock:
            file.users -= 1
            if file.users == 0 and (file.missing == 0 or file.item.failed):
                self._drop(hands, file)

    def _drop(self, hands: Hands, file: _Open) -> None:
        """Close a file that nothing more is written to, and remove it if it is ours and not complete."""
        self._files.pop(file.item, None)
        self._with_fd.pop(file.item, None)
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1
        if not (file.made and file.item.failed):
            return
        with contextlib.suppress(OSError):  # it is gone already, or its directory is
            dir_fd = hands.directories.open(file.item.directory)
            found = stat_at(dir_fd, file.item.node.name)
            if (found.device, found.inode) == file.identity:
                os.unlink(file.item.node.name, dir_fd=dir_fd)

    def _close_idle(self) -> None:
        """Close the file that nobody has used for longest; those in use are few and used lately."""
        file = next((each for each in self._with_fd.values() if each.users == 0), None)
        if file is not None:
            del self._with_fd[file.item]
            os.close(file.fd)
            file.fd = -1

    def _lose(self, hands: Hands, item: Item, error: DamagedObject) -> None:
        self.fail(item, error)
        with self._lock:
            file = self._files.get(item)
            if file is not None and file.users == 0:
                self._drop(hands, file)

    def _open(self, hands: Hands, item: Item) -> _Open:
        file = _Open(item)
        dir_fd = hands.directories.open(item.directory)
        if item.old is None or not self._open_old(hands, file, dir_fd):
            file.fd = self._make(hands, item, dir_fd)
            file.made = True
        now = os.fstat(file.fd)
        file.identity = (now.st_dev, now.st_ino)
        file.owner = (now.st_uid, now.st_gid)
        self._files[item] = file
        try:
            self._prepare(hands, file, now)
        except BaseException:
            self._files.pop(item)
            os.close(file.fd)
            if file.made:
                os.unlink(item.node.name, dir_fd=hands.directories.open(item.directory))
            raise
        return file

    def _open_old(self, hands: Hands, file: _Open, dir_fd: int) -> bool:
        """Open the file that exists; what cannot be written to or is not that file any more is replaced."""
        item = file.item
        try:
            fd = os.open(item.node.name, _UPDATE, dir_fd=dir_fd)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.ETXTBSY, errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOENT):
                raise
        else:
            now = os.fstat(fd)
            if stat_module.S_ISREG(now.st_mode) and now.st_nlink == 1:
                file.fd = fd
                return True
            os.close(fd)
        item.obstacle = True
        self._make_way(hands, item)
        return False

    def _prepare(self, hands: Hands, file: _Open, now: os.stat_result) -> None:
        """Give the file its size, and zeros where its holes are."""
        node = file.item.node
        if not file.made and stat_module.S_IMODE(now.st_mode) & ~node.mode:
            os.fchmod(file.fd, now.st_mode & node.mode & 0o777)  # nobody reads new content by an old permission
        if now.st_size != node.size:
            os.ftruncate(file.fd, node.size)
        if not self._options.sparse:
            for start, end in file.item.holes:
                os.posix_fallocate(file.fd, start, end - start)
        if file.item.holes and not file.made:
            for offset, length in nonzero_blocks(file.fd, node.size, file.item.holes):
                file.written += write_zeros(file.fd, offset, length)
        self._report.moved(sum(end - start for start, end in file.item.holes), file.written)

    def _reopen(self, hands: Hands, file: _Open) -> None:
        item = file.item
        fd = os.open(item.node.name, _UPDATE, dir_fd=hands.directories.open(item.directory))
        now = os.fstat(fd)
        if (now.st_dev, now.st_ino) != file.identity:
            os.close(fd)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))  # something else has taken its place
        file.fd = fd

    def _put(self, hands: Hands, file: _Open, offset: int, data: memoryview) -> int:
        """Write what is not there already; how many bytes that took."""
        size = len(data)
        if file.made:
            if self._options.sparse and is_zero(data):
                return 0
        elif hands.read_at(file.fd, size, offset).startswith(data):
            return 0
        written = os.pwrite(file.fd, data, offset)
        while written < size:
            written += os.pwrite(file.fd, data[written:], offset + written)
        return size

    def _complete(self, file: _Open) -> None:
        """Metadata on a file whose content is in place; what cannot be set is reported, and the rest is set."""
        item, node = file.item, file.item.node
        bare = file.made and not item.directory.inherits_acl
        problems = self._metadata.apply(file.fd, node, file.owner, bare=bare)
        if node.flags or not file.made:
            problems += self._metadata.apply_flags(file.fd, node)
        if problems:
            self._report.failed(item.path, "; ".join(problems))
        self._report.item("file", item.path, "unchanged" if self._was_right(file) else item.outcome, node.size)

    def _was_right(self, file: _Open) -> bool:
        node, old = file.item.node, file.item.old
        if file.made or old is None:
            return False
        return file.written == 0 and old.size == node.size and not self._metadata.differs(node, old)
