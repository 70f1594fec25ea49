"""A tree with every kind of file, attribute and ugly name comes back as it was.

It is compared by a program of the tests, which looks at contents, lstat, extended attributes, ACLs, inode flags, hard
links and holes, and by rsync in both directions.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command
from tests.support.directories import (
    above,
    back_up,
    census,
    dense_zeros_aside,
    removable,
    restore_to,
    rsync_differences,
    unprotect,
)
from tests.support.repositories import make_repository
from tests.support.ugly import ASPECTS, NAMES, TERABYTE


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Path]:
    """Where the tree is made. It and what comes back of it, in "out", can be removed afterwards."""
    top = tmp_path / "src"
    top.mkdir()
    with removable(top, tmp_path / "out"):
        yield top


@pytest.mark.parametrize("aspect", ASPECTS)
def test_aspect(aspect: str, source: Path, tmp_path: Path) -> None:
    """Each aspect alone comes back; restored over what came back, nothing is written."""
    try:
        ASPECTS[aspect](source)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    before, target = census(source), tmp_path / "out"
    repository = make_repository()
    snapshot_id = back_up(repository, source).snapshot_id
    assert snapshot_id is not None
    restore_to(repository, snapshot_id, tmp_path, target, verify=True)
    assert dense_zeros_aside(census(target / "src")) == dense_zeros_aside(before)
    again = restore_to(repository, snapshot_id, tmp_path, target, delete=True)
    assert (again.bytes_written, again.removed) == (0, 0)
    unprotect(target)
    restore_to(repository, snapshot_id, tmp_path, target, overwrite="always", delete=True)
    assert dense_zeros_aside(census(target / "src")) == dense_zeros_aside(before)
    assert census(source) == before


@pytest.mark.slow
def test_whole_tree(command: Command, source: Path, tmp_path: Path) -> None:
    """All of it in one tree comes back by the real command, encrypted; backed up again it adds nothing (INV-7)."""
    for name, aspect in ASPECTS.items():
        (source / name).mkdir()
        try:
            aspect(source / name)
        except OSError:
            continue  # test_aspect says that this system does not allow it
    before, target, others = census(source), tmp_path / "out", above(source)
    command("init")
    first = command("backup", source, "--json").summary
    assert first["errors"] == 0
    restored = command("restore", f"latest:{tmp_path}", "--target", target, "--json").summary
    assert (restored["errors"], restored["total_files"]) == (0, first["total_files_processed"])
    assert dense_zeros_aside(census(target / "src")) == dense_zeros_aside(before)
    assert rsync_differences(source, target / "src", TERABYTE) == ""
    assert rsync_differences(target / "src", source, TERABYTE) == ""

    packs = command.objects("packs")
    second = command("backup", source, "--json").summary
    assert (second["files_new"], second["files_changed"]) == (0, 0)
    assert command.objects("packs") == packs or above(source) != others
    assert command("check", "--read-data").out.endswith("no errors found\n")


def test_names_are_harmless_in_output(plain: Command, source: Path) -> None:
    """What the plain prints about ugly names has no control characters, and JSON tells the very bytes."""
    ASPECTS["names"](source)
    plain("backup", "-v", "-v", source)
    for arguments in (
        ("ls", "-l", f"latest:{source}"),
        ("backup", "-vv", source),
        ("restore", "-vv", "latest", "-t", "out"),
    ):
        out = plain(*arguments).out
        assert [each for each in out if not each.isprintable() and each != "\n"] == []
    lines = plain("ls", "--json", f"latest:{source}").lines
    told = {b64decode(line["name_raw"]) if "name_raw" in line else line["name"].encode() for line in lines}
    assert told == {*NAMES, b"directories"}
