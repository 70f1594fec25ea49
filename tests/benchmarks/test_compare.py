"""The parts of benchmarks/compare.py that compute and judge; what it runs is not run here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.compare import Goal, Key

FASTER = Goal("linux, restore", "linux", "restore", "wall_s", 2, 3.5)
SMALLER = Goal("linux, repository size", "linux", "first", "added_bytes", 0.82, 0.78)


def figure(tool: str, quantity: str = "wall_s", phase: str = "restore") -> Key:
    """The name of one of linux's figures."""
    return Key(tool, "linux", phase, quantity)


def test_median_of_three_rounds_ignores_the_outlier() -> None:
    """A figure is the middle one of its rounds, not their mean."""
    samples = {figure("restic"): [8.0, 90.0, 9.0]}
    assert compare.medians(samples) == {figure("restic"): 9.0}


def test_ratio_of_times_counts_how_many_times_faster() -> None:
    """Half of restic's time is 2x, and restic against itself is 1x."""
    middles = {figure("restic"): 10.0, figure("borg"): 5.0}
    assert compare.ratio(middles, figure("borg")) == 2.0
    assert compare.ratio(middles, figure("restic")) == 1.0


def test_ratio_of_bytes_is_the_share_of_the_other() -> None:
    """Three quarters of restic's bytes are 0.75."""
    middles = {figure("restic", "added_bytes"): 400.0, figure("borg", "added_bytes"): 300.0}
    assert compare.ratio(middles, figure("borg", "added_bytes")) == 0.75


def test_ratio_can_be_taken_against_another_tool() -> None:
    """A goal against tar is measured against tar."""
    middles = {figure("tar"): 6.0, figure("restic"): 10.0, figure("backupforge"): 3.0}
    assert compare.goal_ratio(middles, replace(FASTER, against="tar")) == 2.0


@pytest.mark.parametrize("own, other", [(None, 10.0), (10.0, None), (10.0, 0.0), (0.0, 10.0)])
def test_no_ratio_without_both_figures(own: float | None, other: float | None) -> None:
    """What was not measured, or is zero, has no ratio."""
    measured = {figure("borg"): own, figure("restic"): other}
    middles = {key: value for key, value in measured.items() if value is not None}
    assert compare.ratio(middles, figure("borg")) is None


@pytest.mark.parametrize(
    "goal, reached, expected",
    [
        (FASTER, 3.5, "aim met"),
        (FASTER, 3.49, "must met"),
        (FASTER, 2.0, "must met"),
        (FASTER, 1.99, "missed"),
        (SMALLER, 0.78, "aim met"),
        (SMALLER, 0.79, "must met"),
        (SMALLER, 0.82, "must met"),
        (SMALLER, 0.83, "missed"),
        (replace(FASTER, must=None), 3.49, "missed"),
        (FASTER, None, "not measured"),
    ],
)
def test_verdict_looks_up_for_times_and_down_for_bytes(goal: Goal, reached: float | None, expected: str) -> None:
    """A time's ratio must reach its bounds from below, a size's from above; the bounds themselves are met."""
    assert compare.verdict(goal, reached) == expected


def test_every_goal_names_figures_that_are_measured() -> None:
    """No goal can stay unmeasured because its corpus, phase or quantity does not exist."""
    unknown = [
        goal.title
        for goal in compare.GOALS
        if goal.phase not in compare.PHASES[goal.corpus]
        or goal.quantity not in compare.QUANTITIES
        or goal.against not in compare.TOOLS
    ]
    assert unknown == []


def test_only_times_that_vary_are_called_unsteady() -> None:
    """A time is unsteady when its slowest round took more than 1.2 times its quickest; sizes never are."""
    samples = {
        figure("borg"): [10.0, 11.9],
        figure("restic"): [10.0, 12.1],
        figure("tar", "peak_bytes"): [10.0, 90.0],
    }
    assert compare.unsteady(samples) == [figure("restic")]


