"""The parts of benchmarks/synthetic.py that make a repository and judge figures, on a very small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import synthetic
from benchmarks.running import PASSWORD, Measure
from benchmarks.synthetic import Size
from bfrepo.data.references import reachable
from bfrepo.operations.snapshots import load_snapshots
from bfrepo.storage.local import LocalBackend
from tests.support.repositories import reopen, use_fast_kdf

FEW = Size(1_000_000, 80_000_000, {phase: Measure(1.0, 1.0, 100_000_000) for phase in synthetic.TITLES})
MANY = Size(10_000_000, 800_000_000, {phase: Measure(1.5, 1.0, 650_000_000) for phase in synthetic.TITLES})


def test_a_repository_is_whole_and_has_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made has about as many blobs as asked for, all snapshots restorable, and a little that none needs."""
    use_fast_kdf(monkeypatch)
    place = tmp_path / "repository"
    synthetic.make_repository(place, blobs=5000, snapshots=19)
    repository = reopen(LocalBackend(place), password=PASSWORD.encode())
    snapshots = load_snapshots(repository).values()
    needed = {blob_id for each in snapshots for _, blob_id in reachable(repository.loader, each.tree)}
    blobs = len(repository.index.table)
    assert len(snapshots) == 19
    assert abs(blobs - 5000) < 500
    assert needed <= {blob_id for blob_id, _ in repository.index.table.blobs()}
    assert 0.9 < len(needed) / blobs < 1


def test_growth_compares_the_last_with_the_first() -> None:
    """A figure's growth is how many times more the largest repository takes than the smallest."""
    assert synthetic.growth([FEW, MANY], "open") == "1.5x, 6.5x"
    assert synthetic.growth([FEW, MANY], None) == "10.0x"


def test_only_the_size_that_the_design_speaks_of_is_judged() -> None:
    """The aim is about ten million blobs; a smaller repository neither meets nor misses it."""
    (line,) = synthetic.verdicts([FEW, MANY])
    assert line == "10,000,000 blobs open in under 2 s and 700.0 MB: met (1.50 s, 650.0 MB)"


def test_too_slow_or_too_large_misses_the_aim() -> None:
    """Both the time and the memory have to be below."""
    slow = {**MANY.figures, "open": Measure(2.5, 1.0, 650_000_000)}
    large = {**MANY.figures, "open": Measure(1.5, 1.0, 750_000_000)}
    lines = synthetic.verdicts([Size(10_000_000, 1, slow), Size(10_000_000, 1, large)])
    assert ["missed" in line for line in lines] == [True, True]


def test_the_table_has_a_row_for_each_phase() -> None:
    """Every phase is shown with its figures for each size and its growth."""
    lines = synthetic.table([FEW, MANY]).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == ["stored", *synthetic.TITLES.values()]
    assert lines[-1].split() == [
        "check", "1.00", "s,", "100.0", "MB", "1.50", "s,", "650.0", "MB", "1.5x,", "6.5x",
    ]  # fmt: skip
