"""A process that reads from a mount, in every way there is, and compares. Only the standard library and blake3.

    reader.py random SOURCE MOUNTED SEED COUNT    random pieces of all files, compared with those of the source
    reader.py crowd IDS SEED                      files named for their content, until stdin is closed

Both end with a JSON object on stdout; wrong content is an AssertionError.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.support.backups import incompressible

PIECE: Final = 300_000
"""The most that is read at once: more than a chunk of the tests, and than what the kernel asks for at once."""


def read_pread(fd: int, offset: int, size: int) -> bytes:
    """As most programs read."""
    return os.pread(fd, size, offset)


def read_mapped(fd: int, offset: int, size: int) -> bytes:
    """By the pages of a mapping."""
    if not os.fstat(fd).st_size:
        return b""
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as mapped:
        return mapped[offset : offset + size]


def read_sent(fd: int, offset: int, size: int) -> bytes:
    """By the kernel, from file to file."""
    out = os.memfd_create("sent")
    try:
        sent = 0
        while sent < size and (now := os.sendfile(out, fd, offset + sent, size - sent)):
            sent += now
        return os.pread(out, sent, 0)
    finally:
        os.close(out)


WAYS: Final[tuple[Callable[[int, int, int], bytes], ...]] = (read_pread, read_pread, read_mapped, read_sent)


def compare_at_random(source: Path, mounted: Path, seed: int, count: int) -> dict[str, Any]:
    """Read pieces of files that stay open, now and then after the kernel has been told to forget them."""
    chance = random.Random(seed)
    names = sorted(os.listdir(source))
    pairs = [(os.open(source / name, os.O_RDONLY), os.open(mounted / name, os.O_RDONLY)) for name in names]
    for number in range(count):
        place = chance.randrange(len(names))
        one, other = pairs[place]
        size = os.fstat(one).st_size
        offset, length = chance.randrange(size + 5000), chance.randrange(1, PIECE)
        if chance.random() < 0.2:
            os.posix_fadvise(other, 0, 0, os.POSIX_FADV_DONTNEED)
        if chance.random() < 0.05:
            os.close(other)
            pairs[place] = one, (other := os.open(mounted / names[place], os.O_RDONLY))
        got = chance.choice(WAYS)(other, offset, length)
        assert got == os.pread(one, length, offset), (names[place], offset, length, number)
    return {"reads": count}


def read_in_a_crowd(ids: Path, seed: int) -> dict[str, Any]:
    """Read files out of whatever snapshots there are. Errors are counted by snapshot."""
    chance = random.Random(seed)
    reads, errors = 0, []
    while not select.select([sys.stdin], [], [], 0)[0]:
        snapshot = ""
        try:
            snapshot = chance.choice(os.listdir(ids))
            folder, _, files = chance.choice([each for each in os.walk(ids / snapshot, onerror=_raise) if each[2]])
            for name in files:
                check_content(Path(folder) / name)
                reads += 1
        except OSError as error:
            errors.append([snapshot, error.errno])
    return {"reads": reads, "errors": errors}


def check_content(path: Path) -> None:
    """A file is named for its content: SEED-SIZE."""
    number, size = map(int, path.name.split("-"))
    assert path.read_bytes() == incompressible(number, size), path


def _raise(error: OSError) -> None:
    raise error


def main() -> None:
    """The program."""
    if sys.argv[1] == "random":
        done = compare_at_random(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
    else:
        done = read_in_a_crowd(Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(done))


if __name__ == "__main__":
    main()
