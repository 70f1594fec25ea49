"""Files and archives out of snapshots: what the usual programs make of them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bfrepo.core.protocols import Buffer
from bfrepo.data.selection import SnapshotFilter
from bfrepo.operations.dump import Archive, DumpResult, archive_for, dump, find_dump
from bfrepo.repository.repository import Repository
from tests.support.backups import never
from tests.support.directories import Problems, Seen, back_up, census, removable
from tests.support.repositories import make_repository
from tests.support.ugly import ASPECTS

TAR_LOSES = ("no_dump", "unchangeable")
"""Aspects that are nothing but inode flags."""


class MemorySink:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: Buffer) -> None:
        self.data += data

    def zeros(self, count: int) -> None:
        self.data += bytes(count)

    def flush(self) -> None:
        """All is here."""


class Warnings(Problems):
    """A reporter that remembers warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[tuple[bytes, str]] = []

    def warn(self, path: bytes, message: str) -> None:
        self.warnings.append((path, message))


def dumped(
    repository: Repository,
    path: str | Path,
    archive: Archive | None = None,
    *,
    reporter: Warnings | None = None,
    cancelled: Callable[[], bool] = never,
    sink: MemorySink | None = None,
) -> tuple[bytes, DumpResult]:
    """What a path of the latest snapshot is written as."""
    reporter, sink = reporter or Warnings(), sink or MemorySink()
    place = find_dump(repository, "latest", os.fsencode(path).strip(b"/"), SnapshotFilter(), reporter)
    result = dump(repository, place, archive_for(place.node, archive), sink, reporter, cancelled)
    return bytes(sink.data), result


def extract(archive: bytes, target: Path) -> None:
    """What GNU tar makes of an archive, with everything it can keep."""
    target.mkdir()
    done = subprocess.run(
        [
            "tar",
            "-xp",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--numeric-owner",
            "--warning=no-timestamp",
            "-C",
            target,
        ],
        input=archive,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.decode(errors="replace")) == (0, "")


def comparable(seen: Mapping[bytes, Seen]) -> dict[bytes, Seen]:
    """A census without what a tar does not have: sockets, inode flags, the directory itself, what is data and what is
    hole in files made of zeros.
    """
    sockets = {path for path, each in seen.items() if each.kind == 0o140000}
    return {
        path: replace(each, flags=0, data=() if b"zeros-" in path else each.data)
        for path, each in seen.items()
        if path != b"." and path not in sockets
    }


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Where the tree is made. It and what comes back of it, in "out", can be removed afterwards."""
    top = tmp_path / "src"
    top.mkdir()
    with removable(top, tmp_path / "out"):
        yield top


@pytest.mark.parametrize("aspect", [each for each in ASPECTS if each not in TAR_LOSES])
def test_gnu_tar_extracts_what_was_backed_up(aspect: str, source: Path, tmp_path: Path) -> None:
    """Each ugly aspect comes back through a tar archive and GNU tar."""
    try:
        ASPECTS[aspect](source)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    before = census(source)
    repository = make_repository()
    back_up(repository, source)

    archive, _ = dumped(repository, source)
    extract(archive, tmp_path / "out")

    assert comparable(census(tmp_path / "out")) == comparable(before)
