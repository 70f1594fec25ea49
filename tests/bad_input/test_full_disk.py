"""No space left: the error says so, nothing that was stored is lost, and with more room the work is completed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, failure, with_password
from tests.support.directories import census
from tests.support.mounts import Mounts

MIB = 1 << 20

pytestmark = pytest.mark.root


def small_disk(mounts: Mounts, path: Path, size: int) -> None:
    """Mount an empty file system of a size."""
    path.mkdir(exist_ok=True)
    mounts.run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", path)


def grow(mounts: Mounts, path: Path) -> None:
    """Make room."""
    mounts.run("mount", "-o", "remount,size=100m", path)


def test_full_while_backing_up(tmp_path: Path, source: Path, mounts: Mounts) -> None:
    """The repository stays whole, earlier snapshots restore, and the next backup completes once there is room."""
    command = replace(with_password(tmp_path), before=mounts.before, environment={"BACKUPFORGE_PASSWORD": None})
    small_disk(mounts, command.repository, 6 * MIB)
    command("init", "--encryption", "none", "--pack-size", "4M")
    first = command("backup", source, "--json").summary["snapshot_id"]
    (source / "big").write_bytes(incompressible(9, 12 * MIB))

    for _ in range(2):
        found = failure(command("backup", source, "--json", status=1))
        assert found["error"] == "storage-full"
        assert str(command.repository) in found["message"]
        assert command.snapshots() == [first]
        assert "no errors found" in command("check", "--read-data").out
    assert "hint: " in command("backup", source, status=1).err
    command("restore", f"latest:{source}", "--target", tmp_path / "early")
    assert set(census(tmp_path / "early")) == {b".", b"./a", b"./b", b"./sub", b"./sub/c"}

    grow(mounts, command.repository)
    command("backup", source)
    command("restore", f"latest:{source}", "--target", tmp_path / "late", "--verify")
    assert (tmp_path / "late" / "big").read_bytes() == incompressible(9, 12 * MIB)
    assert "no errors found" in command("check", "--read-data").out


def test_full_before_there_is_a_repository(tmp_path: Path, mounts: Mounts) -> None:
    """An init without room leaves no half repository: the next one succeeds."""
    command = replace(with_password(tmp_path), before=mounts.before)
    small_disk(mounts, command.repository, 4096)
    found = failure(command("init", "--json", status=1))
    assert found["error"] == "storage-full"
    grow(mounts, command.repository)
    command("init")
    command("list")


def test_full_while_restoring(plain: Command, source: Path, mounts: Mounts) -> None:
    """The error names the target; with room the same restore completes what the first one began."""
    (source / "big").write_bytes(incompressible(9, 12 * MIB))
    plain("backup", source)
    target = plain.home / "target"
    small_disk(mounts, target, 5 * MIB)
    there = replace(plain, before=mounts.before)
    found = failure(there("restore", f"latest:{source}", "--target", target, "--json", status=1))
    assert found["error"] == "target-failed"
    assert "pace" in found["message"]
    grow(mounts, target)
    there("restore", f"latest:{source}", "--target", target, "--overwrite", "always", "--verify")
    assert (mounts.seen(target) / "big").read_bytes() == incompressible(9, 12 * MIB)


def test_no_room_for_a_cache(plain: Command, source: Path, mounts: Mounts) -> None:
    """A cache that cannot be written costs time, nothing else."""
    cache = plain.home / "cache"
    small_disk(mounts, cache, 4096)
    mounts.run("sh", "-c", f"head -c 4096 /dev/zero > {cache}/full")
    there = replace(plain, before=mounts.before)
    assert there("backup", source, "--cache-dir", cache).err == ""
    target = plain.home / "out"  # who enters a namespace of mounts begins at its root
    assert there("restore", f"latest:{source}", "--target", target, "--cache-dir", cache).err == ""
    assert census(target).keys() == census(source).keys()
