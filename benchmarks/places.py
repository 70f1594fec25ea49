"""Where benchmarks work: copies of what is read, room and memory for what is written, and whether a copy is right."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import in_units
from benchmarks.running import BenchmarkError, note

MEMORY_RESERVE = 2 << 30
"""Bytes of memory that a tmpfs must leave to the tools themselves."""
SAMPLE_EVERY = 25
"""Of the small files of a restore, every one of this many is compared by content."""
SAMPLE_ALWAYS = 1 << 20
"""Files of this many bytes or more are always compared by content."""

MEMORY_FOR_TOOL = 1 << 30
"""Bytes of memory that a tool may use itself, besides what it writes to a tmpfs."""
MEMORY_BLOCK = 2 << 20
"""Bytes of which one page is kept while memory is held at hand."""


def files_under(root: Path) -> Iterator[Path]:
    """Every entry below `root`, directories included, none followed."""
    for directory, subdirectories, files in os.walk(root):
        for name in (*subdirectories, *files):
            yield Path(directory, name)


def tree_bytes(root: Path) -> int:
    """The sum of the lengths of all regular files below `root`."""
    infos = (path.lstat() for path in files_under(root))
    return sum(info.st_size for info in infos if stat.S_ISREG(info.st_mode))


def compare_trees(source: Path, restored: Path, who: str) -> None:
    """Raises BenchmarkError unless `restored` holds the same entries as `source`.

    Compares names, kinds, sizes, symlink targets and modification times of all, and the contents of large files and of
    a sample of the small ones.
    """
    count = 0
    for count, path in enumerate(files_under(source), 1):
        twin = restored / path.relative_to(source)
        if not same_entry(path, twin, deep=count % SAMPLE_EVERY == 0):
            raise BenchmarkError(f"{who} restored {twin} differently from {path}")
    extra = sum(1 for _ in files_under(restored)) - count
    if extra:
        raise BenchmarkError(f"{who} restored {extra} entries into {restored} that {source} does not have")


def same_entry(path: Path, twin: Path, *, deep: bool) -> bool:
    """Whether two entries agree; `deep` compares the contents of a small file too."""
    try:
        ours, theirs = path.lstat(), twin.lstat()
    except FileNotFoundError:
        return False
    if ours.st_mode != theirs.st_mode:
        return False
    if stat.S_ISLNK(ours.st_mode):
        return path.readlink() == twin.readlink()
    if not stat.S_ISREG(ours.st_mode):
        return True
    # Whole seconds: plain tar archives keep no more.
    if (ours.st_size, int(ours.st_mtime)) != (theirs.st_size, int(theirs.st_mtime)):
        return False
    return not (deep or ours.st_size >= SAMPLE_ALWAYS) or content_hash(path) == content_hash(twin)


def content_hash(path: Path) -> bytes:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def room_bytes(directory: Path) -> int:
    """Bytes that may be written below `directory`; on a tmpfs also no more than memory has to give."""
    free = shutil.disk_usage(directory).free
    if not is_tmpfs(directory):
        return free
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(free, available - MEMORY_RESERVE)


def is_tmpfs(directory: Path) -> bool:
    """Whether files in `directory` live in memory."""
    device = directory.stat().st_dev
    mounts = (line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return any(mount.split()[2] == wanted and kind.startswith("tmpfs ") for mount, kind in mounts)


@contextmanager
def memory_at_hand(directory: Path, size: int) -> Iterator[None]:
    """On a tmpfs: `size` bytes of the memory that is free, or half of it, cost no more than memory does.

    The first touch of a page that a virtual machine's host has yet to supply takes 10 to 20 microseconds, and makes up
    most of a restore to a tmpfs, whichever tool does it. A machine may also give free memory back after two seconds. So
    the pages are touched, and all but one of each block are let go: what is left keeps the rest from leaving.
    """
    size = min(size, room_bytes(directory) // 2) // MEMORY_BLOCK * MEMORY_BLOCK
    if not is_tmpfs(directory) or size <= 0:
        yield
        return
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(size // MEMORY_BLOCK):
            file.write(bytes(MEMORY_BLOCK))
        file.flush()
        with mmap.mmap(file.fileno(), size) as memory:
            for block in range(0, size, MEMORY_BLOCK):
                memory.madvise(mmap.MADV_REMOVE, block + mmap.PAGESIZE, MEMORY_BLOCK - mmap.PAGESIZE)
        yield


@contextmanager
def workplace(corpus_dir: Path, names: Sequence[str], work: Path) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """A directory to work in and the sources to read, copied into it when there is room. Removed at the end.

    A turn needs at most a repository and a restore besides the sources: twice their size, if nothing compresses.
    """
    originals = tuple((corpus_dir / name).resolve() for name in names)
    size = sum(map(tree_bytes, originals))
    copied = room_bytes(work) >= 3 * size
    if not copied:
        note(f"{work} has no room for three times {in_units(size)}: sources are read from {corpus_dir}")
        if room_bytes(work) < 2 * size:
            work = Path(tempfile.gettempdir())
            note(f"nor for twice that: repositories and restores go to {work}")
        if room_bytes(work) < 2 * size:
            raise BenchmarkError(f"{work} has no room for twice {in_units(size)}: name another --work")
    with tempfile.TemporaryDirectory(prefix="compare-", dir=work.resolve()) as name:
        root = Path(name)
        if copied:
            subprocess.run(["cp", "-a", *map(str, originals), name], check=True)
        yield root, tuple(root / each.name for each in originals) if copied else originals
