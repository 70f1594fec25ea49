"""What requests are answered, asked without a kernel in between."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
import trio

from bfrepo.core.errors import (
    BackupForgeError,
    DamagedBlob,
    Interrupted,
    MissingBlob,
    ObjectNotFound,
    StorageDenied,
    StorageError,
)
from bfrepo.core.units import KIB
from bfrepo.repository.repository import Repository
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.memory import MemoryBackend
from mount.errnos import errno_of
from mount.filesystem import SnapshotOperations
from mount.fuse import pyfuse3
from mount.inodes import ROOT
from mount.options import MountOptions
from tests.support.backups import incompressible, run_backup
from tests.support.faulty import FaultyBackend
from tests.support.repositories import make_repository, names, reopen
from tests.support.sources import Item, folder

T = TypeVar("T")
NOISE = incompressible(1, 300 * KIB)
NOBODY: pyfuse3.RequestContext = None  # type: ignore[assignment]  # who asks makes no difference


class Asking:
    """Requests to a file system, one after the other. `said` is what it logged."""

    def __init__(self, repository: Repository, options: MountOptions) -> None:
        self.repository = repository
        self.said: list[tuple[str, bytes, str]] = []
        self.operations = SnapshotOperations(repository, options, lambda *line: self.said.append(line))
        self.refresh()

    def refresh(self) -> None:
        """Look for new snapshots."""
        trio.run(self.operations.refresh)

    def ask(self, request: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """The answer to a request."""

        async def asked() -> T:
            return await request(*arguments)

        return trio.run(asked)

    def refused(self, request: Callable[..., Awaitable[object]], *arguments: object) -> int:
        """The errno that a request is answered."""
        with pytest.raises(pyfuse3.FUSEError) as caught:
            self.ask(request, *arguments)
        return caught.value.errno

    def lookup(self, *path: bytes, start: int = ROOT) -> pyfuse3.EntryAttributes:
        """The entry at a path."""
        for name in path:
            entry = self.ask(self.operations.lookup, start, name, NOBODY)
            start = entry.st_ino
        return entry

    def read(self, inode: int, offset: int, size: int) -> bytes:
        """Open, read and close a file."""
        handle = self.ask(self.operations.open, inode, os.O_RDONLY, NOBODY).fh
        try:
            return bytes(self.ask(self.operations.read, handle, offset, size))
        finally:
            self.ask(self.operations.release, handle)


@pytest.fixture
def backend() -> FaultyBackend:
    """Storage of a repository with one snapshot of host "here"."""
    backend = FaultyBackend(MemoryBackend())
    tree: dict[str, Item | bytes] = {
        "dir": folder(mode=0o1777, uid=5, gid=6),
        "dir/file": Item(content=NOISE, mode=0o4755, uid=7, gid=8, xattrs=((b"user.a", b"1"), (b"user.b", b""))),
        "dir/link": Item(type="symlink", target=b"file"),
        "dir/null": Item(type="chardev", rdev=0x103),
    }
    run_backup(make_repository(backend, compression="none"), tree)
    return backend


@pytest.fixture
def options() -> MountOptions:
    """Snapshots are below the names of their hosts."""
    return MountOptions(path_templates=("%h",))


@pytest.fixture
def asking(backend: FaultyBackend, options: MountOptions) -> Iterator[Asking]:
    """Its file system."""
    opened = Asking(reopen(backend), options)
    yield opened
    opened.operations.close()


def test_attributes(asking: Asking) -> None:
    """An entry's attributes are those of the source, and in a snapshot they are for ever."""
    entry = asking.lookup(b"here", b"dir", b"file")
    assert (stat.filemode(entry.st_mode), entry.st_uid, entry.st_gid) == ("-rwsr-xr-x", 7, 8)
    assert (entry.st_size, entry.st_blocks, entry.st_nlink) == (len(NOISE), 600, 1)
    assert entry.st_mtime_ns == entry.st_atime_ns == 1_600_000_000_000_000_000
    assert min(entry.entry_timeout, entry.attr_timeout) >= 10**8
    assert asking.ask(asking.operations.getattr, entry.st_ino, NOBODY).st_size == len(NOISE)
    assert asking.lookup(b"here", b"dir", b"null").st_rdev == 0x103
    assert asking.lookup(b"here", b"dir", b"link").st_size == 4


