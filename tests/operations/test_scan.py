"""Counting beside the backup."""

from __future__ import annotations

import errno

import pytest

from bfrepo.core.progress import Progress
from bfrepo.operations import scan as scan_module
from bfrepo.operations.scan import BackgroundScan, scan
from tests.support.backups import never
from tests.support.sources import DictSource, Item

TREE: dict[str, Item | bytes] = {
    "/data/a": b"12345",
    "/data/sub/b": b"123",
    "/data/sub/deep/c": b"",
    "/data/link": Item(type="symlink"),
}


def test_files_and_bytes_are_counted() -> None:
    """Regular files count, whatever their depth; nothing else does."""
    assert scan(DictSource(TREE), never) == (3, 8)


def test_what_cannot_be_listed_does_not_count() -> None:
    """A directory that cannot be read is passed over: the backup reports it."""
    source = DictSource(TREE, list_errors={"/data/sub": OSError(errno.EACCES, "no")})

    assert scan(source, never) == (1, 5)


def test_it_stops_when_it_is_told_to() -> None:
    """A scan whose backup is over gives no numbers."""
    assert scan(DictSource(TREE), lambda: True) is None


def test_everything_is_closed_again() -> None:
    """Whether it ends or is stopped, no directory stays open."""
    source, stopped = DictSource(TREE), DictSource(TREE)
    answers = iter([False, False, False, True])

    scan(source, never)
    scan(stopped, lambda: next(answers))

    assert (source.open_now, stopped.open_now) == (0, 0)


def test_totals_are_known_when_the_scan_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are filled in at the end, not before: a part of them would be a wrong promise."""
    monkeypatch.setattr(scan_module, "_DELAY_S", 0.0)
    progress = Progress()

    with BackgroundScan(lambda: DictSource(TREE), progress) as running:
        running._thread.join(10)

    assert (progress.files_total, progress.bytes_total) == (3, 8)


def test_a_short_backup_is_left_alone() -> None:
    """A scan that has not begun when the backup ends never begins."""
    progress = Progress()

    def open_source() -> DictSource:
        raise AssertionError("opened the source")

    with BackgroundScan(open_source, progress):
        pass

    assert progress.files_total is None
