"""`prune` on the command line: what it says, in words and in JSON, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, failure, without_encryption


@pytest.fixture
def two(tmp_path: Path) -> Command:
    """A repository of two snapshots, with another content of 3 and then 1 MB in one file."""
    command = without_encryption(tmp_path)
    source = tmp_path / "source"
    source.mkdir()
    for seed, size in ((1, 3_000_000), (2, 1_000_000)):
        (source / "old").write_bytes(incompressible(seed, size))
        command("backup", source)
    return command


@pytest.fixture
def command(two: Command) -> Command:
    """That repository, of which the first snapshot was forgotten."""
    two("forget", "--keep-last", "1")
    return two


def test_dry_run(command: Command) -> None:
    """A dry run shows sizes and what would become of the packs, in words and in JSON, and changes nothing."""
    before = command.objects("packs") + command.objects("index")
    ran = command("prune", "--dry-run")
    assert "not needed             2.86 MiB" in ran.out
    assert "delete in 24h" in ran.out
    assert ran.out.endswith("nothing was changed\n")
    document = command("prune", "--dry-run", "--grace", "0", "--json").document
    assert document["dry_run"] is True
    assert document["delete"]["size"] > 3_000_000
    assert document["delete"]["count"] == len(document["delete"]["packs"])
    assert command.objects("packs") + command.objects("index") == before


def test_dry_run_of_forget_and_prune(two: Command) -> None:
    """A dry run of forget with --prune shows the plan of the prune as it would be after that."""
    everything = [path for kind in ("snapshots", "packs", "index") for path in two.objects(kind)]
    forget = ("forget", "--keep-last", "1", "--prune", "--grace", "0", "--dry-run")
    assert "not needed             2.86 MiB" in two(*forget).out
    planned = two(*forget, "--json").summary["prune"]["plan"]
    assert [path for kind in ("snapshots", "packs", "index") for path in two.objects(kind)] == everything

    two("forget", "--keep-last", "1")
    document = two("prune", "--grace", "0", "--dry-run", "--json").document

    assert planned["delete"]["size"] > 3_000_000
    assert planned == {name: value for name, value in document.items() if name in planned}


def test_prune(command: Command) -> None:
    """With a grace time packs are condemned, and the way to have the space now is named; without one they go."""
    ran = command("prune")
    assert "condemned" in ran.out
    assert "--grace 0" in ran.out
    size = sum(path.stat().st_size for path in command.objects("packs"))
    assert size > 4_000_000

    summary = command("prune", "--grace", "0", "--json").summary

    assert summary["deleted"]["size"] > 3_000_000
    assert sum(path.stat().st_size for path in command.objects("packs")) < 1_200_000
    assert "no errors found" in command("check", "--read-data").out
    assert "freed 0 B" in command("prune").out
    assert command("prune", "--quiet").out == ""


@pytest.mark.parametrize(
    "arguments",
    [("--grace", "soon"), ("--max-unused", "5 %%"), ("--max-unused", "100%"), ("--max-repack-size", "much")],
)
def test_wrong_values(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A value that makes no sense is wrong usage, and nothing is done."""
    command = without_encryption(tmp_path)
    assert failure(command("prune", *arguments, "--json", status=2))["error"] == "invalid-value"


def test_no_snapshot_is_left(tmp_path: Path) -> None:
    """Where all snapshots are gone nothing is deleted unless that is said; the hint says how."""
    command = without_encryption(tmp_path)
    (tmp_path / "home" / "file").write_bytes(incompressible(1, 100_000))
    command("backup", tmp_path / "home" / "file")
    for path in command.objects("snapshots"):
        path.unlink()
    ran = command("prune", "--grace", "0", status=1)
    assert "no snapshot" in ran.err
    assert "--unsafe-allow-remove-all" in ran.err
    assert len(command.objects("packs")) == 2
    command("prune", "--grace", "0", "--unsafe-allow-remove-all")
    assert command.objects("packs") == []