def test_what_is_not_there(asking: Asking) -> None:
    """A name that a snapshot does not have is not there for ever; one beside snapshots may come."""
    missing = asking.lookup(b"here", b"dir", b"missing")
    assert (missing.st_ino, missing.entry_timeout >= 10**8) == (0, True)
    assert asking.refused(asking.operations.lookup, ROOT, b"missing", NOBODY) == errno.ENOENT
    assert asking.lookup(b"here").entry_timeout <= 1


def test_xattrs(asking: Asking) -> None:
    """Extended attributes are those of the source; one that it has not is told apart from an empty one."""
    inode = asking.lookup(b"here", b"dir", b"file").st_ino
    assert asking.ask(asking.operations.listxattr, inode, NOBODY) == [b"user.a", b"user.b"]
    assert asking.ask(asking.operations.getxattr, inode, b"user.b", NOBODY) == b""
    assert asking.refused(asking.operations.getxattr, inode, b"user.c", NOBODY) == errno.ENODATA


def test_symlinks(asking: Asking) -> None:
    """A symlink points where it did."""
    assert asking.ask(asking.operations.readlink, asking.lookup(b"here", b"dir", b"link").st_ino, NOBODY) == b"file"


def test_reading(asking: Asking) -> None:
    """A read at any place gives what the source had there, whether within a chunk or across several."""
    inode = asking.lookup(b"here", b"dir", b"file").st_ino
    for offset, size in ((0, 10), (100_000, 131_072), (len(NOISE) - 5, 100), (len(NOISE), 10), (0, len(NOISE))):
        assert asking.read(inode, offset, size) == NOISE[offset : offset + size]


def test_writing(asking: Asking) -> None:
    """Nothing can be opened to be written to, even where the kernel would let it pass."""
    inode = asking.lookup(b"here", b"dir", b"file").st_ino
    for flags in (os.O_WRONLY, os.O_RDWR):
        assert asking.refused(asking.operations.open, inode, flags, NOBODY) == errno.EROFS


def test_dots(asking: Asking) -> None:
    """Who has kept the number of an entry finds it again, and the directory that it is in; NFS does so."""
    top, directory, file = (
        asking.lookup(*path).st_ino for path in ((b"here",), (b"here", b"dir"), (b"here", b"dir", b"file"))
    )
    for inode in (top, directory, file, ROOT):
        assert asking.lookup(b".", start=inode).st_ino == inode
    assert [asking.lookup(b"..", start=inode).st_ino for inode in (file, directory, top, ROOT)] == [
        directory,
        top,
        ROOT,
        ROOT,
    ]


