"""Objects as files on a server that speaks SFTP, laid out as in a local repository.

The directory on the server is a local repository for whoever is there, and the other way round: what local.py says
about files, leftovers in `tmp/` and directories that are missing holds here too. sftp_upload.py says how a file comes
to be, sftp_place.py what the directory is like.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from blake3 import blake3

from bfrepo.core.clock import Clock, SystemClock
from bfrepo.core.errors import DamagedObject, StorageDenied, StorageError, StorageObjectMissing
from bfrepo.core.protocols import Buffer
from bfrepo.ssh.connect import SshConnection, connect
from bfrepo.ssh.errors import SshError, SshRefused
from bfrepo.ssh.sftp import Batch, SftpSession
from bfrepo.ssh.sftp_format import (
    NO_SUCH_FILE,
    PIECE,
    READ,
    Attributes,
    SftpStatus,
    close_handle,
    open_file,
    read_piece,
    remove,
    status_of,
)
from bfrepo.storage.base import ObjectInfo, ObjectKind, Upload
from bfrepo.storage.layout import USUAL, describe, object_path, parse_object_path, path_in
from bfrepo.storage.options import SftpOptions
from bfrepo.storage.places import SftpLocation
from bfrepo.storage.sftp_listing import AT_ONCE, follow, is_file, read_directories
from bfrepo.storage.sftp_place import SftpPlace, is_directory_at, parent
from bfrepo.storage.sftp_pool import Line, RemoteFile, SftpPool
from bfrepo.storage.sftp_sync import DirectorySync
from bfrepo.storage.sftp_upload import SftpUpload

_SWEEP_AFTER_S: Final = 7 * 24 * 3600
_SMALL: Final = (ObjectKind.KEY, ObjectKind.SNAPSHOT, ObjectKind.CLAIM)
"""Kinds whose objects nearly always fit into one answer. How long a config is, its bytes do not prove."""
_LOOKED_AT: Final = 768
"""To list 256 directories takes 1,027 requests, and six round trips."""
_PACK_DIRECTORY = re.compile(rb"[0-9a-f]{2}")


class SftpBackend:
    """A repository in a directory of a server. Thread rule and errors are those of `Backend`.

    Nothing is connected before the first call.
    """

    def __init__(
        self,
        location: SftpLocation,
        options: SftpOptions,
        *,
        clock: Clock | None = None,
        folders: Mapping[ObjectKind, str] = USUAL,
    ) -> None:
        """`folders` names the directory of a kind that is not the usual one, from which objects can be read."""
        self._location = location
        self._folders = folders
        self._options = options
        self._clock = clock or SystemClock()
        self._place = SftpPlace(location)
        self._pool = SftpPool(self._connect, options.connections)
        self._lock = threading.Lock()
        self._swept = False
        self._ready_directories: set[bytes] = set()

    @property
    def location(self) -> str:
        """Where it is, as scp writes it."""
        return self._location.shown

    @property
    def connections(self) -> int:
        """As many as the option says."""
        return self._options.connections

    @property
    def pool(self) -> SftpPool:
        """The sessions."""
        return self._pool

    @property
    def ready_directories(self) -> set[bytes]:
        """Directories of packs that are known to be there, durably."""
        return self._ready_directories

    def create(self) -> None:
        """See `Backend.create`. Makes missing parent directories too."""
        with self._connected("cannot make a repository"), self._pool.borrow() as line:
            try:
                self._place.create(line.session)
            except SftpStatus as status:
                raise self._place.failure(line.session, "cannot make a repository", status) from status

    def remove_place(self) -> None:
        """See `PlaceRemover`. A root that was there before `create` stays."""
        with self._connected("cannot remove directories"), self._pool.borrow() as line:
            self._place.remove(line.session)

    def list(self, kind: ObjectKind) -> Iterator[ObjectInfo]:
        """See `Backend.list`."""
        directories = self._pack_directories() if kind is ObjectKind.PACK else [_directory(kind)]
        for start in range(0, len(directories), AT_ONCE):
            some = directories[start : start + AT_ONCE]
            for directory, names in zip(some, self._names(kind, some), strict=True):
                yield from _objects(kind, directory, names)

    def size(self, kind: ObjectKind, name: str) -> int:
        """See `Backend.size`."""
        path = self._object(kind, name)
        with self._reading(kind, name) as line, Batch(line.session) as batch:
            return batch.attributes(batch.send(status_of(path))).size or 0

    def load(self, kind: ObjectKind, name: str) -> bytes:
        """See `Backend.load`. Of a small object a first piece is read that mostly turns out to be all of it."""
        path = self._object(kind, name)
        with self._reading(kind, name) as line, Batch(line.session) as batch:
            handle = batch.handle(batch.send(open_file(path, READ)))
            line.to_close.append(handle)
            first = batch.send(read_piece(handle, 0, PIECE))
            asked = None if kind in _SMALL else batch.send(status_of(path))
            begin = bytes(batch.data(first) or b"")
            if asked is None and len(begin) < PIECE and blake3(begin).hexdigest() == name:
                return begin
            size = batch.attributes(asked or batch.send(status_of(path))).size or 0
            data = bytearray(begin[:size].ljust(size, b"\0"))
            rest = memoryview(data)[len(begin) :]
            self._fill(line.session, describe(kind, name), RemoteFile(handle, size), len(begin), rest)
            return bytes(data)

    def present(self, kind: ObjectKind, names: Collection[str]) -> set[str]:
        """See `Prober`: up to some hundreds are looked at, all with one round trip."""
        if len(names) > _LOOKED_AT:
            return {info.name for info in self.list(kind)}.intersection(names)
        with self._listing(kind) as line, Batch(line.session) as batch:
            asked = {name: batch.send(status_of(self._object(kind, name))) for name in names}
            found = {name for name, number in asked.items() if _is_there(batch, number)}
            if len(found) < len(asked) and not is_directory_at(line.session, self.path(_directory(kind))):
                raise self._place.incomplete(line.session)
            return found

    def read(self, kind: ObjectKind, name: str, offset: int, length: int) -> bytes:
        """See `Backend.read`."""
        path = self._object(kind, name)
        with self._reading(kind, name, path) as line:
            file = self._file(line, path)
            self._check_range(kind, name, offset, length, file.size)
            data = bytearray(length)
            self._fill(line.session, describe(kind, name), file, offset, memoryview(data))
            return bytes(data)

    def read_into(self, kind: ObjectKind, name: str, offset: int, buffer: memoryview) -> None:
        """See `Backend.read_into`."""
        path = self._object(kind, name)
        rest = buffer.cast("B")
        with self._reading(kind, name, path) as line:
            file = self._file(line, path)
            self._check_range(kind, name, offset, len(rest), file.size)
            self._fill(line.session, describe(kind, name), file, offset, rest)

    def save(self, kind: ObjectKind, name: str, data: Buffer) -> None:
        """See `Backend.save`."""
        object_path(kind, name)  # refuses what is no name before anything is written
        upload = SftpUpload(self, kind)
        try:
            upload.write(data)
            upload.commit(name)
        finally:
            upload.abort()

    def upload(self, kind: ObjectKind, *, cold: bool = False) -> Upload:
        """See `Backend.upload`. The first one sweeps old leftovers."""
        if kind is ObjectKind.CONFIG:
            raise ValueError("config is saved whole, never uploaded")
        with self._lock:
            sweep, self._swept = not self._swept, True
        if sweep:
            before_s = self._clock.now().timestamp() - _SWEEP_AFTER_S
            with self.writing(kind, None), self._pool.borrow() as line:
                self._place.sweep(line.session, before_s=before_s)
        return SftpUpload(self, kind)

    def delete(self, kind: ObjectKind, name: str) -> None:
        """See `Backend.delete`."""
        self.take(kind, name)

    @property
    def takes(self) -> bool:
        """See `Taker`."""
        return True

    def take(self, kind: ObjectKind, name: str) -> bool:
        """See `Taker`."""
        path = self._object(kind, name)
        with self.writing(kind, name), self._pool.borrow() as line, self.answered(line, kind, name):
            # The directory is synced also when it was gone: what took it away may have failed before that.
            sync = DirectorySync(line.session, parent(path), line.directories, keep=kind is not ObjectKind.PACK)
            with Batch(line.session) as batch:
                removed = batch.send(remove(path))
                sync.change_sent()
                was_there = True
                try:
                    batch.done(removed)
                except SftpStatus as status:
                    if status.code != NO_SUCH_FILE or not is_directory_at(line.session, self.path(_directory(kind))):
                        raise
                    was_there = False
            sync.finish()
            self._pool.forget(path)
            return was_there

    def close(self) -> None:
        """See `Backend.close`."""
        self._pool.close()

    def path(self, relative: str) -> bytes:
        """A path on the server, below the root."""
        return self._place.path(relative)

    @contextmanager
    def writing(self, kind: ObjectKind, name: str | None) -> Iterator[None]:
        """Turns what goes wrong with the connection in a change into our errors; `name` is None if not yet known."""
        with self._connected(_subject(kind, name)):
            yield

    @contextmanager
    def answered(self, line: Line, kind: ObjectKind, name: str | None) -> Iterator[None]:
        """Turns what the server says is wrong with a change into our errors."""
        try:
            yield
        except SftpStatus as status:
            self._ready_directories.clear()
            if status.code == NO_SUCH_FILE:
                raise self._place.incomplete(line.session) from status
            raise self._place.failure(line.session, _subject(kind, name), status) from status

    @contextmanager
    def _reading(self, kind: ObjectKind, name: str, path: bytes | None = None) -> Iterator[Line]:
        """A session; what goes wrong in it with an object that is read becomes an error of ours."""
        with self._connected(describe(kind, name)), self._pool.borrow(path) as line:
            try:
                yield line
            except SftpStatus as status:
                if path is not None:
                    self._pool.forget(path)
                if status.code != NO_SUCH_FILE:
                    raise self._place.failure(line.session, describe(kind, name), status) from status
                if kind is ObjectKind.CONFIG or is_directory_at(line.session, self.path(_directory(kind))):
                    raise StorageObjectMissing(f"{describe(kind, name)} is missing in {self.location}") from status
                raise self._place.incomplete(line.session) from status

    @contextmanager
    def _connected(self, subject: str) -> Iterator[None]:
        """Turns what goes wrong between the machines into our errors."""
        try:
            yield
        except SshRefused as error:
            raise StorageDenied(f"cannot open {self.location}: {error}", hint=error.hint) from error
        except SshError as error:
            raise StorageError(f"{subject} in {self.location}: {error}", hint=error.hint) from error

    def _connect(self) -> SshConnection:
        place = self._location
        return connect(place.host, user=place.user, port=place.port, settings=self._options.ssh())

    def _pack_directories(self) -> Sequence[str]:
        """Those that are there. A link counts, wherever it leads: where that is nowhere, the listing must fail."""
        with self._listing(ObjectKind.PACK) as line:
            [entries] = read_directories(line.session, [self.path(ObjectKind.PACK.value)], line.to_close)
        names = [entry.name for entry in entries if not is_file(entry.attributes)]
        return [f"{ObjectKind.PACK.value}/{name.decode()}" for name in names if _PACK_DIRECTORY.fullmatch(name)]

    def _names(self, kind: ObjectKind, directories: Sequence[str]) -> Sequence[Sequence[tuple[bytes, Attributes]]]:
        """What is in directories below the root, each name with what it leads to."""
        paths = [self.path(directory) for directory in directories]
        with self._listing(kind) as line:
            found = read_directories(line.session, paths, line.to_close)
            return [follow(line.session, path, each) for path, each in zip(paths, found, strict=True)]

    @contextmanager
    def _listing(self, kind: ObjectKind) -> Iterator[Line]:
        """A session; what goes wrong in it with a directory becomes an error of ours."""
        subject = f"cannot list {kind.value}"
        with self._connected(subject), self._pool.borrow() as line:
            try:
                yield line
            except SftpStatus as status:
                if status.code == NO_SUCH_FILE:
                    raise self._place.incomplete(line.session) from status
                raise self._place.failure(line.session, subject, status) from status

    def _file(self, line: Line, path: bytes) -> RemoteFile:
        """The file, open; it stays open for the next read."""
        file = line.files.get(path)
        if file is None:
            deletions = self._pool.deletions
            file = _open(line, path)
            self._pool.keep_open(line, path, file, deletions)
        return file

    def _fill(self, session: SftpSession, subject: str, file: RemoteFile, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with bytes of a file."""
        with Batch(session) as batch:
            if batch.read(file.handle, offset, buffer) < len(buffer):
                raise DamagedObject(f"{subject} in {self.location} became shorter while it was read")

    def _check_range(self, kind: ObjectKind, name: str, offset: int, length: int, size: int) -> None:
        if offset + length > size:
            raise DamagedObject(
                f"{describe(kind, name)} in {self.location} is too short: it ends at byte {size}, "
                f"before the {length} bytes at {offset}",
                hint="run `backupforge check` to see what depends on it",
            )

    def _object(self, kind: ObjectKind, name: str) -> bytes:
        return self.path(path_in(self._folders, kind, name))


