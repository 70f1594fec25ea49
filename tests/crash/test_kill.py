"""A backup that is killed at any moment loses nothing that was there, and leaves what the next one goes on from."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.support.killing import kill_and_go_on, prepare, run_time

ROUNDS = 50


@pytest.mark.slow
def test_killed_at_fifty_moments(tmp_path: Path) -> None:
    """INV-1, INV-2: after kill -9 all objects are whole, snapshots restore, the next backup reuses what was stored."""
    chance = random.Random(20240517)
    prepared = tmp_path / "prepared"
    prepare(prepared)
    duration = run_time(shutil.copytree(prepared, tmp_path / "rehearsal"))
    rounds = []
    for number in range(ROUNDS):
        folder = shutil.copytree(prepared, tmp_path / f"round-{number}")
        rounds.append(kill_and_go_on((number + chance.random()) / ROUNDS * duration, folder))
        shutil.rmtree(folder)
    assert sum(killed for killed, _ in rounds) >= ROUNDS // 2
    assert sum(resumed for _, resumed in rounds) >= ROUNDS // 4
