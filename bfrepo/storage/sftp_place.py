"""The directory on an SFTP server that a repository is in: how it is made, and what may be wrong with it.

The protocol gives a full disk, a volume that is read-only and much else the same number, "failure". Which it was is
found out by a look at the file system (statvfs@openssh.com).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from bfrepo.core.errors import RepositoryExists, StorageDenied, StorageError, StorageFull
from bfrepo.core.units import MIB
from bfrepo.ssh.errors import SshError
from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import (
    NO_SUCH_FILE,
    PERMISSION_DENIED,
    Attributes,
    SftpStatus,
    Space,
    extended,
    make_directory,
    remove,
    remove_directory,
    status_of,
)
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.layout import DIRECTORY_KINDS
from bfrepo.storage.places import SftpLocation
from bfrepo.storage.sftp_listing import is_directory, read_directories
from bfrepo.storage.sftp_sync import DirectorySync
from bfrepo.storage.sftp_upload import DIRECTORY_MODE

TEMPORARY: Final = "tmp"
_FRAME: Final = (*(kind.value for kind in DIRECTORY_KINDS), TEMPORARY)
"""What `create` makes below the root."""

_ALMOST_FULL: Final = MIB
_STATVFS: Final = "statvfs@openssh.com"


class SftpPlace:
    """The directory, for whoever has a session. What methods raise beside our own errors is SftpStatus and SshError."""

    def __init__(self, location: SftpLocation) -> None:
        """A relative path begins in the home of the user there, and so does one with `~/` in front."""
        self.shown = location.shown
        path = location.path.removeprefix("~/") if location.path != "~" else "."
        self.root = os.fsencode(path) or b"."
        self._made: list[bytes] = []

    def path(self, relative: str) -> bytes:
        """What lies below the root, with slashes; the root itself for the empty path."""
        return self.root.rstrip(b"/") + b"/" + relative.encode() if relative else self.root

    def create(self, session: SftpSession) -> None:
        """Make it, with its parents. Raises RepositoryExists if it is not empty, or no directory."""
        try:
            self._made = made = _make_directories(session, self.root)
        except NotADirectoryError as error:
            raise RepositoryExists(f"{self.shown} is not a directory", hint="choose another place") from error
        if not self._is_empty_frame(session):
            raise RepositoryExists(
                f"{self.shown} is not empty", hint="choose a new or empty directory for the repository"
            )
        for name in _FRAME:
            _make_directories(session, self.path(name))
        for directory in (self.root, *(parent(path) for path in reversed(made))):
            DirectorySync(session, directory, {}, keep=False).finish()  # what is in it was made just now

    def remove(self, session: SftpSession) -> None:
        """Remove the directories that `create` made, and those of packs, as far as nothing is in them."""
        packs = [self.path(f"{ObjectKind.PACK.value}/{number:02x}") for number in range(256)]
        for directories in (packs, [self.path(name) for name in _FRAME], *([each] for each in self._made)):
            with Batch(session) as batch:
                for request in [batch.send(remove_directory(each)) for each in directories]:
                    with suppress(SftpStatus):
                        batch.done(request)

    def failure(self, session: SftpSession, subject: str, status: SftpStatus) -> StorageError:
        """Our error for an answer of the server about `subject`."""
        said = status.text.lower()
        message = f"{subject} in {self.shown}: {said or f'status {status.code}'}"
        if status.code == PERMISSION_DENIED:
            return StorageDenied(message, hint="check the owner and mode of the repository on the server")
        space = self._space(session)
        if "no space" in said or "quota" in said or (space is not None and _is_full(space)):
            return StorageFull(
                f"{subject} in {self.shown}: no space left on the server",
                hint="make room on the volume, or raise the quota, and run it again",
            )
        if space is not None and space.read_only:
            return StorageDenied(
                f"{subject} in {self.shown}: the file system is read-only", hint="check how it is mounted on the server"
            )
        return StorageError(message)

    def incomplete(self, session: SftpSession) -> StorageError:
        """The error for a place without one of the directories that `create` makes."""
        if not is_directory_at(session, self.root):
            return StorageError(f"the directory {self.shown} is missing", hint="is the volume mounted on the server?")
        absent = [name for name in _FRAME if not is_directory_at(session, self.path(name))]
        if not absent:
            return StorageError(f"something in {self.shown} vanished while it was in use")
        return StorageError(
            f"{self.shown} is not a complete repository: the directory {absent[0]} is missing in it",
            hint="is the volume mounted on the server? If a copy left out empty directories, make them again",
        )

    def sweep(self, session: SftpSession, *, before_s: float) -> None:
        """Remove temporary files that were last written before `before_s` (s since 1970). As good as it goes."""
        with suppress(SftpStatus, SshError):
            [entries] = read_directories(session, [self.path(TEMPORARY)])
            with Batch(session) as batch:
                for entry in entries:
                    if entry.attributes.mtime is not None and entry.attributes.mtime < before_s:
                        batch.send(remove(self.path(TEMPORARY) + b"/" + entry.name))

    def _is_empty_frame(self, session: SftpSession) -> bool:
        """Whether nothing is there but empty directories of ours, which an interrupted `create` leaves."""
        [entries] = read_directories(session, [self.root])
        present = {entry.name for entry in entries}
        ours = [self.path(name) for name in _FRAME if name.encode() in present]
        if len(ours) < len(present) or not all(is_directory_at(session, path) for path in ours):
            return False
        return not any(read_directories(session, ours))

    def _space(self, session: SftpSession) -> Space | None:
        """What is left where it is, if the server tells."""
        if _STATVFS not in session.extensions:
            return None
        with suppress(SftpStatus, SshError), Batch(session) as batch:
            return batch.space(batch.send(extended(_STATVFS, self.root)))
        return None


def is_directory_at(session: SftpSession, path: bytes) -> bool:
    """Whether there is a directory at the path that we may look at. Raises SshError."""
    with suppress(SftpStatus):
        found = _attributes(session, path)
        return found is not None and is_directory(found)
    return False


def parent(path: bytes) -> bytes:
    """The directory that a path lies in."""
    above, slash, _ = path.rstrip(b"/").rpartition(b"/")
    return above or slash or b"."


def _make_directories(session: SftpSession, path: bytes) -> list[bytes]:
    """Make a directory and its missing parents; returns what was missing, the innermost first.

    Raises NotADirectoryError, SftpStatus, SshError.
    """
    missing: list[bytes] = []
    while (found := _attributes(session, path)) is None and path not in (b"/", b"."):
        missing.append(path)
        path = parent(path)
    if found is not None and not is_directory(found):
        raise NotADirectoryError(path)
    for each in reversed(missing):
        with Batch(session) as batch:
            try:
                batch.done(batch.send(make_directory(each, DIRECTORY_MODE)))
            except SftpStatus:
                if not is_directory_at(session, each):  # otherwise another process was faster
                    raise
    return missing


def _attributes(session: SftpSession, path: bytes) -> Attributes | None:
    """What is at the path, None where nothing is. Raises SftpStatus, SshError."""
    with Batch(session) as batch:
        try:
            return batch.attributes(batch.send(status_of(path)))
        except SftpStatus as status:
            if status.code == NO_SUCH_FILE:
                return None
            raise


def _is_full(space: Space) -> bool:
    return space.free < _ALMOST_FULL or space.free_names == 0
