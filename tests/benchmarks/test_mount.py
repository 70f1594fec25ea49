"""The parts of benchmarks/mount.py that compute and judge; what it runs is not run here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import mount
from benchmarks.figures import Key, goal_ratio, verdict
from benchmarks.running import BenchmarkError, Scene

SCENE = Scene(Path("/work"), (Path("/src/linux"), Path("/src/big/file")), 0)


def figure(tool: str, phase: str, quantity: str = "wall_s") -> Key:
    """The name of a figure."""
    return Key(tool, mount.CORPUS, phase, quantity)


def test_every_phase_has_all_it_needs() -> None:
    """Each phase has a title, a goal, and something that reads."""
    readers = mount.readers(Path("/tree"), Path("/file"), 0)
    assert (
        list(mount.TITLES)
        == list(mount.BOUNDS)
        == list(readers)
        == [goal.phase for goal in mount.GOALS if goal.quantity == "wall_s"]
    )


def test_both_tools_mount_what_they_back_up() -> None:
    """Both back up the same sources, and mount the repository of the scene."""
    for contender in (mount.backupforge(["backupforge"]), mount.restic("restic")):
        _, ((backup,),) = contender.setup(SCENE)[0], contender.setup(SCENE)[1:]
        assert backup[-3:] == ["backup", "/src/linux", "/src/big/file"]
        line = contender.mount(SCENE, Path("/mnt"))
        assert line[-2:] == ["mount", "/mnt"]
        assert SCENE.repository in line


def test_readers_read(tmp_path: Path) -> None:
    """What reads from a mount reads from any directory, and fails where there is nothing to read."""
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").write_text(f"{mount.PATTERN}\n")
    (tree / "top").write_text(f"{mount.PATTERN}\n")
    (tmp_path / "large").write_bytes(bytes(10_000))
    for name, pipeline in mount.readers(tree, tmp_path / "large", 1).items():
        first = subprocess.run(pipeline[0], capture_output=True, check=False)
        assert first.returncode == 0, (name, first.stderr)
        if name == "grep":
            assert sorted(first.stdout.decode().splitlines()) == [f"{tree}/a/b/file", f"{tree}/top"]
    missing = mount.readers(tmp_path / "none", tmp_path / "none", 1)
    assert all(subprocess.run(missing[name][0], capture_output=True).returncode for name in ("tar", "cat", "random"))


def test_memory_is_judged_with_the_cache() -> None:
    """Our peak may be above restic's by what our cache holds, and not by more."""
    goal = next(goal for goal in mount.GOALS if goal.phase == "cat" and goal.quantity == "peak_bytes")
    middles = {figure("restic", "cat", "peak_bytes"): 100e6, figure("backupforge", "cat", "peak_bytes"): 360e6}
    assert verdict(goal, goal_ratio(middles, goal)) == "must met"
    middles[figure("backupforge", "cat", "peak_bytes")] = 370e6
    assert verdict(goal, goal_ratio(middles, goal)) == "missed"


def test_a_mount_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    """A process that ends before anything is mounted ends the run, with what it has said."""
    (tmp_path / "mount.log").write_text("no such thing")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(BenchmarkError, match="no such thing"):
        mount.wait_until_mounted(tmp_path / "mnt", process, tmp_path / "mount.log")


def test_sources_must_be_there(tmp_path: Path) -> None:
    """The large file is the largest of its folder; without one there is nothing to measure."""
    with pytest.raises(BenchmarkError, match="linux and big"):
        mount.find_sources(tmp_path)
    for name in ("linux", "big"):
        (tmp_path / name).mkdir()
    (tmp_path / "big" / "small").write_bytes(b"1")
    (tmp_path / "big" / "large").write_bytes(b"12")
    assert mount.find_sources(tmp_path) == (tmp_path / "linux", tmp_path / "big" / "large")
