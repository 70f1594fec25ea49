"""Listing a host by SFTP alone, where it runs no commands for us: many directories at a time.

SFTP tells size, mode, owners and the modification time in whole seconds. It tells neither inode numbers nor change
times, so which names are one file is not known, and a file counts as unchanged by its size and that second: what is
given as its change time is the end of it, so that a file is read again when it was that young.
"""

from __future__ import annotations

import errno
import stat as modes
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from bfrepo.data.node import is_safe_name
from bfrepo.sources.ssh.find import waypoints
from bfrepo.sources.ssh.listing import TYPES, Listing, RemoteStat, owner_name
from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import (
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    Attributes,
    SftpStatus,
    close_handle,
    extended,
    link_status_of,
    open_directory,
    read_directory,
    read_link,
    status_of,
)

_AT_ONCE: Final = 64
"""Directories that are open at a time."""

_READS: Final = 4
_LINKS: Final = 256
_OWNERS: Final = "users-groups-by-id@openssh.com"
_SECOND: Final = 1_000_000_000
_LETTERS: Final = {
    modes.S_IFREG: "f", modes.S_IFDIR: "d", modes.S_IFLNK: "l", modes.S_IFIFO: "p",
    modes.S_IFSOCK: "s", modes.S_IFBLK: "b", modes.S_IFCHR: "c",
}  # fmt: skip


def list_by_sftp(session: SftpSession, paths: Sequence[bytes]) -> Listing:
    """The listing. Raises SshError."""
    listing = Listing()
    on_the_way = waypoints(paths)
    asked = [*((path, status_of(path)) for path in on_the_way), *((path, link_status_of(path)) for path in paths)]
    with Batch(session) as batch:
        for path, number in [(path, batch.send(request)) for path, request in asked]:
            try:
                _place(listing, path, batch.attributes(number))
            except SftpStatus as status:
                listing.unreadable[path] = as_os_error(status)
    pending = [path for path in paths if path == b"/" or (path in listing.found and listing.found[path].type == "dir")]
    links = [stat for path, stat in listing.found.items() if stat.type == "symlink" and path not in on_the_way]
    at = {id(stat): path for path, stat in listing.found.items()}
    _read_links(session, [(at[id(stat)], stat) for stat in links])
    while pending:
        some, pending = pending[:_AT_ONCE], pending[_AT_ONCE:]
        for path, stats in _list_some(session, some, listing):
            prefix = path if path == b"/" else path + b"/"
            _read_links(session, [(prefix + stat.name, stat) for stat in stats if stat.type == "symlink"])
            for stat in stats:
                listing.add(path, stat)
            pending += [prefix + stat.name for stat in stats if stat.type == "dir"]
    _add_owners(session, listing)
    return listing


def as_os_error(status: SftpStatus) -> OSError:
    """What a server says is wrong with a file."""
    codes = {NO_SUCH_FILE: errno.ENOENT, PERMISSION_DENIED: errno.EACCES}
    return OSError(codes.get(status.code, errno.EIO), f"the host says: {status}")


def stat_of(name: bytes, attributes: Attributes) -> RemoteStat | None:
    """A name and what SFTP says of it; None where it does not say what it is."""
    letter = None if attributes.mode is None else _LETTERS.get(modes.S_IFMT(attributes.mode))
    if attributes.mode is None or letter is None:
        return None
    seconds = attributes.mtime or 0
    return RemoteStat(
        letter=letter,
        digits=0,
        type=TYPES[letter],
        mode=modes.S_IMODE(attributes.mode),
        uid=attributes.uid or 0,
        gid=attributes.gid or 0,
        size=min(attributes.size or 0, (1 << 63) - 1),
        modified="",
        changed="",
        mtime_ns=seconds * _SECOND,
        ctime_ns=(seconds + 1) * _SECOND - 1,
        name=name,
    )


def _place(listing: Listing, path: bytes, attributes: Attributes) -> None:
    """Note a path that was asked for, or a directory on the way to one."""
    above, _, name = path.rpartition(b"/")
    stat = stat_of(name, attributes)
    if stat is not None:
        listing.found[path] = stat
        listing.add(above or b"/", stat)


def _list_some(
    session: SftpSession, paths: Sequence[bytes], listing: Listing
) -> Iterator[tuple[bytes, list[RemoteStat]]]:
    with Batch(session) as batch:
        handles: dict[bytes, bytes] = {}
        for path, number in [(path, batch.send(open_directory(path))) for path in paths]:
            try:
                handles[path] = batch.handle(number)
            except SftpStatus as status:
                listing.unreadable[path] = as_os_error(status)
        stats = _read_names(batch, dict(handles), listing)
        for handle in handles.values():
            batch.send(close_handle(handle))
    yield from stats.items()


def _read_names(batch: Batch, unfinished: dict[bytes, bytes], listing: Listing) -> dict[bytes, list[RemoteStat]]:
    stats: dict[bytes, list[RemoteStat]] = {path: [] for path in unfinished}
    while unfinished:
        asked = [(path, batch.send(read_directory(unfinished[path]))) for path in unfinished for _ in range(_READS)]
        for path, number in asked:
            try:
                entries = batch.entries(number)
            except SftpStatus as status:
                listing.unreadable[path] = as_os_error(status)
                entries = None
            if entries is None:
                unfinished.pop(path, None)
                continue
            for entry in entries:
                if entry.name in (b".", b".."):
                    continue
                stat = stat_of(entry.name, entry.attributes)
                if stat is None or not is_safe_name(entry.name):
                    listing.unreadable.setdefault(path, OSError(errno.EIO, f"the host names {entry.name!r} in it"))
                else:
                    stats[path].append(stat)
    return stats


def _read_links(session: SftpSession, links: Sequence[tuple[bytes, RemoteStat]]) -> None:
    for some in (links[start : start + _LINKS] for start in range(0, len(links), _LINKS)):
        with Batch(session) as batch:
            for stat, number in [(stat, batch.send(read_link(path))) for path, stat in some]:
                try:
                    entries = batch.entries(number)
                except SftpStatus:
                    continue  # without a target it is reported when its node is made
                stat.target = entries[0].name if entries else b""


def _add_owners(session: SftpSession, listing: Listing) -> None:
    """The names of owners, where the server tells them: OpenSSH 9.2 and later does."""
    if _OWNERS not in session.extensions:
        return
    stats = [stat for names in listing.inside.values() for stat in names.values()]
    uids, gids = sorted({stat.uid for stat in stats}), sorted({stat.gid for stat in stats})
    packed = [b"".join(struct.pack(">I", number) for number in numbers) for numbers in (uids, gids)]
    with Batch(session) as batch:
        try:
            users, groups = batch.names(batch.send(extended(_OWNERS, *packed)))
        except SftpStatus:
            return
    listing.users.update(zip(uids, map(owner_name, users), strict=False))
    listing.groups.update(zip(gids, map(owner_name, groups), strict=False))
