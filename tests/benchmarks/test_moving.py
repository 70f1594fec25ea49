"""The commands and the goals of benchmarks/moving.py; what it runs is not run here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import moving
from benchmarks.running import Scene

SCENE = Scene(Path("/work"), (Path("/src/linux"),), 0)


def test_everybody_begins_with_an_empty_repository() -> None:
    """Each makes the repository that it then fills, and both that move read the same old one."""
    tools = moving.make_tools(["backupforge"], "restic", Path("/old"))
    for tool in tools:
        ((init,), (move,)) = tool.commands(SCENE).values()
        assert SCENE.repository in init
        assert SCENE.repository in move
        assert move[-1].endswith("/src/linux" if tool.name == moving.BACKUP else "/old")


def test_goals_are_about_those_who_take_part() -> None:
    """No goal can stay unmeasured because what it is compared with does not take part."""
    names = {tool.name for tool in moving.make_tools(["backupforge"], "restic", Path("/old"))}
    assert {"backupforge", *(goal.against for goal in moving.GOALS)} == names


def test_missing_program_fails_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without restic there is nothing to move from, and its path is told."""
    places = ["--peers", str(tmp_path), "--corpus", str(tmp_path), "--work", str(tmp_path)]
    assert moving.main([*places, "--backupforge", "true"]) == 1
    assert f"there is no program {tmp_path}/restic" in capsys.readouterr().err
