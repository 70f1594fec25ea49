"""The benchmark of machines' disks works, on a disk that is small."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.vma import main


def test_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure is there, and nothing is left behind."""
    assert main(["--size", "256M", "--rounds", "1", "--work", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if "a core" in line and "goal" not in line] == [
        "read", line_of_archive(said), "backup", "again", "changed",
    ]  # fmt: skip
    assert "to the data" in said
    assert list(tmp_path.iterdir()) == []


def line_of_archive(said: str) -> str:
    """The first word of the second line about reading, which is a number."""
    return next(line.split()[0] for line in said.splitlines() if "of the archive" in line)