def _directory(kind: ObjectKind) -> str:
    """The directory of a kind below the root; empty for that of the config, which is the root."""
    return "" if kind is ObjectKind.CONFIG else kind.value


def _objects(kind: ObjectKind, directory: str, names: Sequence[tuple[bytes, Attributes]]) -> Iterator[ObjectInfo]:
    """The objects of a kind among names in a directory."""
    for name, leads_to in names:
        parsed = parse_object_path(f"{directory}/{os.fsdecode(name)}" if directory else os.fsdecode(name))
        if parsed is not None and parsed[0] is kind and is_file(leads_to):
            yield ObjectInfo(parsed[1], leads_to.size or 0)


def _subject(kind: ObjectKind, name: str | None) -> str:
    return f"{kind.value.removesuffix('s')} being written" if name is None else describe(kind, name)


def _is_there(batch: Batch, number: int) -> bool:
    """Whether what `status_of` asked about is a file. Raises SftpStatus, SshError."""
    try:
        return is_file(batch.attributes(number))
    except SftpStatus as status:
        if status.code != NO_SUCH_FILE:
            raise
        return False


def _open(line: Line, path: bytes) -> RemoteFile:
    """Open a file for reading. Raises SftpStatus, SshError."""
    with Batch(line.session) as batch:
        opened, asked = batch.send(open_file(path, READ)), batch.send(status_of(path))
        handle = batch.handle(opened)
        try:
            return RemoteFile(handle, batch.attributes(asked).size or 0)
        except SftpStatus:
            batch.send(close_handle(handle))
            raise
