"""Another host comes over by SSH as it is: by `find` and `tar` where it has them, by SFTP alone where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.directories import Seen, census, dense_zeros_aside, removable, restore_to
from tests.support.repositories import make_repository
from tests.support.ssh_source import back_up_host
from tests.support.sshd import Sshd, serve
from tests.support.ugly import ASPECTS

NOT_TOLD_BY_TAR = ("no_dump", "unchangeable")
"""Inode flags: neither `find` nor `tar` tells them."""

TOLD_BY_SFTP = ("names", "sizes", "modes", "owners", "symlinks", "empties", "deep", "many")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host that runs commands."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture(scope="module")
def sftp_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host that speaks nothing but SFTP."""
    with serve(tmp_path_factory.mktemp("sftp"), "ForceCommand internal-sftp") as sshd:
        yield sshd


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Where the tree is made. It and what comes back of it, in "out", can be removed afterwards."""
    top = tmp_path / "src"
    top.mkdir()
    with removable(top, tmp_path / "out"):
        yield top


def make(aspect: str, source: Path) -> None:
    """Make the aspect, or skip the test."""
    try:
        ASPECTS[aspect](source)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")


@pytest.mark.parametrize("aspect", [each for each in ASPECTS if each not in NOT_TOLD_BY_TAR])
def test_ugly_tree(aspect: str, sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """Each aspect of the ugly tree comes over by tar and is restored as it was."""
    make(aspect, source)
    before, target = census(source), tmp_path / "out"
    repository = make_repository()
    snapshot_id = back_up_host(repository, sshd, source).snapshot_id
    assert snapshot_id is not None
    restore_to(repository, snapshot_id, tmp_path, target, verify=True)
    assert dense_zeros_aside(census(target / "src")) == dense_zeros_aside(before)


@pytest.mark.parametrize("aspect", TOLD_BY_SFTP)
def test_ugly_tree_by_sftp(aspect: str, sftp_only: Sshd, source: Path, tmp_path: Path) -> None:
    """What SFTP can tell comes over by SFTP alone, with times in whole seconds."""
    make(aspect, source)
    target = tmp_path / "out"
    repository = make_repository()
    snapshot_id = back_up_host(repository, sftp_only, source).snapshot_id
    assert snapshot_id is not None
    restore_to(repository, snapshot_id, tmp_path, target, verify=True)
    assert seen_by_sftp(target / "src") == seen_by_sftp(source)


def seen_by_sftp(top: Path) -> dict[bytes, Seen]:
    """A census without what SFTP does not tell."""
    second = 10**9
    return {
        path: replace(each, mtime_ns=each.mtime_ns // second, names=(), data=(), xattrs=())
        for path, each in census(top).items()
    }
