"""Node -> disk: owner, xattrs, mode, times and inode flags, in the order in which none spoils another.

    owner   first: chown drops setuid bits and file capabilities
    xattrs  before the mode: a file that is made read-only takes no more of them; an ACL and the mode agree about the
            group bits, because the mode that was read beside an ACL holds its mask
    mode    then the setuid bits, which are left out where the owner is not the one the snapshot names
    times   after everything that changes the content
    flags   last: nothing changes any more once a file is immutable

What is open is given as its descriptor, anything else as the path of an O_PATH descriptor under /proc: neither can be
swapped for something else in between, and no symlink is followed.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import grp
import os
import pwd
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from bfrepo.data.node import Node, NodeType
from bfrepo.localfs._scan import Stat

SETTABLE_FLAGS: Final = 0x4 | 0x10 | 0x20 | 0x40
"""FS_COMPR_FL, FS_IMMUTABLE_FL, FS_APPEND_FL and FS_NODUMP_FL of <linux/fs.h>: the flags that are recorded."""

_PRIVILEGED_FLAGS: Final = 0x10 | 0x20

_FS_IOC_GETFLAGS: Final = 0x80086601  # _IOR('f', 1, long) of <linux/fs.h>
_FS_IOC_SETFLAGS: Final = 0x40086602  # _IOW('f', 2, long)

_NOBODY: Final = 0xFFFF_FFFF
_REFUSED: Final = (OSError, ValueError, OverflowError)
_NO_FLAGS_HERE: Final = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EINVAL)

# What is taken off a file that has it and should not; other names belong to the system the file is on (SELinux,
# overlayfs).
_REMOVED_XATTRS: Final = (b"user.", b"system.posix_acl_", b"security.capability")
_PRIVILEGED_XATTRS: Final = (b"security.", b"trusted.")

_Owner: TypeAlias = tuple[int, int]

NewFile: TypeAlias = tuple[int, bytes, memoryview, int, int, int, int, int]
"""What `make_files` of the kernel takes: (dir_fd, name, content, mode, uid, gid, atime_ns, mtime_ns)."""


class MetadataWriter:
    """Puts a node's metadata on files. May be used from any number of threads."""

    def __init__(self, *, numeric_ids: bool = False, xattrs: bool = True) -> None:
        self._numeric_ids = numeric_ids
        self._with_xattrs = xattrs
        self._euid = os.geteuid()
        self._groups = {os.getegid(), *os.getgroups()}
        self._flags = SETTABLE_FLAGS if self._euid == 0 else SETTABLE_FLAGS & ~_PRIVILEGED_FLAGS
        self._owners: dict[tuple[int, int, str, str], _Owner] = {}

    def apply(self, where: int | bytes, node: Node, owner_now: _Owner, *, bare: bool) -> list[str]:
        """Everything but flags, on something that belongs to `owner_now`; what could not be set, in words.

        `bare` says that it was just made and has no xattrs.
        """
        problems: list[str] = []
        exact = self._apply_owner(where, node, owner_now, problems)
        if self._with_xattrs and (node.xattrs or not bare):
            self._apply_xattrs(where, node, problems)
        try:
            if node.type != "symlink":
                os.chmod(where, node.mode if exact else node.mode & ~0o6000)
        except _REFUSED as error:
            problems.append(_reason("its mode", error))
        mtime = node.mtime_ns
        try:
            os.utime(where, ns=(mtime if node.atime_ns is None else node.atime_ns, mtime))
        except _REFUSED as error:
            problems.append(_reason("its times", error))
        return problems

    def new_file(self, dir_fd: int, node: Node, content: memoryview) -> NewFile:
        """What `make_files` needs to make a file that has neither xattrs nor flags."""
        uid, gid = self._owner(node)
        mode = node.mode & ~0o6000 if uid == -1 or gid == -1 else node.mode
        mtime = node.mtime_ns
        atime = mtime if node.atime_ns is None else node.atime_ns
        return dir_fd, node.name, content, mode, uid, gid, atime, mtime

    def apply_flags(self, fd: int, node: Node) -> list[str]:
        """The inode flags, which end every further change; what could not be set, in words."""
        wanted = node.flags & self._flags
        held = array.array("I", [0, 0])  # room for the long that the number names; the kernel uses the first 32 bits
        try:
            fcntl.ioctl(fd, _FS_IOC_GETFLAGS, held)
            flags = held[0] & ~self._flags | wanted
            if flags != held[0]:
                held[0] = flags
                fcntl.ioctl(fd, _FS_IOC_SETFLAGS, held)
        except OSError as error:
            if wanted and error.errno not in _NO_FLAGS_HERE:
                return [_reason("its inode flags", error)]
        return []

    def differs(self, node: Node, stat: Stat) -> bool:
        """Whether `apply` or `apply_flags` would change anything but xattrs and the access time."""
        uid, gid = self._owner(node)
        mode = node.mode & ~0o6000 if -1 in (uid, gid) else node.mode
        return (
            stat.mtime_ns != node.mtime_ns
            or (node.type != "symlink" and stat.mode != mode)
            or uid not in (-1, stat.uid)
            or gid not in (-1, stat.gid)
            or (node.type in ("file", "dir") and (node.flags ^ stat.flags) & self._flags != 0)
        )

    def xattrs_differ(self, where: int | bytes, node: Node) -> bool:
        """Whether `apply` would change any xattr. Raises OSError."""
        if not self._with_xattrs:
            return False
        try:
            held = dict(_managed_xattrs(where, node))
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return False
            raise
        return held != {
            name: value
            for name, value in node.xattrs
            if self._euid == 0 or name in held or not name.startswith(_PRIVILEGED_XATTRS)
        }

    def _apply_owner(self, where: int | bytes, node: Node, now: _Owner, problems: list[str]) -> bool:
        """Whether it now belongs to whom the snapshot says."""
        wanted = self._owner(node)
        if wanted == now:
            return True
        uid = wanted[0] if wanted[0] != now[0] else -1
        gid = wanted[1] if wanted[1] != now[1] else -1
        try:
            if uid != -1 or gid != -1:
                os.chown(where, uid, gid)
        except _REFUSED as error:
            problems.append(_reason("its owner", error))
            return False
        return -1 not in wanted

    def _owner(self, node: Node) -> _Owner:
        """The owner it should get here, with -1 where that is not ours to give."""
        key = (node.uid, node.gid, node.user, node.group)
        owner = self._owners.get(key)
        if owner is None:
            owner = self._owners[key] = self._find_owner(node)
        return owner

    def _find_owner(self, node: Node) -> _Owner:
        uid, gid = node.uid, node.gid
        if not self._numeric_ids:
            with contextlib.suppress(KeyError, ValueError):
                uid = pwd.getpwnam(node.user).pw_uid if node.user else uid
            with contextlib.suppress(KeyError, ValueError):
                gid = grp.getgrnam(node.group).gr_gid if node.group else gid
        may_uid = self._euid == 0 or uid == self._euid
        may_gid = self._euid == 0 or gid in self._groups
        return uid if may_uid and uid != _NOBODY else -1, gid if may_gid and gid != _NOBODY else -1

    def _apply_xattrs(self, where: int | bytes, node: Node, problems: list[str]) -> None:
        try:
            held = dict(_managed_xattrs(where, node))
        except OSError as error:
            held = {}
            if error.errno != errno.EOPNOTSUPP:
                problems.append(_reason("its extended attributes", error))
        wanted = dict(node.xattrs)
        for name in held.keys() - wanted.keys():
            self._change_xattr(os.removexattr, (where, name), name, problems)
        for name, value in wanted.items():
            if held.get(name) != value:
                self._change_xattr(os.setxattr, (where, name, value), name, problems)

    def _change_xattr(
        self, change: Callable[..., None], arguments: tuple[object, ...], name: bytes, problems: list[str]
    ) -> None:
        try:
            change(*arguments)
        except _REFUSED as error:
            if self._euid != 0 and name.startswith(_PRIVILEGED_XATTRS):
                return  # as with owners: only the superuser may set these
            problems.append(_reason(f"its extended attribute {os.fsdecode(name)}", error))


