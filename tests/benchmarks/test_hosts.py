"""The parts of benchmarks/hosts.py that compute and judge; what it runs is not run here."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import hosts
from benchmarks.figures import Key, goal_ratio, verdict
from benchmarks.running import Scene
from tests.support.sshd import Sshd

HOST = hosts.Host(Sshd(2222, 1, Path("/home"), Path("/key"), Path("/log")), Path("/src/linux"))
SCENE = Scene(Path("/scene/tool-0"), (HOST.tree,), 0)


def figure(tool: str, phase: str) -> Key:
    """The name of a time."""
    return Key(tool, "linux", phase, "wall_s")


def test_all_tools_read_the_same_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told of the tree on the host, or of the mount of it, and does the same twice."""
    for name in ("restic", "rsync"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    arguments = argparse.Namespace(peers=tmp_path, backupforge=["true"])
    for name, said in (("rsync", "127.0.0.1:/src/linux/"), ("backupforge", ":2222/src/linux"), ("restic", "mounted")):
        given = hosts.make_tool(name, HOST, arguments).commands(SCENE)
        assert said in " ".join(given["first"][0])
        assert given["first"] == given["unchanged"]


@pytest.mark.parametrize(("own", "expected"), [(12.9, "must met"), (13.1, "missed"), (9.9, "aim met")])
def test_how_many_times_as_long_as_rsync(own: float, expected: str) -> None:
    """A first backup may take 1.3 times as long as rsync."""
    first = hosts.GOALS[0]
    reached = goal_ratio({figure("rsync", "first"): 10.0, figure("backupforge", "first"): own}, first)
    assert verdict(first, reached) == expected
