"""What the kernel asks of a mount, and the answers: the only file that knows both FUSE and our file system.

What is in a snapshot never changes, so the kernel is told to keep all it learns for ever: attributes and names (also
those that do not exist) and content. Most requests are answered at once in the event loop's thread, from frames and
directories that are at hand; whatever may have to wait for the storage goes to another thread, so that nobody waits for
somebody else's file. A read or a look-up that fails gives that process an errno and us a line in the log, and nothing
else is affected.
"""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from bfrepo.core.errors import BackupForgeError
from bfrepo.core.units import KIB, MIB
from bfrepo.data.attributes import TYPE_BITS
from bfrepo.data.node import Node
from bfrepo.data.snapshot import Snapshot
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.repository.frames import FrameCache
from bfrepo.repository.repository import Repository
from bfrepo.vfs.directory import Listing, join
from bfrepo.vfs.file import File, joined
from bfrepo.vfs.filesystem import SnapshotFiles
from mount.awake import Awake
from mount.bridge import Bridge
from mount.errnos import errno_of
from mount.fuse import pyfuse3
from mount.handles import Handles
from mount.inodes import ROOT, Folder, Inodes
from mount.options import Log, MountOptions

_FOREVER: Final = 1e9
"""Seconds that the kernel may keep what cannot change; it has no word for ever."""
_A_MOMENT: Final = 1.0
"""Seconds that it may keep what leads to snapshots, which come and go."""

_AT_ONCE: Final = 64 * 32
"""Bytes of a file's list of blobs that is laid out at once; a longer one goes to a thread."""
_STORED: Final = 256 * KIB
"""Files up to this many bytes are handed to the kernel when they are opened, so that it need not ask for content."""
_BRIEF: Final = 128 * KIB
"""Bytes of a read after which the next request may come before an idle processor would be awake."""
_LARGEST_READ: Final = MIB
_REPEAT_S: Final = 60
"""Seconds before the same line is logged again."""
_BLOCK: Final = 4096
_NAME_MAX: Final = 255


@dataclass(slots=True)
class _OpenFile:
    file: File
    path: bytes


@dataclass(slots=True)
class _OpenDirectory:
    folder: Folder
    listing: Listing


