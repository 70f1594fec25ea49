"""Many directories at once: a listing of all packs takes a few round trips, not three for each of 256 directories."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import (
    NO_SUCH_FILE,
    Attributes,
    Entry,
    SftpStatus,
    close_handle,
    open_directory,
    read_directory,
    status_of,
)

AT_ONCE = 128
"""How many directories may be open at a time: servers allow a thousand files, and there are other sessions."""

_FIRST_READS = 2
_MOST_READS = 32
"""How many requests for more names are under way for a directory: OpenSSH answers each with up to 100."""


def read_directories(
    session: SftpSession, paths: Sequence[bytes], to_close: list[bytes] | None = None
) -> list[list[Entry]]:
    """What is in each of at most AT_ONCE directories. Raises SftpStatus if one of them cannot be read, SshError.

    They are closed, or left to whoever looks after `to_close`.
    """
    with Batch(session) as batch:
        handles, failure = _open(batch, paths)
        try:
            if failure is not None:
                raise failure
            return _read(batch, handles)
        finally:
            if to_close is not None:
                to_close.extend(handles)
            elif session.usable:
                for handle in handles:
                    batch.send(close_handle(handle))


def follow(session: SftpSession, directory: bytes, entries: Sequence[Entry]) -> list[tuple[bytes, Attributes]]:
    """Names with what they lead to. What leads nowhere, or is gone by now, is left out. Raises SftpStatus, SshError."""
    known = [entry for entry in entries if _is_plain(entry.attributes)]
    found = [(entry.name, entry.attributes) for entry in known]
    with Batch(session) as batch:
        asked = [
            (entry.name, batch.send(status_of(directory + b"/" + entry.name)))
            for entry in entries
            if not _is_plain(entry.attributes)
        ]
        for name, number in asked:
            try:
                found.append((name, batch.attributes(number)))
            except SftpStatus as status:
                if status.code != NO_SUCH_FILE:
                    raise
    return found


def is_file(attributes: Attributes) -> bool:
    """Whether it is a regular file."""
    return attributes.mode is not None and stat.S_ISREG(attributes.mode)


def is_directory(attributes: Attributes) -> bool:
    """Whether it is a directory."""
    return attributes.mode is not None and stat.S_ISDIR(attributes.mode)


def _is_plain(attributes: Attributes) -> bool:
    """Whether it is known what it is, and that it is no link."""
    return is_directory(attributes) or (is_file(attributes) and attributes.size is not None)


def _open(batch: Batch, paths: Sequence[bytes]) -> tuple[list[bytes], SftpStatus | None]:
    """Handles of those that can be opened, and why another one cannot."""
    handles = []
    failure = None
    for number in [batch.send(open_directory(path)) for path in paths]:
        try:
            handles.append(batch.handle(number))
        except SftpStatus as status:
            failure = status
    return handles, failure


def _read(batch: Batch, handles: Sequence[bytes]) -> list[list[Entry]]:
    found: list[list[Entry]] = [[] for _ in handles]
    unfinished = dict(enumerate(handles))
    reads = _FIRST_READS
    while unfinished:
        asked = [(index, batch.send(read_directory(unfinished[index]))) for index in unfinished for _ in range(reads)]
        for index, number in asked:
            entries = batch.entries(number)
            if entries is None:
                unfinished.pop(index, None)
            else:
                found[index].extend(entries)
        reads = min(2 * reads, _MOST_READS)
    return [[entry for entry in entries if entry.name not in (b".", b"..")] for entries in found]
