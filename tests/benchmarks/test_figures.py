"""How benchmarks compute, compare, judge and show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.figures import Goal, Key, Report

FASTER = Goal("linux, restore", "linux", "restore", "wall_s", 2, 3.5)
SMALLER = Goal("linux, repository size", "linux", "first", "added_bytes", 0.82, 0.78)
PHASES = {"first": "first backup", "restore": "restore"}
QUANTITIES = {"wall_s": "time", "peak_bytes": "peak memory"}


def figure(tool: str, quantity: str = "wall_s", phase: str = "restore") -> Key:
    """The name of one of linux's figures."""
    return Key(tool, "linux", phase, quantity)


def test_median_of_three_rounds_ignores_the_outlier() -> None:
    """A figure is the middle one of its rounds, not their mean."""
    samples = {figure("restic"): [8.0, 90.0, 9.0]}
    assert figures.medians(samples) == {figure("restic"): 9.0}


def test_ratio_of_times_counts_how_many_times_faster() -> None:
    """Half of restic's time is 2x, and restic against itself is 1x."""
    middles = {figure("restic"): 10.0, figure("borg"): 5.0}
    assert figures.ratio(middles, figure("borg")) == 2.0
    assert figures.ratio(middles, figure("restic")) == 1.0


def test_ratio_of_bytes_is_the_share_of_the_other() -> None:
    """Three quarters of restic's bytes are 0.75."""
    middles = {figure("restic", "added_bytes"): 400.0, figure("borg", "added_bytes"): 300.0}
    assert figures.ratio(middles, figure("borg", "added_bytes")) == 0.75


def test_ratio_can_be_taken_against_another_tool() -> None:
    """A goal against tar is measured against tar."""
    middles = {figure("tar"): 6.0, figure("restic"): 10.0, figure("backupforge"): 3.0}
    assert figures.goal_ratio(middles, replace(FASTER, against="tar")) == 2.0


@pytest.mark.parametrize("own, other", [(None, 10.0), (10.0, None), (10.0, 0.0), (0.0, 10.0)])
def test_no_ratio_without_both_figures(own: float | None, other: float | None) -> None:
    """What was not measured, or is zero, has no ratio."""
    measured = {figure("borg"): own, figure("restic"): other}
    middles = {key: value for key, value in measured.items() if value is not None}
    assert figures.ratio(middles, figure("borg")) is None


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
    assert figures.verdict(goal, reached) == expected


def test_only_times_that_vary_are_called_unsteady() -> None:
    """A time is unsteady when its slowest round took more than 1.2 times its quickest; sizes never are."""
    samples = {
        figure("borg"): [10.0, 11.9],
        figure("restic"): [10.0, 12.1],
        figure("tar", "peak_bytes"): [10.0, 90.0],
    }
    assert figures.unsteady(samples) == [figure("restic")]


def test_figure_table_shows_values_and_ratios_in_columns() -> None:
    """Each tool has its median and its ratio against restic; what it cannot do is a dash, what none did has no row."""
    middles = {figure("restic"): 10.0, figure("borg"): 4.0, figure("restic", "peak_bytes"): 150e6}
    lines = figures.figure_table(middles, "linux", PHASES, QUANTITIES).splitlines()
    assert lines[0].split() == ["linux", "restic", "borg"]
    assert [line.split() for line in lines[1:]] == [
        ["restore,", "time", "10.00", "s", "1.00x", "4.00", "s", "2.50x"],
        ["restore,", "peak", "memory", "150.0", "MB", "1.00", "-", "-"],
    ]


def test_aligned_pads_every_column_to_its_widest_cell() -> None:
    """The first column is flush left, all others flush right."""
    assert figures.aligned([["a", "bbb", "c"], ["aaa", "b", "cc"]]) == "a    bbb   c\naaa    b  cc"


def test_goal_table_has_a_row_for_each_goal() -> None:
    """A goal that was not measured is shown as such, not left out."""
    lines = figures.goal_table({figure("restic"): 10.0, figure("backupforge"): 4.0}, [FASTER, SMALLER]).splitlines()
    assert len(lines) == 3
    assert lines[2].endswith("not measured")
    assert [line.split() for line in lines if line.endswith("must met")] == [
        ["linux,", "restore", "2.50x", "2.00x", "3.50x", "must", "met"]
    ]


def test_json_holds_every_round_and_every_goal() -> None:
    """The JSON document keeps what the medians leave out."""
    samples = {figure("restic"): [9.0, 10.0, 11.0], figure("backupforge"): [5.0, 4.0, 6.0]}
    document = json.loads(figures.as_json(samples, [FASTER, SMALLER], {"restic": "restic 1"}, 3, rate=20e6))
    assert document["figures"][1] == {
        "tool": "backupforge",
        "corpus": "linux",
        "phase": "restore",
        "quantity": "wall_s",
        "samples": [5.0, 4.0, 6.0],
        "median": 5.0,
        "ratio": 2.0,
    }
    assert [goal["verdict"] for goal in document["goals"]] == ["must met", "not measured"]
    assert document["rate"] == 20e6


def test_a_margin_is_what_ours_may_have_more() -> None:
    """A goal with a margin compares with the other's figure and the margin together."""
    goal = replace(SMALLER, must=1, aim=0.5, margin=50.0)
    middles = {figure("restic", "added_bytes", "first"): 100.0, figure("backupforge", "added_bytes", "first"): 150.0}
    assert figures.goal_ratio(middles, goal) == 1.0
    assert figures.goal_ratio(middles, replace(goal, margin=0.0)) == 1.5


def test_a_report_is_of_what_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Goals of corpora that were left out are not shown; what varied is told, and all of it is in the file."""
    samples = {figure("restic"): [9.0, 19.0], figure("backupforge"): [4.0, 4.0]}
    other = Goal("big, restore", "big", "restore", "wall_s", 2, 3)
    Report({"linux": PHASES}, QUANTITIES, [FASTER, other]).show(samples, {}, 2, tmp_path / "figures.json")
    shown = capsys.readouterr()
    assert "linux, restore" in shown.out
    assert "big" not in shown.out
    assert "unsteady: restic, linux, restore: [9.0, 19.0] s" in shown.err
    assert len(json.loads((tmp_path / "figures.json").read_text())["goals"]) == 1
