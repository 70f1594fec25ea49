"""A file system filled to the last byte gets room again by forget and prune."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, failure, with_password
from tests.support.mounts import Mounts, mounts_of_its_own

MIB = 1 << 20

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    """A mount namespace that ends with the test."""
    with mounts_of_its_own() as mounts:
        yield mounts


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory to back up."""
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def command(tmp_path: Path, mounts: Mounts) -> Command:
    """A command whose repository is on a file system of 20 MiB."""
    command = replace(with_password(tmp_path), before=mounts.before, environment={"BACKUPFORGE_PASSWORD": None})
    command.repository.mkdir()
    mounts.run("mount", "-t", "tmpfs", "-o", f"size={20 * MIB}", "none", command.repository)
    command("init", "--encryption", "none", "--pack-size", "4M")
    return command


def fill(command: Command, mounts: Mounts) -> None:
    """Leave not a byte, in a file that is not ours."""
    mounts.run("sh", "-c", f"cat /dev/zero >> {command.repository}/filler 2>/dev/null; true")
    assert free(command, mounts) == 0


def free(command: Command, mounts: Mounts) -> int:
    """Bytes that are free."""
    status = os.statvfs(mounts.seen(command.repository))
    return status.f_bavail * status.f_frsize


def back_up(command: Command, source: Path, name: str, seed: int, size: int) -> str:
    """Back up one file of random bytes; the snapshot."""
    for each in source.iterdir():
        each.unlink()
    (source / name).write_bytes(incompressible(seed, size))
    return str(command("backup", source, "--json").summary["snapshot_id"])


def test_forget_and_prune(command: Command, source: Path, mounts: Mounts) -> None:
    """Not a byte is free: what a forgotten snapshot needed becomes free, and what others need stays."""
    first = back_up(command, source, "a", 1, 9 * MIB)
    back_up(command, source, "b", 2, 5 * MIB)
    fill(command, mounts)

    command("forget", first)
    ran = command("prune", "--grace", "0", "--json")

    assert ran.summary["deleted"]["size"] > 8 * MIB
    assert free(command, mounts) > 8 * MIB
    assert "no errors found" in command("check", "--read-data").out
    command("restore", f"latest:{source}", "--target", command.home / "out")
    assert (command.home / "out" / "b").read_bytes() == incompressible(2, 5 * MIB)


def test_with_a_grace_time_it_says_how(command: Command, source: Path, mounts: Mounts) -> None:
    """With a grace time nothing becomes free at once, and the output names the way; its flags are in nobody's way."""
    first = back_up(command, source, "a", 1, 9 * MIB)
    back_up(command, source, "b", 2, 5 * MIB)
    fill(command, mounts)
    command("forget", first)
    assert "--grace 0" in command("prune").out
    command("prune", "--grace", "0")
    assert free(command, mounts) > 8 * MIB


def test_not_even_room_for_a_flag(command: Command, source: Path, mounts: Mounts) -> None:
    """Where not a single flag can be written prune says so and changes nothing; forgetting one more snapshot helps."""
    first = back_up(command, source, "a", 1, 6 * MIB)
    second = back_up(command, source, "c", 3, MIB)
    back_up(command, source, "b", 2, 5 * MIB)
    command("forget", first)
    fill(command, mounts)

    found = failure(command("prune", "--grace", "0", "--json", status=1))
    assert found["error"] == "storage-full"
    assert "forget" in found["hint"]
    assert "no errors found" in command("check").out

    command("forget", second)
    command("prune", "--grace", "0")
    assert free(command, mounts) > 6 * MIB
    assert "no errors found" in command("check", "--read-data").out


def test_many_packs_with_room_for_one_flag(command: Command, source: Path, mounts: Mounts) -> None:
    """Where the flags of all packs do not fit, the largest pack goes first, and makes room for the others."""
    snapshots = [back_up(command, source, "a", seed, 40_000) for seed in range(25)]
    back_up(command, source, "b", 99, MIB)
    packs = len(list(mounts.seen(command.repository).glob("packs/*/*")))
    command("forget", *snapshots[1:])
    fill(command, mounts)
    command("forget", snapshots[0])

    command("prune", "--grace", "0")

    assert len(list(mounts.seen(command.repository).glob("packs/*/*"))) < packs - 40
    assert free(command, mounts) > MIB
    assert "no errors found" in command("check", "--read-data").out


def test_what_is_needed_is_copied_when_there_is_room_again(command: Command, source: Path, mounts: Mounts) -> None:
    """Deletions make room for the copies that follow; where they do not, the copies wait, and nothing is lost."""
    kept = incompressible(7, 3 * MIB)
    garbage = back_up(command, source, "garbage", 9, 4 * MIB)
    (source / "garbage").rename(source / "wasted")
    (source / "kept").write_bytes(kept)
    (source / "wasted").write_bytes(incompressible(8, 6 * MIB))
    first = str(command("backup", source, "--json").summary["snapshot_id"])
    (source / "wasted").unlink()
    command("backup", source)
    fill(command, mounts)
    command("forget", first, garbage)

    command("prune", "--grace", "0", "--max-unused", "0")

    assert free(command, mounts) > 9 * MIB
    assert "no errors found" in command("check", "--read-data").out
    command("restore", f"latest:{source}", "--target", command.home / "out")
    assert (command.home / "out" / "kept").read_bytes() == kept
