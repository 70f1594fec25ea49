"""What tests of the restorer have in common: a tree maker, a target, and a way to run one restore."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from bfrepo.data.node import Node
from bfrepo.restorer.plan import RestoreOptions
from bfrepo.restorer.report import RestoreSummary
from bfrepo.restorer.restorer import restore
from tests.support.trees import Recorder, TreeMaker


class Restore(Protocol):
    def __call__(self, *nodes: Node, **options: Any) -> tuple[RestoreSummary, Recorder]:
        """Restores nodes into the target."""


@pytest.fixture
def make() -> TreeMaker:
    """Makes nodes, and keeps their blobs."""
    return TreeMaker()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where restores go; it does not exist yet."""
    return tmp_path / "target"


@pytest.fixture
def run(make: TreeMaker, target: Path) -> Restore:
    """Restores nodes into the target and returns the summary and what was observed."""

    def run_restore(*nodes: Node, **options: Any) -> tuple[RestoreSummary, Recorder]:
        recorder = Recorder()
        chosen = RestoreOptions(target=bytes(target), **options)
        return restore(make.blobs, make.tree(*nodes), chosen, recorder), recorder

    return run_restore


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB; only for tests that are marked `root`."""
    place = tmp_path / "tmpfs"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
