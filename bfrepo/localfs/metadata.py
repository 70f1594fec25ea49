"""From what the disk tells to a node: names of owners, extended attributes, targets of symlinks."""

from __future__ import annotations

import errno
import grp
import os
import pwd

from bfrepo.data.node import Node
from bfrepo.localfs._scan import Stat

_NOT_THERE = (errno.ENODATA, errno.ENOTSUP)
"""The attribute has just been removed; the file system has no attributes."""


class Owners:
    """Names of users and groups, each asked for once: the answer may come from a server far away.

    May be used by any number of threads. One for each run, so that a later run sees changed names.
    """

    __slots__ = ("_groups", "_users")

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._groups: dict[int, str] = {}

    def user(self, uid: int) -> str:
        """The user's name, empty when the system knows none."""
        name = self._users.get(uid)
        if name is None:
            name = self._users[uid] = _user_name(uid)
        return name

    def group(self, gid: int) -> str:
        """The group's name, empty when the system knows none."""
        name = self._groups.get(gid)
        if name is None:
            name = self._groups[gid] = _group_name(gid)
        return name


def make_node(
    stat: Stat,
    owners: Owners,
    *,
    name: bytes,
    xattrs: list[tuple[bytes, bytes]],
    target: bytes = b"",
    with_atime: bool = False,
) -> Node:
    """Everything about an entry but its content.

    A directory's link count only counts its subdirectories, and a device number may differ after every boot: both are
    kept only where a restore needs them, for the names of one file, so that an unchanged tree stays the same bytes
    (INV-7).
    """
    kind = stat.type
    linked = stat.links > 1 and kind != "dir"
    return Node(
        name=name,
        type=kind,
        mode=stat.mode,
        uid=stat.uid,
        gid=stat.gid,
        user=owners.user(stat.uid),
        group=owners.group(stat.gid),
        mtime_ns=stat.mtime_ns,
        ctime_ns=stat.ctime_ns,
        btime_ns=stat.btime_ns,
        atime_ns=stat.atime_ns if with_atime else None,
        inode=stat.inode,
        device=stat.device if linked else 0,
        links=stat.links if linked else 1,
        size=stat.size if kind == "file" else 0,
        rdev=stat.rdev,
        target=target,
        xattrs=xattrs,
        flags=stat.flags,
    )


def xattrs_of(place: int | bytes, *, follow_symlinks: bool = True) -> list[tuple[bytes, bytes]]:
    """Extended attributes of a descriptor or a path, sorted by name; empty where the file system has none. Raises
    OSError.
    """
    try:
        names = os.listxattr(place, follow_symlinks=follow_symlinks)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return []
        raise
    return _values(place, [os.fsencode(name) for name in names], follow_symlinks=follow_symlinks)


def xattrs_named(fd: int, names: bytes) -> list[tuple[bytes, bytes]]:
    """The attributes of an open file whose names are known already, each ended by NUL. Raises OSError."""
    return _values(fd, names.split(b"\0")[:-1], follow_symlinks=True)


def path_of(fd: int) -> bytes:
    """A path that stands for a descriptor, for calls that take none (O_PATH), however deep it is. Needs /proc."""
    return b"/proc/self/fd/%d" % fd


def _values(place: int | bytes, names: list[bytes], *, follow_symlinks: bool) -> list[tuple[bytes, bytes]]:
    found = []
    for name in sorted(names):
        try:
            found.append((name, os.getxattr(place, name, follow_symlinks=follow_symlinks)))
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
    return found


def _user_name(uid: int) -> str:
    try:
        return _text(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return ""


def _group_name(gid: int) -> str:
    try:
        return _text(grp.getgrgid(gid).gr_name)
    except KeyError:
        return ""


def _text(name: str) -> str:
    """A name that is not UTF-8 cannot be written as text: the number has to do then."""
    return name if name.isprintable() else ""