@contextlib.contextmanager
def pinned(dir_fd: int, name: bytes) -> Iterator[int]:
    """An O_PATH descriptor of this very entry, whatever it is, which is neither followed nor opened. Raises OSError."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def make_special(dir_fd: int, node: Node) -> None:
    """Make a symlink, fifo, socket or device, without its metadata. Raises OSError, ValueError or OverflowError."""
    if node.type == "symlink":
        os.symlink(node.target, node.name, dir_fd=dir_fd)
        return
    os.mknod(node.name, _format_bits(node.type) | 0o600, node.rdev, dir_fd=dir_fd)


def link_target(dir_fd: int, name: bytes) -> bytes:
    """Where a symlink points. Raises OSError."""
    return os.readlink(name, dir_fd=dir_fd)


def _format_bits(kind: NodeType) -> int:
    return {"fifo": 0o010000, "chardev": 0o020000, "blockdev": 0o060000, "socket": 0o140000}[kind]


def _managed_xattrs(where: int | bytes, node: Node) -> Iterator[tuple[bytes, bytes]]:
    """The xattrs that are ours to change: those a restore would remove, and those the node has."""
    wanted = {name for name, _ in node.xattrs}
    for each in os.listxattr(where):
        name = os.fsencode(each)
        if name in wanted or name.startswith(_REMOVED_XATTRS):
            yield name, os.getxattr(where, name)


def _reason(what: str, error: Exception) -> str:
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return f"{what} could not be set: {reason}"