def test_forgotten_numbers_are_good_for_a_while(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the kernel has forgotten all that is in a directory, its numbers are stale only when they make room."""
    inode = asking.lookup(b"here", b"dir", b"file").st_ino
    asking.ask(asking.operations.forget, [(inode, 1)])
    assert asking.lookup(b".", start=inode).st_ino == inode
    monkeypatch.setattr("mount.inodes._MOST_IDLE", 0)
    asking.ask(asking.operations.forget, [(inode, 1)])
    assert asking.refused(asking.operations.getattr, inode, NOBODY) == errno.ESTALE
    assert asking.refused(asking.operations.open, inode, os.O_RDONLY, NOBODY) == errno.ESTALE
    assert asking.read(asking.lookup(b"here", b"dir", b"file").st_ino, 0, 10) == NOISE[:10]


def test_a_snapshot_that_went(asking: Asking) -> None:
    """The number of a snapshot that was forgotten is stale; who is in it may stay."""
    top = asking.lookup(b"here").st_ino
    directory = asking.lookup(b"here", b"dir").st_ino
    (name,) = names(asking.repository.backend, ObjectKind.SNAPSHOT)
    asking.repository.backend.delete(ObjectKind.SNAPSHOT, name)
    asking.refresh()
    assert asking.refused(asking.operations.getattr, top, NOBODY) == errno.ESTALE
    assert asking.refused(asking.operations.lookup, ROOT, b"here", NOBODY) == errno.ENOENT
    assert asking.read(asking.lookup(b"file", start=directory).st_ino, 0, 10) == NOISE[:10]


def test_the_first_open_brings_the_content(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that is at hand is given to the kernel when it is opened first, once, and before it is read."""
    stored: list[tuple[int, int, bytes]] = []
    monkeypatch.setattr(pyfuse3, "notify_store", lambda *call: stored.append((call[0], call[1], bytes(call[2]))))
    run_backup(asking.repository, {"little": b"content"}, hostname="there")
    asking.refresh()
    inode = asking.lookup(b"there", b"little").st_ino
    asking.read(inode, 0, 100)
    assert stored == []  # nobody had read its frame
    asking.ask(asking.operations.forget, [(inode, 1)])
    inode = asking.lookup(b"there", b"little").st_ino
    asking.read(inode, 0, 100)
    asking.read(inode, 0, 100)
    assert stored == [(inode, 0, b"content")]


def test_damage_is_named_once(asking: Asking, backend: FaultyBackend) -> None:
    """INV-4: a damaged file is EIO, and one line says which it is, however often the kernel asks."""
    packs = {name: backend.size(ObjectKind.PACK, name) for name in names(backend, ObjectKind.PACK)}
    backend.flip_byte(ObjectKind.PACK, max(packs, key=lambda name: packs[name]), 150 * KIB)
    inode = asking.lookup(b"here", b"dir", b"file").st_ino
    handle = asking.ask(asking.operations.open, inode, os.O_RDONLY, NOBODY).fh
    for _ in range(3):
        assert asking.refused(asking.operations.read, handle, 0, len(NOISE)) == errno.EIO
    assert [(how, path) for how, path, _ in asking.said] == [("error", b"here/dir/file")]
    assert "does not hash to its ID" in asking.said[0][2]


def test_a_storage_that_fails(asking: Asking, backend: FaultyBackend) -> None:
    """A storage that cannot be read is EIO, and the same file can be read as soon as it works again."""
    inode = asking.lookup(b"here", b"dir", b"file").st_ino
    handle = asking.ask(asking.operations.open, inode, os.O_RDONLY, NOBODY).fh
    backend.fail("read_into", kind=ObjectKind.PACK, forever=True)
    assert asking.refused(asking.operations.read, handle, 0, 10) == errno.EIO
    backend.heal()
    assert asking.said[0][:2] == ("error", b"here/dir/file")
    assert bytes(asking.ask(asking.operations.read, handle, 0, 10)) == NOISE[:10]


def test_owner_me(backend: FaultyBackend) -> None:
    """On request everything belongs to who mounts it."""
    asking = Asking(reopen(backend), MountOptions(path_templates=("%h",), owner_me=True))
    entry = asking.lookup(b"here", b"dir", b"file")
    asking.operations.close()
    assert (entry.st_uid, entry.st_gid) == (os.getuid(), os.getgid())


def test_size(asking: Asking) -> None:
    """The file system is as large as the repository's packs, and full."""
    packs = sum(info.size for info in asking.repository.backend.list(ObjectKind.PACK))
    data = asking.ask(asking.operations.statfs, NOBODY)
    assert 0 <= data.f_blocks * data.f_frsize - packs < 4096
    assert (data.f_bavail, data.f_namemax) == (0, 255)


@pytest.mark.parametrize(
    "error, number",
    [
        (ObjectNotFound("x"), errno.ENOENT),
        (StorageDenied("x"), errno.EACCES),
        (StorageError("x"), errno.EIO),
        (DamagedBlob("x"), errno.EIO),
        (MissingBlob("x"), errno.EIO),
        (BackupForgeError("x"), errno.EIO),
        (Interrupted("x"), errno.EINTR),
        (MemoryError(), errno.ENOMEM),
        (RuntimeError("x"), errno.EIO),
    ],
)
def test_errnos(error: Exception, number: int) -> None:
    """Each error of ours is an errno that says what it is; what nobody expected is EIO."""
    assert errno_of(error) == number
