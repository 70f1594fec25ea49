"""Inputs at the end of what there is: long paths, deep trees, directories of many, huge files of zeros, odd clocks."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from time import sleep

import pytest

from bfrepo.chunker.base import ChunkerParams
from bfrepo.core.clock import SystemClock
from bfrepo.core.progress import Quiet
from bfrepo.core.units import GIB, KIB, MIB
from bfrepo.operations.check import CheckOptions, check
from bfrepo.operations.snapshots import load_snapshots
from tests.support.backups import incompressible, never, run_backup
from tests.support.command import Command
from tests.support.directories import Seen, back_up, census, data_extents, restore_to
from tests.support.repositories import START, FakeClock, make_repository
from tests.support.restoring import restored
from tests.support.sources import DictFile, DictSource, Item, written


def test_path_of_4000_bytes(plain: Command, tmp_path: Path) -> None:
    """As long as a path can be given at all: backed up, listed and restored."""
    top = tmp_path / "long"
    deepest = top
    while len(bytes(deepest)) + 254 < 4000:
        deepest = deepest / ("ü" * 125)
    deepest = deepest / ("x" * (4000 - len(bytes(deepest)) - 1))
    deepest.parent.mkdir(parents=True)
    deepest.write_text("the end")
    assert len(bytes(deepest)) == 4000
    plain("backup", top)
    assert f"{deepest}\n" in plain("ls", "-R", "latest").out
    plain("restore", f"latest:{tmp_path}", "--target", tmp_path / "out")
    assert without_root(census(tmp_path / "out" / "long")) == without_root(census(top))
    plain("backup", deepest)
    assert f"{deepest}\n" in plain("ls", "-R", "latest").out


def test_path_longer_than_any_path(plain: Command, tmp_path: Path) -> None:
    """A tree may be deeper than a path can tell: 200 directories, 50,000 bytes."""
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for level in range(200):
        name = f"{level:03}" + "d" * 247
        os.mkdir(name, dir_fd=fd)
        inner = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as file:
            file.write(str(level))
    os.close(fd)
    ran = plain("backup", top, "--json")
    assert (ran.summary["errors"], ran.summary["files_new"]) == (0, 200)
    plain("restore", f"latest:{tmp_path}", "--target", tmp_path / "out", "--verify")
    assert without_root(census(tmp_path / "out" / "deep")) == without_root(census(top))
    assert plain("ls", "-R", "--json", f"latest:{top}").lines[-1]["name"] == "file"
    assert "no errors found" in plain("check").out


def without_root(seen: dict[bytes, Seen]) -> dict[bytes, Seen]:
    """All but the directory itself."""
    return {path: each for path, each in seen.items() if path != b"."}


@pytest.mark.slow
def test_directory_of_100_000(tmp_path: Path) -> None:
    """A large directory comes back whole; one file more in it stores little, not the directory again."""
    top, many = tmp_path / "top", 100_000
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for number in range(many):
        os.close(os.open(f"entry number {number}", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    os.close(fd)
    sleep(0.1)  # what changed just before a backup is read again by the next one
    repository = make_repository(clock=SystemClock())
    first = back_up(repository, top)
    assert first.snapshot.summary.files == many
    (top / "entry number 50000 and a half").write_text("new")
    second = back_up(repository, top)
    assert (second.archived.files_new, second.archived.files_unmodified) == (1, many)
    assert second.stored.bytes_stored < first.stored.bytes_stored / 20
    assert second.snapshot_id is not None
    restore_to(repository, second.snapshot_id, tmp_path, tmp_path / "out")
    names = os.listdir(tmp_path / "out" / "top")
    assert (len(names), set(names)) == (many + 1, set(os.listdir(top)))


@pytest.mark.slow
def test_20_gigabytes_of_hole(plain: Command, tmp_path: Path) -> None:
    """A file of 20 GB that is one hole is not read, stores next to nothing and comes back as a hole."""
    top = tmp_path / "top"
    top.mkdir()
    with (top / "hole").open("wb") as file:
        file.truncate(20 * GIB)
    summary = plain("backup", top, "--json").summary
    assert summary["total_bytes_processed"] == 20 * GIB
    assert summary["data_added_packed"] < 10 * KIB
    plain("restore", f"latest:{top}", "--target", tmp_path / "out", "--verify")
    back = (tmp_path / "out" / "hole").stat()
    assert (back.st_size, back.st_blocks) == (20 * GIB, 0)
    assert "no errors found" in plain("check", "--read-data").out


ZEROS = bytes(16 * MIB)


class ZerosFile(DictFile):
    """A file of zeros that are read, each of them."""

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile."""
        length = max(min(len(buffer), self.node().size - offset), 0)
        buffer[:length] = memoryview(ZEROS)[:length]
        return length


@pytest.mark.slow
def test_zeros_without_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros that a file system stores are read, stored once, and come back as a hole. 2 GB of them: ten times as many
    only repeat the same chunk, and would take the test half a minute."""
    size = 2 * GIB
    monkeypatch.setattr("tests.support.sources.DictFile", ZerosFile)
    repository = make_repository(chunker=ChunkerParams())
    result = run_backup(repository, {"data/zeros": Item(length=size)}, workers=2)
    assert result.snapshot.summary.size == size
    assert result.stored.bytes_stored < 10 * KIB
    assert result.snapshot_id is not None
    restore_to(repository, result.snapshot_id, Path("/data"), tmp_path / "out")
    with (tmp_path / "out" / "zeros").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == size
        assert list(data_extents(file.fileno(), size)) == []


@pytest.mark.parametrize("jump", [timedelta(days=-10_000), timedelta(days=-1), timedelta(days=36_500)])
def test_clock_that_jumps(jump: timedelta) -> None:
    """Whatever the clock says: every snapshot is right, changes are seen, and a check finds nothing wrong."""
    clock = FakeClock()
    repository = make_repository(clock=clock)
    tree: dict[str, Item | bytes] = {"data/a": b"one", "data/b": incompressible(1, 50_000)}
    run_backup(repository, tree)
    clock.time += jump
    changed = {**tree, "data/a": written(b"two")}
    second = run_backup(repository, changed)
    assert restored(repository.loader, second.snapshot.tree)["/data/a"] == b"two"
    clock.time = START
    third = run_backup(repository, {**tree, "data/a": written(b"6!!", again=2)})
    assert restored(repository.loader, third.snapshot.tree)["/data/a"] == b"6!!"
    assert len(load_snapshots(repository)) == 3
    assert check(repository, CheckOptions(), Quiet(), never).findings == ()


def test_clock_that_goes_back_while_backing_up() -> None:
    """The wall clock jumps in the middle; durations do not, and nothing of it shows in the snapshot."""
    clock = FakeClock()

    def jump() -> None:
        clock.time -= timedelta(days=400)
        clock.seconds += 5

    tree: dict[str, Item | bytes] = {"data/a": Item(content=b"one", on_read=jump), "data/b": b"two"}
    repository = make_repository(clock=clock)
    result = run_backup(repository, DictSource(tree))
    assert result.duration_s == 5.0
    assert result.snapshot.time == START.isoformat()
    again = run_backup(repository, {**tree, "data/a": replace(Item(content=b"one"))})
    assert restored(repository.loader, again.snapshot.tree)["/data/b"] == b"two"
