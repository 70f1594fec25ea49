"""Real directories: backed up and restored by the library, and looked at so closely that equal means equal.

`census` tells everything a backup is answerable for. It knows nothing of the code under test, and reaches everything
from open directories, so that no path is too long for it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from bfrepo.core.progress import Quiet
from bfrepo.data.selection import SnapshotFilter
from bfrepo.localfs.metadata import Owners
from bfrepo.operations.backup import BackupOptions, BackupResult, backup
from bfrepo.operations.restore import restore
from bfrepo.repository.repository import Repository
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import RestoreSummary
from bfrepo.sources.exclude import ExcludeRules
from bfrepo.sources.filesystem import FileSystemSource
from tests.support.backups import never

_BLOCK: Final = 4096
_GET_FLAGS: Final = 0x80086601  # FS_IOC_GETFLAGS of <linux/fs.h> on 64-bit machines
_COMPARED_FLAGS: Final = 0x10 | 0x20 | 0x40  # immutable, append-only, no dump


@dataclass(frozen=True)
class Seen:
    """One entry. `names` are all names of the same file; `digest` is of the content; `data` are its extents."""

    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    rdev: int
    target: bytes
    names: tuple[bytes, ...]
    flags: int
    xattrs: tuple[tuple[str, bytes], ...]
    digest: bytes
    data: tuple[tuple[int, int], ...]


def census(top: Path) -> dict[bytes, Seen]:
    """Everything below a directory, and the directory itself as b"." ."""
    names: dict[tuple[int, int], list[bytes]] = {}
    found: dict[bytes, tuple[tuple[int, int], dict[str, Any]]] = {}
    for path, directory_fd, name in _walk(top):
        now = os.lstat(name, dir_fd=directory_fd)
        key = now.st_dev, now.st_ino
        names.setdefault(key, []).append(path)
        found[path] = key, _look(directory_fd, name, now)
    return {path: Seen(names=tuple(sorted(names[key])), **fields) for path, (key, fields) in found.items()}


def _walk(top: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """The path, and how to get there: an open directory and a name."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield b".", fd, b"."
        for path, directories, files, directory_fd in os.fwalk(b".", dir_fd=fd, follow_symlinks=False):
            for name in [*directories, *files]:
                yield os.path.join(path, name), directory_fd, name
    finally:
        os.close(fd)


def _look(directory_fd: int, name: bytes, now: os.stat_result) -> dict[str, Any]:
    kind = stat.S_IFMT(now.st_mode)
    place = b"/proc/self/fd/%d/%s" % (directory_fd, name)
    flags, digest = 0, b""
    data: tuple[tuple[int, int], ...] = ()
    if kind in (stat.S_IFREG, stat.S_IFDIR):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory_fd)
        try:
            flags = _flags(fd)
            if kind == stat.S_IFREG:
                digest, data = _content(fd, now.st_size)
        finally:
            os.close(fd)
    return {
        "kind": kind,
        "mode": stat.S_IMODE(now.st_mode),
        "uid": now.st_uid,
        "gid": now.st_gid,
        "mtime_ns": now.st_mtime_ns,
        "size": now.st_size if kind == stat.S_IFREG else 0,
        "rdev": now.st_rdev,
        "target": os.readlink(name, dir_fd=directory_fd) if kind == stat.S_IFLNK else b"",
        "flags": flags,
        "xattrs": tuple(
            (each, os.getxattr(place, each, follow_symlinks=False))
            for each in sorted(os.listxattr(place, follow_symlinks=False))
        ),
        "digest": digest,
        "data": data,
    }


def _flags(fd: int) -> int:
    held = array.array("I", [0, 0])
    try:
        fcntl.ioctl(fd, _GET_FLAGS, held)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP):
            raise
    return held[0] & _COMPARED_FLAGS


def _content(fd: int, size: int) -> tuple[bytes, tuple[tuple[int, int], ...]]:
    """A hash of the blocks that are not all zeros, and the extents: what is a hole and what is zeros hashes alike."""
    hasher, extents = blake3(), tuple(data_extents(fd, size))
    for start, end in extents:
        for offset in range(start - start % _BLOCK, end, 256 * _BLOCK):
            _hash_blocks(hasher, offset, os.pread(fd, min(256 * _BLOCK, end - offset), offset))
    return hasher.digest(), extents


def _hash_blocks(hasher: Any, offset: int, content: bytes) -> None:
    for at in range(0, len(content), _BLOCK):
        block = content[at : at + _BLOCK]
        if block.count(0) != len(block):
            hasher.update(b"%d %d:" % (offset + at, len(block)))
            hasher.update(block)


def data_extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data: (start, end)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def above(path: Path) -> list[tuple[int, ...]]:
    """What a backup of `path` also sees and others may change at any time: the directories on the way to it."""
    looks = (os.stat(each) for each in path.parents)
    return [(now.st_mtime_ns, now.st_ctime_ns, now.st_mode, now.st_uid, now.st_gid) for now in looks]


def rsync_differences(one: Path, other: Path, *excluded: str) -> str:
    """What rsync would do to make the second directory like the first; nothing when they are alike to it."""
    leave_out = [f"--exclude={pattern}" for pattern in excluded]
    done = subprocess.run(
        ["rsync", "-naciHAX", "--delete", *leave_out, f"{one}/", f"{other}/"], capture_output=True, check=True
    )
    return os.fsdecode(done.stdout + done.stderr)


def dense_zeros_aside(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """A census that does not tell zeros from holes in the files made of zeros: those come back as holes."""
    return {path: replace(each, data=()) if b"zeros-" in path else each for path, each in seen.items()}


@contextlib.contextmanager
def removable(*tops: Path) -> Iterator[None]:
    """Afterwards whatever is below can be removed by whoever owns it: nothing is immutable or closed."""
    try:
        yield
    finally:
        for top in filter(Path.exists, tops):
            unprotect(top)
            subprocess.run(["chmod", "-R", "u+rwX", top], check=False, capture_output=True)


def unprotect(top: Path) -> None:
    """Nothing below is immutable or append-only any more."""
    subprocess.run(["chattr", "-R", "-f", "-i", "-a", top], check=False, capture_output=True)


class Problems(Quiet):
    """A reporter that remembers what went wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[bytes, str]] = []

    def problem(self, path: bytes, message: str) -> None:
        """See Reporter."""
        super().problem(path, message)
        self.found.append((path, message))


def back_up(repository: Repository, *paths: Path, **options: Any) -> BackupResult:
    """Back up directories of this machine by the library."""
    plain: dict[str, Any] = {"hostname": "here", "username": "me", "program": "tests"}
    reporter = Problems()
    source = FileSystemSource(
        [bytes(path) for path in paths],
        rules=ExcludeRules.from_options(environment={}),
        one_file_system=False,
        with_atime=False,
        owners=Owners(),
        on_error=lambda path, error: reporter.problem(path, str(error)),
    )
    chosen = BackupOptions(paths=source.paths, **{**plain, **options})
    result = backup(repository, lambda: source, chosen, reporter, never)
    assert (reporter.found, result.snapshot.summary.errors) == ([], 0), reporter.found
    return result


def restore_to(repository: Repository, snapshot_id: bytes, path: Path, target: Path, **options: Any) -> RestoreSummary:
    """Restore the contents of a directory of a snapshot by the library, without an error."""
    what = f"{snapshot_id.hex()}:{path}"
    chosen = RestoreOptions(target=bytes(target), **options)
    reporter = Problems()
    summary = restore(repository, what, SnapshotFilter(), chosen, reporter, never).summary
    assert (reporter.found, summary.errors) == ([], 0), reporter.found
    return summary
