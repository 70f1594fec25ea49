"""The command line and the goals of benchmarks/compare.py; what it runs is not run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import compare
from benchmarks.options import names_among
from benchmarks.running import rotated


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


def test_each_round_starts_with_another_tool() -> None:
    """Every tool is measured in every round, and none is always first."""
    tools = [compare.tar("tar", "zstd"), compare.restic("restic"), compare.borg("borg")]
    orders = [[tool.name for tool in rotated(tools, number)] for number in range(4)]
    assert orders == [
        ["tar", "restic", "borg"],
        ["restic", "borg", "tar"],
        ["borg", "tar", "restic"],
        ["tar", "restic", "borg"],
    ]


def test_names_keep_the_order_of_the_tables() -> None:
    """However tools are listed on the command line, the tables show them in one order."""
    assert names_among(compare.TOOLS)("tar,restic") == ["restic", "tar"]


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
