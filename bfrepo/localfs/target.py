"""Directories below the target of a restore, reached one component at a time and never through a symlink.

A path is a chain of `Directory` objects down from the root of the target. Opening one opens every component with
O_NOFOLLOW relative to its parent's descriptor, so whatever stands in the target, or is put there meanwhile, cannot lead
outside of it. Descriptors are few: each thread keeps those it used last and opens the others again when it comes back
to them.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from bfrepo.core.errors import TargetError
from bfrepo.data.node import is_safe_name

MAX_DEPTH: Final = 4096
"""Directories inside each other that a restore follows; Linux itself reaches about half of that with one path."""

MAX_PATH: Final = 1 << 16
"""Bytes in a path below the target, sixteen times PATH_MAX: bounds the memory that a hostile repository can take."""

ACL_ACCESS: Final = "system.posix_acl_access"
ACL_DEFAULT: Final = "system.posix_acl_default"

_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Directory:
    """One directory below the target: where it is, and what is known about what will be made in it.

    `made` says that it is the restore's own, so nothing else is in it. `inherits_acl` says that its default ACL ends up
    on whatever is made inside. `failed` says that it, or one it is in,
    could not be made or opened.
    """

    __slots__ = ("depth", "failed", "inherits_acl", "made", "name", "parent", "path")

    def __init__(self, parent: Directory | None, name: bytes, *, made: bool) -> None:
        self.parent = parent
        self.name = name
        self.path: bytes = parent.path + b"/" + name if parent is not None else b""
        self.depth: int = parent.depth + 1 if parent is not None else 0
        self.made = made
        self.inherits_acl = False
        self.failed = False
        if parent is not None and not is_safe_name(name):
            raise TargetError(f"{name!r} is no name for a directory")
        if self.depth > MAX_DEPTH or len(self.path) > MAX_PATH:
            raise TargetError(f"more than {MAX_DEPTH} directories deep, or a path longer than {MAX_PATH} bytes")


class Directories:
    """Descriptors of directories below one target. Used by one thread at a time.

    `before_close` is called before a descriptor is closed to make room for another one: what still needs it is done
    then.
    """

    def __init__(self, root_fd: int, capacity: int = 64, before_close: Callable[[], object] = lambda: None) -> None:
        self._root_fd = root_fd
        self._capacity = max(capacity, 2)
        self._before_close = before_close
        self._fds: OrderedDict[Directory, int] = OrderedDict()
        self._last: Directory | None = None
        self._last_fd = -1

    def open(self, directory: Directory) -> int:
        """A descriptor that is valid until the next call, or until `before_close` is called.

        Raises OSError, with ELOOP or ENOTDIR for a symlink.
        """
        if directory is self._last:
            return self._last_fd
        fd = self._fds.get(directory, -1)
        if fd < 0:
            fd = self._open_chain(directory)
        else:
            self._fds.move_to_end(directory)
        self._last, self._last_fd = directory, fd
        return fd

    def make(self, directory: Directory) -> None:
        """Make it, private until its metadata is set, and rid it of what it inherits. Raises OSError."""
        parent = directory.parent
        if parent is None:
            return
        os.mkdir(directory.name, 0o700, dir_fd=self.open(parent))
        directory.made = True
        if parent.inherits_acl:
            fd = self.open(directory)
            for name in (ACL_ACCESS, ACL_DEFAULT):
                _remove_xattr(fd, name)

    def learn_acl(self, directory: Directory) -> None:
        """Find out whether what is made in an existing directory inherits an ACL. Raises OSError."""
        try:
            os.getxattr(self.open(directory), ACL_DEFAULT)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise
        else:
            directory.inherits_acl = True

    def forget(self, directory: Directory) -> None:
        """Close its descriptor: it is about to go."""
        if directory is self._last:
            self._last = None
        fd = self._fds.pop(directory, -1)
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Close all but the root, which belongs to whoever opened it. Idempotent."""
        self._last = None
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _close_oldest(self) -> None:
        """Make room for many at once, since `before_close` may be dear."""
        self._before_close()
        while len(self._fds) > self._capacity // 2:
            os.close(self._fds.popitem(last=False)[1])

    def _open_chain(self, directory: Directory) -> int:
        missing: list[Directory] = []
        each = directory
        while each.parent is not None and each not in self._fds:
            missing.append(each)
            each = each.parent
        fd = self._root_fd if each.parent is None else self._fds[each]
        for each in reversed(missing):
            fd = os.open(each.name, _OPEN_DIRECTORY, dir_fd=fd)
            self._fds[each] = fd
            if len(self._fds) > self._capacity:
                self._close_oldest()
        return fd


def open_target(path: bytes, *, make: bool) -> tuple[int, bool]:
    """The target's descriptor, and whether it was made just now; (-1, True) for one that is missing and shall not be
    made.

    Symlinks in `path` are followed: it is what the user asked for. Raises TargetError.
    """
    shown = os.fsdecode(path)
    made = False
    try:
        if not os.path.lexists(path):
            if not make:
                return -1, True
            os.makedirs(path)
            made = True
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), made
    except NotADirectoryError as error:
        raise TargetError(f"{shown} is not a directory", hint="give a directory as --target") from error
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise TargetError(f"cannot use {shown} as the target: {reason}") from error


def _remove_xattr(fd: int, name: str) -> None:
    with contextlib.suppress(OSError):  # it had none, or the file system keeps none
        os.removexattr(fd, name)
