"""The parts of benchmarks/upkeep.py that compute and judge; what it runs is not run here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import upkeep
from benchmarks.compare import Key, Scene

SCENE = Scene(Path("/work"), (Path("/src/linux"), Path("/src/linux12")), 0)


def figure(tool: str, phase: str, quantity: str = "wall_s") -> Key:
    """The name of a figure."""
    return Key(tool, "linux", phase, quantity)


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


def test_the_table_shows_sizes_only_where_there_are_some() -> None:
    """A size is that of a repository which the phase has made or shrunk."""
    lines = upkeep.figure_table({figure("restic", "copy"): 8.0, figure("backupforge", "copy"): 2.0}, upkeep.TOOLS)
    sizes = [line.split(",")[0] for line in lines.splitlines() if ", size" in line]
    assert sizes == ["copy", "prune"]
    assert [line.split()[2:] for line in lines.splitlines() if line.startswith("copy, time")] == [
        ["2.00", "s", "4.00x", "8.00", "s", "1.00x"]
    ]


def test_goals_are_judged_against_restic() -> None:
    """Twice as fast is what must be, three times what is aimed at."""
    middles = {figure("restic", "find"): 4.0, figure("backupforge", "find"): 1.6}
    lines = upkeep.goal_table(middles).splitlines()
    assert [line.split() for line in lines if line.endswith("must met")] == [
        ["linux,", "find", "Makefile", "2.50x", "2.00x", "3.00x", "must", "met"]
    ]


def test_json_holds_every_round() -> None:
    """The JSON document keeps what the medians leave out."""
    samples = {figure("restic", "check"): [9.0, 10.0, 11.0], figure("backupforge", "check"): [5.0, 4.0, 6.0]}
    document = json.loads(upkeep.as_json(samples, {"restic": "restic 1"}, 3))
    assert document["figures"][1]["samples"] == [5.0, 4.0, 6.0]
    assert document["goals"][0]["reached"] == 2.0


def test_missing_corpus_fails_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source that is not there is an error with its path."""
    arguments = ["--peers", str(tmp_path), "--corpus", str(tmp_path), "--work", str(tmp_path)]
    assert upkeep.main(arguments) == 1
    assert f"there is no {tmp_path}/linux" in capsys.readouterr().err