class SnapshotOperations(pyfuse3.Operations):
    """Answers the kernel's requests about the snapshots of a repository. Belongs to the event loop's thread.

    `log` may be called from any thread. `refresh` before mounting, and every few seconds from then on; `close` it.
    """

    supports_dot_lookup = True  # for NFS, which comes back with the number of a file and no name

    def __init__(self, repository: Repository, options: MountOptions, log: Log) -> None:
        super().__init__()
        self.enable_acl = options.allow_other  # who is alone is not kept from anything
        self._repository = repository
        self._options = options
        self._log = log
        self._views = FrameCache(repository.loader, options.cache_size)
        self._files = SnapshotFiles(self._views, self._left_out, options.path_templates)
        self._bridge = Bridge()
        self.awake = Awake(self._bridge)
        """Waits for requests."""
        self._inodes = Inodes(self._files.root)
        self._open: Handles[_OpenFile] = Handles()
        self._open_directories: Handles[_OpenDirectory] = Handles()
        self._owner = (os.getuid(), os.getgid()) if options.owner_me else None
        self._entry = pyfuse3.EntryAttributes()
        self._memory = bytearray(_LARGEST_READ)  # for one answer at a time: it is sent before another task runs
        self._snapshots: dict[bytes, Snapshot] = {}
        self._stored_bytes = 0
        self._index_read = False
        self._unreadable: set[str] = set()
        self._told: dict[tuple[bytes, str], float] = {}

    # --- the life of the mount

    async def refresh(self) -> None:
        """Show snapshots that are new, and no longer those that are gone. Raises StorageError and DamagedObject."""
        await self._bridge.run(self._look)

    def close(self) -> None:
        """Let go of threads. Idempotent. The repository stays open."""
        self._views.close()

    def _look(self) -> None:
        known = self._snapshots
        found = load_snapshots(self._repository, self._unreadable_snapshot, held=known)
        if found.keys() == known.keys() and self._index_read:
            return
        table = self._repository.refresh_index().table
        self._index_read = True
        self._views.follow(self._repository.loader)
        self._stored_bytes = sum(pack.size for pack in table.packs())
        self._snapshots = found
        self._files.show(self._options.snapshots.apply(found))
        gc.collect()  # errors keep what they were raised from: the cache of an index that is no more, for one

    # --- names and attributes

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """The entry of a name; for the kernel to remember, also that there is none."""
        if name in (b".", b".."):
            return await self._lookup_again(parent_inode, name)
        folder, listing = await self._enter(parent_inode)
        position = listing.position(name)
        if position is None:
            if not folder.directory.lasting:
                raise pyfuse3.FUSEError(errno.ENOENT)
            return _no_entry()
        inode = self._inodes.number(folder, position, listing.nodes[position])
        self._inodes.hold(inode)
        return self._filled(pyfuse3.EntryAttributes(), inode, folder, listing, listing.nodes[position])

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        """The kernel has no use for these any more."""
        release = self._inodes.release
        for inode, count in inode_list:
            release(inode, count)

    async def getattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """The attributes of an entry."""
        folder, listing, node = await self._entry_of(inode)
        return self._filled(pyfuse3.EntryAttributes(), inode, folder, listing, node)

    async def readlink(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileNameT:
        """Where a symlink points."""
        return (await self._entry_of(inode))[2].target

    async def getxattr(self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext) -> bytes:
        """An extended attribute; ACLs and capabilities are some."""
        self.awake.note()
        node = (await self._entry_of(inode))[2]
        value = next((value for known, value in node.xattrs if known == name), None)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    async def listxattr(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> list[pyfuse3.XAttrNameT]:
        """The names of the extended attributes."""
        self.awake.note()
        return [name for name, _ in (await self._entry_of(inode))[2].xattrs]

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """The repository's size, all of which is in use."""
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_blocks = -(-self._stored_bytes // _BLOCK)
        data.f_files = len(self._snapshots)
        data.f_namemax = _NAME_MAX
        return data

    # --- directories

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        """Begin to list a directory as it is now."""
        folder, listing = await self._enter(inode)
        self._inodes.use(folder)
        self.awake.note()
        return self._open_directories.add(_OpenDirectory(folder, listing))

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """As many entries as the kernel has room for, with their attributes."""
        self.awake.note()
        opened = self._open_directories[fh]
        folder, listing, entry = opened.folder, opened.listing, self._entry
        number, filled, reply = self._inodes.number, self._filled, pyfuse3.readdir_reply
        for position in range(start_id, len(listing.nodes)):
            node = listing.nodes[position]
            inode = number(folder, position, node)
            if not reply(token, node.name, filled(entry, inode, folder, listing, node), position + 1):
                return
            self._inodes.hold(inode)

    async def releasedir(self, fh: pyfuse3.FileHandleT) -> None:
        """The end of a listing."""
        self._inodes.drop(self._open_directories.remove(fh).folder)
        self.awake.note()

    # --- content

    async def open(self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Begin to read a file. What the kernel has of it from earlier is as good as new."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        folder, _, node = await self._entry_of(inode)
        try:
            if len(node.content) <= _AT_ONCE and not node.content_depth and not node.holes_depth:
                file = self._files.open(node)
            else:
                file = await self._bridge.run(partial(self._files.open, node))
        except Exception as error:
            raise self._failed(join(folder.directory.path, node.name), error) from error
        opened = _OpenFile(file, join(folder.directory.path, node.name))
        if self._inodes.first_open(inode):
            self._hand_over(inode, opened)
        self.awake.note()
        return pyfuse3.FileInfo(fh=self._open.add(opened), keep_cache=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        """A piece of a file: a view of cached memory where one blob has it all."""
        opened = self._open[fh]
        file = opened.file
        try:
            file.advance(off, size)
            pieces = file.peek(off, size)
            if pieces is None:
                pieces = await self._bridge.run(partial(file.pieces, off, size))
        except Exception as error:
            raise self._failed(opened.path, error) from error
        if size <= _BRIEF:
            self.awake.note()
        return joined(pieces, self._memory)  # type: ignore[return-value]  # pyfuse3 takes anything that holds bytes

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """There is nothing to flush; told so once, the kernel does not ask again."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """The end of reading a file."""
        self._open.remove(fh)

    async def access(self, inode: pyfuse3.InodeT, mode: pyfuse3.ModeT, ctx: pyfuse3.RequestContext) -> bool:
        """Not ours to decide: the kernel checks by modes and ACLs where others are let in, and does not ask again."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    def _hand_over(self, inode: pyfuse3.InodeT, opened: _OpenFile) -> None:
        """Give the kernel the content of a small file before it asks, or begin to read it.

        Only where nobody can be reading the file: the kernel may hold pages of it until we answer a read, and would
        have us wait for ourselves.
        """
        if opened.file.size > _STORED:
            return
        try:
            content = opened.file.whole()
        except BackupForgeError:
            return  # whoever reads it is told
        if content is None:
            opened.file.begin()
        elif content:
            try:
                pyfuse3.notify_store(inode, 0, content)  # type: ignore[arg-type]  # as read() may
            except OSError:
                return  # it asks, then

    # --- what the rest is made of

    async def _enter(self, inode: int) -> tuple[Folder, Listing]:
        """A directory and its entries."""
        folder = self._inodes.known(inode)
        if folder is None:
            _, _, node = await self._entry_of(inode)
            try:
                folder = self._inodes.enter(inode, node)
            except Exception as error:
                raise self._failed(node.name, error) from error
        return folder, await self._listing(folder)

    async def _entry_of(self, inode: int) -> tuple[Folder, Listing, Node]:
        """The directory that an entry is in, its listing, and the entry."""
        if inode == ROOT:
            root = self._inodes.above(ROOT)
            return root, _EMPTY, _ROOT_NODE
        try:
            folder = self._inodes.above(inode)
        except KeyError:
            raise pyfuse3.FUSEError(errno.ESTALE) from None
        listing = await self._listing(folder)
        node = self._inodes.node(inode, listing)
        if node is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return folder, listing, node

    async def _listing(self, folder: Folder) -> Listing:
        directory = folder.directory
        try:
            listing = directory.at_hand()
            return listing if listing is not None else await self._bridge.run(directory.load)
        except Exception as error:
            raise self._failed(directory.path, error) from error

    async def _lookup_again(self, inode: int, name: bytes) -> pyfuse3.EntryAttributes:
        """An entry that the kernel knows by its number alone, or the directory that it is in."""
        if name == b"..":
            folder = self._inodes.known(inode) or await self._parent(inode)
            inode = folder.parent if folder.inode == inode else folder.inode
        folder, listing, node = await self._entry_of(inode)
        self._inodes.hold(inode)
        return self._filled(pyfuse3.EntryAttributes(), inode, folder, listing, node)

    async def _parent(self, inode: int) -> Folder:
        return (await self._entry_of(inode))[0]

    def _filled(
        self, entry: pyfuse3.EntryAttributes, inode: int, folder: Folder, listing: Listing, node: Node
    ) -> pyfuse3.EntryAttributes:
        entry.st_ino = inode
        entry.entry_timeout = entry.attr_timeout = _FOREVER if folder.directory.lasting else _A_MOMENT
        entry.st_mode = TYPE_BITS[node.type] | node.mode
        entry.st_nlink = node.links
        entry.st_uid, entry.st_gid = self._owner or (node.uid, node.gid)
        entry.st_rdev = node.rdev
        entry.st_size = node.size if node.type != "symlink" else len(node.target)
        entry.st_blocks = listing.blocks(node)
        entry.st_mtime_ns = node.mtime_ns
        entry.st_ctime_ns = node.ctime_ns
        entry.st_atime_ns = node.mtime_ns if node.atime_ns is None else node.atime_ns
        return entry

    def _failed(self, path: bytes, error: Exception) -> pyfuse3.FUSEError:
        """What a process gets, after the log has got why."""
        if isinstance(error, pyfuse3.FUSEError):
            return error
        number = errno_of(error)
        if number != errno.ENOENT:
            self._tell(path, str(error) if isinstance(error, BackupForgeError) else f"unexpected: {error!r}")
        return pyfuse3.FUSEError(number)

    def _tell(self, path: bytes, message: str) -> None:
        """Log something, but not what was logged a moment ago: the kernel asks for every page of a damaged file."""
        now = self._repository.clock.monotonic()
        if now - self._told.get((path, message), -_REPEAT_S) >= _REPEAT_S:
            self._told = {key: when for key, when in self._told.items() if now - when < _REPEAT_S}
            self._told[path, message] = now
            self._log("error", path, message)

    def _left_out(self, path: bytes, error: BackupForgeError) -> None:
        self._log("error", join(b"versions", path), f"left out what cannot be read: {error}")

    def _unreadable_snapshot(self, name: str, error: BackupForgeError) -> None:
        if name not in self._unreadable:
            self._unreadable.add(name)
            self._log("error", b"", f"not shown: {error}")


_EMPTY: Final = Listing([])
_ROOT_NODE: Final = Node(name=b"/", type="dir", mode=0o755, links=2)


def _no_entry() -> pyfuse3.EntryAttributes:
    """What says that there is no such entry, and never will be."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = _FOREVER
    return entry
