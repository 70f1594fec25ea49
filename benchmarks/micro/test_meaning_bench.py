"""How fast directories are listed, and trees encoded and decoded.

pytest benchmarks/micro --benchmark-only
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bfrepo.core.ids import BlobKind
from bfrepo.core.protocols import Buffer
from bfrepo.data.node import Node
from bfrepo.data.tree import decode_tree, save_tree
from bfrepo.localfs._scan import read_small, scan

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


class LastBlob:
    """A saver that remembers what it was given last."""

    data = b""

    def save(self, kind: BlobKind, data: Buffer) -> bytes:
        """Remembers it."""
        self.data = bytes(data)
        return bytes(32)


def nodes() -> list[Node]:
    """A directory of 1,000 files."""
    return [
        Node(name=b"file-%04d.c" % number, mode=0o644, user="root", group="root", size=number, content=os.urandom(32))
        for number in range(1000)
    ]


def test_encode_a_tree(benchmark: BenchmarkFixture) -> None:
    """1,000 nodes to a blob."""
    saver, directory = LastBlob(), nodes()
    benchmark(lambda: save_tree(saver, directory))  # type: ignore[arg-type]


def test_decode_a_tree(benchmark: BenchmarkFixture) -> None:
    """The blob to 1,000 nodes."""
    saver = LastBlob()
    save_tree(saver, nodes())  # type: ignore[arg-type]
    benchmark(lambda: decode_tree(bytes(32), saver.data))


def test_list_a_directory(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """1,000 entries with everything statx tells."""
    directory = _filled(tmp_path)
    benchmark(lambda: scan(directory))
    os.close(directory)


def test_read_small_files(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """64 files of 10 KiB in one call."""
    directory = _filled(tmp_path)
    names, buffer = tuple(b"%d" % number for number in range(64)), memoryview(bytearray(1 << 20))
    benchmark(lambda: read_small(directory, names, 1 << 18, buffer))
    os.close(directory)


def _filled(folder: Path) -> int:
    for number in range(1000):
        (folder / str(number)).write_bytes(bytes(10 << 10))
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