def test_each_round_starts_with_another_tool() -> None:
    """Every tool is measured in every round, and none is always first."""
    tools = [compare.tar("tar", "zstd"), compare.restic("restic"), compare.borg("borg")]
    orders = [[tool.name for tool in compare.rotated(tools, number)] for number in range(4)]
    assert orders == [
        ["tar", "restic", "borg"],
        ["restic", "borg", "tar"],
        ["borg", "tar", "restic"],
        ["tar", "restic", "borg"],
    ]


def test_figure_table_shows_values_and_ratios_in_columns() -> None:
    """Each tool has its median and its ratio against restic; what it cannot do is a dash."""
    middles = {figure("restic"): 10.0, figure("borg"): 4.0, figure("restic", "peak_bytes"): 150e6}
    lines = compare.figure_table(middles, "linux", ["restic", "borg"]).splitlines()
    assert lines[0].split() == ["linux", "restic", "borg"]
    assert [line.split() for line in lines if line.startswith(("restore, time", "restore, peak"))] == [
        ["restore,", "time", "10.00", "s", "1.00x", "4.00", "s", "2.50x"],
        ["restore,", "peak", "memory", "150.0", "MB", "1.00", "-", "-"],
    ]


def test_aligned_pads_every_column_to_its_widest_cell() -> None:
    """The first column is flush left, all others flush right."""
    assert compare.aligned([["a", "bbb", "c"], ["aaa", "b", "cc"]]) == "a    bbb   c\naaa    b  cc"


def test_goal_table_has_a_row_for_each_goal() -> None:
    """A goal that was not measured is shown as such, not left out."""
    lines = compare.goal_table({figure("restic"): 10.0, figure("backupforge"): 4.0}).splitlines()
    assert len(lines) == 1 + len(compare.GOALS)
    assert [line.split() for line in lines if line.endswith("must met")] == [
        ["linux,", "restore", "2.50x", "2.00x", "3.50x", "must", "met"]
    ]


def test_json_holds_every_round_and_every_goal() -> None:
    """The JSON document keeps what the medians leave out."""
    samples = {figure("restic"): [9.0, 10.0, 11.0], figure("backupforge"): [5.0, 4.0, 6.0]}
    document = json.loads(compare.as_json(samples, {"restic": "restic 1"}, 3))
    assert document["figures"][1] == {
        "tool": "backupforge",
        "corpus": "linux",
        "phase": "restore",
        "quantity": "wall_s",
        "samples": [5.0, 4.0, 6.0],
        "median": 5.0,
        "ratio": 2.0,
    }
    assert [goal["verdict"] for goal in document["goals"] if goal["reached"]] == ["must met"]


def test_names_keep_the_order_of_the_tables() -> None:
    """However tools are listed on the command line, the tables show them in one order."""
    assert compare.names_among(compare.TOOLS)("tar,restic") == ["restic", "tar"]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--tools", "restic,rsync"], "'rsync' is none of backupforge, restic, borg, tar"),
        (["--only", ""], "'' is none of linux, big"),
        (["--rounds", "0"], "0 is less than 1"),
        (["--rounds", "many"], "invalid positive value"),
        (["--work", "/nowhere/at/all"], "/nowhere/at/all is not a directory"),
    ],
)
def test_wrong_argument_is_named(
    wrong: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong value ends the program with status 2 before anything runs, and the message names it."""
    with pytest.raises(SystemExit) as ended:
        compare.main(["--peers", str(tmp_path), "--corpus", str(tmp_path), *wrong])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_corpus_fails_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A corpus that is asked for and not there is an error with its path, not a shorter table."""
    (tmp_path / "linux").mkdir()
    assert compare.main(["--peers", str(tmp_path), "--corpus", str(tmp_path), "--work", str(tmp_path)]) == 1
    assert f"there is no {tmp_path}/linux12" in capsys.readouterr().err


def test_missing_program_fails_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tool that is asked for and not there is an error with its path, not a missing column."""
    (tmp_path / "big").mkdir()
    where = ["--peers", str(tmp_path), "--corpus", str(tmp_path), "--work", str(tmp_path)]
    assert compare.main([*where, "--only", "big", "--tools", "restic"]) == 1
    assert f"there is no program {tmp_path}/restic" in capsys.readouterr().err
