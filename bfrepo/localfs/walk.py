"""Going through a file system by directory descriptors: no path is too long, and no symlink leads astray on the way.

Every open below a path that was asked for has O_NOFOLLOW. Access times are left alone where the system allows that:
O_NOATIME is for the owner of a file and for root, anybody else gets EPERM and opens without it.
"""

from __future__ import annotations

import os

from bfrepo.localfs._scan import Stat, open_file, stat_at

_LONGEST_STEP = 4000
"""Bytes of a path handed to the system at once: PATH_MAX of Linux is 4,096 with the ending NUL."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_WAYPOINT = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def open_directory(name: bytes, dir_fd: int | None = None) -> int:
    """A descriptor that can be listed. Raises OSError, also when `name` is a symlink."""
    try:
        return os.open(name, _DIRECTORY | os.O_NOATIME, dir_fd=dir_fd)
    except PermissionError:
        return os.open(name, _DIRECTORY, dir_fd=dir_fd)


def open_waypoint(name: bytes, dir_fd: int | None = None, *, follow_symlinks: bool) -> int:
    """A descriptor to go through and to look at, not to list; needs no permission to read. Mounts nothing
    automatically.

    Raises OSError, also when `name` is a symlink that must not be followed.
    """
    return os.open(name, _WAYPOINT | (0 if follow_symlinks else os.O_NOFOLLOW), dir_fd=dir_fd)


def stat_path(path: bytes) -> Stat:
    """A look at an absolute path of any length. Symlinks on the way are followed, the last name is not. Raises
    OSError.
    """
    fd = open_waypoint(b"/", follow_symlinks=True)
    try:
        rest = path.strip(b"/") or b"."
        while len(rest) > _LONGEST_STEP:
            step, _, tail = rest[:_LONGEST_STEP].rpartition(b"/")
            following = open_waypoint(step or rest, fd, follow_symlinks=True)
            os.close(fd)
            fd, rest = following, tail + rest[_LONGEST_STEP:]
        return stat_at(fd, rest)
    finally:
        os.close(fd)


def read_start(name: bytes, dir_fd: int, limit: int) -> bytes:
    """At most the first `limit` bytes of a regular file. Raises OSError, also when it is something else."""
    fd, _, _ = open_file(dir_fd, name)
    with open(fd, "rb", buffering=0) as file:
        parts = []
        while limit > 0 and (part := file.read(limit)):
            parts.append(part)
            limit -= len(part)
    return b"".join(parts)
