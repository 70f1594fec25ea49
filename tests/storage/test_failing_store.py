"""A store that fails one call in twenty: whatever is done with it takes longer, and is done.

CAMPAIGN_SECONDS=600 pytest tests/storage/test_failing_store.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest

from bfrepo.checker.sampling import Everything
from bfrepo.core.progress import Quiet
from bfrepo.data.selection import SnapshotFilter
from bfrepo.operations.check import CheckOptions, check
from bfrepo.operations.restore import restore
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.storage.base import Backend, ObjectKind
from bfrepo.storage.memory import MemoryBackend
from bfrepo.storage.options import RestOptions
from bfrepo.storage.rest import RestBackend
from bfrepo.storage.retry import RetryingBackend, RetryPolicy
from tests.support.backups import incompressible, never, run_backup
from tests.support.campaign import campaign_s
from tests.support.distant import DistantBackend
from tests.support.flaky import FlakyBackend
from tests.support.rclone import serve
from tests.support.repositories import make_repository, names, reopen
from tests.support.rest_places import AS_SERVER, location

RATE = 0.05
NORMALLY_S = 5.0
FILES = 40


@pytest.fixture(params=["memory", "rclone"])
def sound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    """An empty store of which several things may be asked at once."""
    if request.param == "memory":
        yield DistantBackend(MemoryBackend(), connections=4)
        return
    (tmp_path / "served").mkdir()
    with (
        serve("restic", tmp_path / "served", environment=AS_SERVER) as server,
        closing(RestBackend(location(server.port), RestOptions())) as backend,
    ):
        yield backend


def content(turn: int) -> dict[str, bytes]:
    """Files at a turn: one of them is new, and what one had before is gone."""
    return {f"data/{number % 4}/{number}": incompressible(number, 60_000) for number in range(turn, turn + FILES)}


def in_target(target: Path) -> dict[str, bytes]:
    """All files that were restored."""
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.timeout(campaign_s(NORMALLY_S) + 300)
def test_backups_and_restores_on_a_store_that_fails(sound: Backend, tmp_path: Path) -> None:
    """Backups and restores on a store that fails one call in twenty are complete, and nothing is left over (INV-1)."""
    flaky = FlakyBackend(sound, RATE, seed=7)
    patient = RetryingBackend(flaky, RetryPolicy())
    make_repository(patient, pack_size=200_000, encryption="aes-256-gcm")
    until, turn = monotonic() + campaign_s(NORMALLY_S), 0
    while monotonic() < until or not turn:
        turn += 1
        snapshot_id = run_backup(reopen(patient, pack_size=200_000), content(turn)).snapshot_id or b""
        target = tmp_path / f"target-{turn}"
        options = RestoreOptions(target=os.fsencode(target))
        restore(reopen(patient), snapshot_id.hex(), SnapshotFilter(), options, reporter := Quiet(), never)
        assert reporter.progress.errors == 0
        assert in_target(target) == content(turn)
        shutil.rmtree(target)
    print(f"{turn} backups and restores, {flaky.failures} calls that failed")
    assert flaky.failures > turn
    assert len(load_snapshots(reopen(sound))) == turn
    assert check(reopen(sound), CheckOptions(read=Everything()), Quiet(), never).errors == 0
    assert names(sound, ObjectKind.CLAIM) == set()
