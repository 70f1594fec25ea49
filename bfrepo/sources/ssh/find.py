"""Listing a host by its `find`: one command, one answer, with inode numbers and change times.

The line for the shell says first what time it is and what `tar` is there, then looks at the directories on the way,
through symlinks, and last lists what was asked for. Needs GNU find; what it says of each name is

    ["type",mode,uid,gid,size,"mtime","ctime",inode,device,links] NUL target NUL path NUL

with which a decoder of JSON is done in no time. Of owners only the numbers are asked for: find would look the names up
for each file anew. Where tar does not tell them they are asked for once each.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import Final

from bfrepo.core.errors import SourceError
from bfrepo.sources.ssh.host import HostLink, RemoteCommand, quoted
from bfrepo.sources.ssh.listing import Listing, RemoteStat, owner_name, parse_stats
from bfrepo.ssh.errors import SshError

_FORMAT: Final = r'["%y",%m,%U,%G,%s,"%T@","%C@",%i,%D,%n]\0%l\0%p\0'
_OWNERS: Final = r"%U %G %u/%g\0"
_FIELDS: Final = 3
_MOST_OWNERS: Final = 500
_LONGEST_HEAD: Final = 4096
_CLOCK: Final = re.compile(rb"(\d{1,11})(?:\.(\d{9}))?")
_COMPLAINT: Final = re.compile(rb"(?:\S*find|sudo): [`'\"](.*)['\"]: (.*)")
_ERRNOS: Final = {b"Permission denied": errno.EACCES, b"No such file or directory": errno.ENOENT}


def list_by_find(link: HostLink, paths: Sequence[bytes], *, one_file_system: bool) -> Listing | None:
    """The listing; None where the host has no GNU find or runs no commands. Raises SshError, SourceError."""
    command = link.run(_command(link, paths, one_file_system=one_file_system))
    try:
        command.feed(b"")
        listing, parts = _read_head(command)
        if listing is None:
            return None
        _read_names(command, listing, parts, paths)
        if not listing.found and _has_no_printf(command):
            return None
        if command.status() < 0:
            raise SshError(f"the connection to {link.host.shown} was lost while files were listed")
        _note_complaints(command.complaints(), listing)
        if b"sudo: " in command.complaints() and not listing.found:
            said = command.complaints().decode(errors="replace").strip().splitlines()[-1]
            raise SourceError(f"{link.host.shown}: {said}", hint="a line of sudoers has to allow it without a password")
    finally:
        command.close()
    return listing


def look_again(link: HostLink, path: bytes) -> RemoteStat | None:
    """What `find` says of one name now; None where it is gone. Raises SshError."""
    said = _ask(link, "find", path, "-maxdepth", "0", "-printf", _FORMAT)
    return parse_stats([said.partition(b"\0")[0]])[0]


def add_owners(link: HostLink, listing: Listing) -> None:
    """Have the listing know the names of owners. Raises SshError."""
    users: dict[int, bytes] = {}
    groups: dict[int, bytes] = {}
    for directory, names in listing.inside.items():
        for name, stat in names.items():
            if stat.uid not in users or stat.gid not in groups:
                path = directory.rstrip(b"/") + b"/" + name
                users.setdefault(stat.uid, path)
                groups.setdefault(stat.gid, path)
    paths = sorted({*users.values(), *groups.values()})[:_MOST_OWNERS]
    said = _ask(link, "find", *paths, "-maxdepth", "0", "-printf", _OWNERS) if paths else b""
    for line in said.split(b"\0"):
        uid, gid, names_of = (*line.split(b" ", 2), b"", b"", b"")[:3]
        user, _, group = names_of.partition(b"/")
        if uid.isdigit() and gid.isdigit():
            listing.users[int(uid)] = owner_name(user) if user != uid else ""
            listing.groups[int(gid)] = owner_name(group) if group != gid else ""


def waypoints(paths: Sequence[bytes]) -> list[bytes]:
    """The directories on the way to some paths, without the root and the paths themselves."""
    found = set()
    for path in paths:
        above = path.rpartition(b"/")[0]
        while above:
            found.add(above)
            above = above.rpartition(b"/")[0]
    return sorted(found - set(paths))


def _ask(link: HostLink, *words: str | bytes) -> bytes:
    command = link.run(b"LC_ALL=C exec " + link.line(*words))
    try:
        command.feed(b"")
        said = b"".join(iter(command.read, b""))
        if command.status() < 0:
            raise SshError(f"the connection to {link.host.shown} was lost")
    finally:
        command.close()
    return said


def _command(link: HostLink, paths: Sequence[bytes], *, one_file_system: bool) -> bytes:
    on_the_way = waypoints(paths)
    apart = ["-xdev"] if one_file_system else []
    lines = [b"date +%s.%N", b"LC_ALL=C tar --version 2>&1 | head -n 1"]
    if on_the_way:
        lines.append(b"LC_ALL=C " + link.line("find", "-H", *on_the_way, "-maxdepth", "0", "-printf", _FORMAT))
    lines.append(b"LC_ALL=C " + link.line("find", *paths, *apart, "-printf", _FORMAT))
    return quoted(["exec", "sh", "-c", b"; ".join(lines)])


def _read_head(command: RemoteCommand) -> tuple[Listing | None, bytes]:
    """What the first two lines say, and what was read behind them."""
    data = b""
    while data.count(b"\n") < 2 and len(data) < _LONGEST_HEAD:
        part = command.read()
        if not part:
            if command.status() < 0:
                raise SshError("the connection was lost before files were listed")
            return None, b""
        data += part
    clock, tar, rest = data.split(b"\n", 2)
    match = _CLOCK.match(clock)
    if match is None:
        return None, b""
    return Listing(now_ns=int(match[1]) * 10**9 + int(match[2] or 0), has_tar=b"GNU tar" in tar), rest


def _read_names(command: RemoteCommand, listing: Listing, rest: bytes, paths: Sequence[bytes]) -> None:
    asked_for = {*paths, *waypoints(paths)}
    while True:
        *fields, rest = rest.split(b"\0")
        whole = len(fields) - len(fields) % _FIELDS
        stats = parse_stats(fields[0:whole:3])
        for stat, target, path in zip(stats, fields[1:whole:3], fields[2:whole:3], strict=True):
            if stat is None:
                continue
            above, _, stat.name = path.rpartition(b"/")
            stat.target = target
            if path in asked_for:
                listing.found.setdefault(path, stat)
            listing.add(above or b"/", stat)
        rest = b"\0".join([*fields[whole:], rest])
        part = command.read()
        if not part:
            return
        rest += part


def _has_no_printf(command: RemoteCommand) -> bool:
    said = command.complaints()
    return b"printf" in said or b"not found" in said


def _note_complaints(said: bytes, listing: Listing) -> None:
    for line in said.splitlines():
        match = _COMPLAINT.fullmatch(line)
        if match is not None:
            code = _ERRNOS.get(match[2], errno.EIO)
            listing.unreadable.setdefault(match[1], OSError(code, match[2].decode(errors="replace")))
