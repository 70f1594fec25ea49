"""A backup that is killed at any moment loses nothing that was there, and leaves what the next one goes on from."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bfrepo.core.clock import SystemClock
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.local import LocalBackend
from tests.support.backup_process import PACK_SIZE, open_here, sample_tree
from tests.support.backups import run_backup
from tests.support.repositories import make_repository, names
from tests.support.restoring import expected, misnamed, restored, restored_snapshots

ROOT = Path(__file__).resolve().parents[2]
BEFORE, SIZE = 1_500_000, 12_000_000
ROUNDS = 50


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A repository with one snapshot of a small part of what the killed backups store."""
    folder = tmp_path / "prepared"
    repository = make_repository(
        LocalBackend(folder), encryption="aes-256-gcm", pack_size=PACK_SIZE, clock=SystemClock()
    )
    run_backup(repository, sample_tree(BEFORE))
    return folder


def start_backup(folder: Path) -> subprocess.Popen[bytes]:
    """A child that has just begun."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.backup_process", str(folder), str(SIZE)],
        cwd=ROOT, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def run_time(folder: Path) -> float:
    """Seconds that a backup takes when nobody kills it."""
    begun = time.monotonic()
    with start_backup(folder) as child:
        begun = time.monotonic()
        output, _ = child.communicate()
        assert (child.returncode, len(output)) == (0, 65)
    return time.monotonic() - begun


def kill_after(seconds: float, folder: Path) -> bool:
    """Start a backup and kill it; whether it was still running."""
    with start_backup(folder) as child:
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        return child.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_at_fifty_moments(prepared: Path, tmp_path: Path) -> None:
    """INV-1, INV-2: after kill -9 all objects are whole, snapshots restore, the next backup reuses what was stored."""
    chance = random.Random(20240517)
    whole, earlier = expected(sample_tree(SIZE)), expected(sample_tree(BEFORE))
    rehearsal = shutil.copytree(prepared, tmp_path / "rehearsal")
    duration = run_time(rehearsal)
    alone = sum(len(content) for content in whole.values()) - sum(len(content) for content in earlier.values())
    killed = resumed = 0
    for number in range(ROUNDS):
        folder = shutil.copytree(prepared, tmp_path / f"round-{number}")
        indexed_before = names(LocalBackend(folder), ObjectKind.INDEX)
        killed += kill_after((number + chance.random()) / ROUNDS * duration, folder)

        repository = open_here(folder)
        assert misnamed(repository.backend) == []
        found = list(restored_snapshots(repository).values())
        assert earlier in found
        assert all(each in (earlier, whole) for each in found)
        indexed = names(repository.backend, ObjectKind.INDEX) - indexed_before

        result = run_backup(repository, sample_tree(SIZE), workers=2)
        assert restored(open_here(folder).loader, result.snapshot.tree) == whole
        if indexed:
            assert result.snapshot.summary.data_added < alone
            resumed += 1
        repository.close()
        shutil.rmtree(folder)
    assert killed >= ROUNDS // 2
    assert resumed >= ROUNDS // 4
