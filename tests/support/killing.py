"""Backups that are killed, and what has to be so afterwards, wherever the repository is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from bfrepo.core.clock import SystemClock
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.location import open_backend, parse_location
from tests.support.backup_process import PACK_SIZE, open_here, sample_tree
from tests.support.backups import run_backup
from tests.support.program import ROOT, process_environment
from tests.support.repositories import make_repository, names
from tests.support.restoring import expected, misnamed, restored, restored_snapshots

BEFORE, SIZE = 1_500_000, 12_000_000
"""Bytes in the snapshot that is there already, and in what the killed backups store."""


def prepare(place: Path | str) -> None:
    """A repository with one snapshot of a small part of what the killed backups store."""
    backend = open_backend(parse_location(str(place)))
    repository = make_repository(backend, encryption="aes-256-gcm", pack_size=PACK_SIZE, clock=SystemClock())
    run_backup(repository, sample_tree(BEFORE))
    repository.close()


def start_backup(place: Path | str) -> subprocess.Popen[bytes]:
    """A child that has just begun."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.support.backup_process", str(place), str(SIZE)],
        cwd=ROOT, env=process_environment({}), stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def run_time(place: Path | str) -> float:
    """Seconds that a backup takes when nobody kills it."""
    with start_backup(place) as child:
        begun = time.monotonic()
        output, _ = child.communicate()
        assert (child.returncode, len(output)) == (0, 65)
    return time.monotonic() - begun


def kill_after(seconds: float, place: Path | str) -> bool:
    """Start a backup and kill it; whether it was still running."""
    with start_backup(place) as child:
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        return child.returncode == -signal.SIGKILL


def kill_and_go_on(seconds: float, place: Path | str) -> tuple[bool, bool]:
    """Kill a backup to a prepared place after a time, look at what is left, and back up again.

    Whether it was still running, and whether the next backup reused what it had stored.
    """
    whole, earlier = expected(sample_tree(SIZE)), expected(sample_tree(BEFORE))
    alone = sum(map(len, whole.values())) - sum(map(len, earlier.values()))
    with open_here(place) as repository:
        indexed_before = names(repository.backend, ObjectKind.INDEX)
    killed = kill_after(seconds, place)
    with open_here(place) as repository:
        assert misnamed(repository.backend) == []
        found = list(restored_snapshots(repository).values())
        assert earlier in found
        assert all(each in (earlier, whole) for each in found)
        indexed = names(repository.backend, ObjectKind.INDEX) - indexed_before
        result = run_backup(repository, sample_tree(SIZE), workers=2)
    with open_here(place) as repository:
        assert restored(repository.loader, result.snapshot.tree) == whole
    if indexed:
        assert result.snapshot.summary.data_added < alone
    return killed, bool(indexed)
