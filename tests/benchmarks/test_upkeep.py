"""The parts of benchmarks/upkeep.py that compute and judge; what it runs is not run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import upkeep
from benchmarks.running import Scene

SCENE = Scene(Path("/work"), (Path("/src/linux"), Path("/src/linux12")), 0)


def test_both_tools_have_every_phase() -> None:
    """No phase is measured for one tool alone, and each that has a title has a goal."""
    mine = upkeep.backupforge(["backupforge"], SCENE).phases(["a", "b"])
    theirs = upkeep.restic("restic", SCENE).phases(["a", "b"])
    assert list(upkeep.TITLES) == list(mine) == list(theirs) == [goal.phase for goal in upkeep.GOALS]


def test_both_compare_the_same_trees() -> None:
    """The paths of the two sources differ, so each tool is told which directory to compare with which."""
    for given in (upkeep.backupforge(["backupforge"], SCENE), upkeep.restic("restic", SCENE)):
        (line,) = given.phases(["a", "b"])["diff"]
        assert line[-3:] == ["diff", "a:/src/linux", "b:/src/linux12"]


def test_both_delete_at_once() -> None:
    """restic has no grace time, so backupforge is measured without one."""
    (line,) = upkeep.backupforge(["backupforge"], SCENE).phases(["a", "b"])["prune"]
    assert line[-3:] == ["prune", "--grace", "0"]


def test_missing_corpus_fails_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source that is not there is an error with its path."""
    arguments = ["--peers", str(tmp_path), "--corpus", str(tmp_path), "--work", str(tmp_path)]
    assert upkeep.main(arguments) == 1
    assert f"there is no {tmp_path}/linux" in capsys.readouterr().err
