"""What should be backed up cannot be read, or what should be restored cannot be written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.command import WITHOUT_PRIVILEGES, Command, failure
from tests.support.directories import census, removable


def test_unreadable_source(plain: Command, source: Path) -> None:
    """What may not be read is named and left out; the rest is in the snapshot, and the exit code is 3."""
    user = replace(plain, before=WITHOUT_PRIVILEGES)
    with removable(source):
        (source / "a").chmod(0)
        (source / "sub").chmod(0)
        ran = user("backup", source, "--json", status=3)
        assert (ran.summary["errors"], ran.summary["files_new"]) == (2, 1)
        told = {(line["path"], line["message"]) for line in ran.lines if line["message_type"] == "error"}
        assert told == {(f"{source}/a", "Permission denied"), (f"{source}/sub", "Permission denied")}
        text = user("backup", source, status=3)
        assert f"error: {source}/a: Permission denied\n" in text.err
        assert "2 items could not be read" in text.out
    user("restore", f"latest:{source}", "--target", plain.home / "out")
    assert (plain.home / "out" / "b").read_text() == "b\n"
    assert not (plain.home / "out" / "a").exists()
    assert plain("backup", source, "--json").summary["files_new"] == 2


def test_missing_source(plain: Command, source: Path) -> None:
    """Nothing there: 1 and no snapshot. Something there: 3, and it is in the snapshot."""
    ran = plain("backup", source / "missing", plain.home / "neither", status=1)
    assert "none of the paths to back up can be found" in ran.err
    assert plain.snapshots() == []
    ran = plain("backup", source / "missing", source / "sub", status=3)
    assert f"{source}/missing: No such file or directory" in ran.err
    assert f"{source}/sub/c" in plain("ls", "-R", "latest").out
    plain("backup", status=2)


def test_target_is_a_file(plain: Command, source: Path, tmp_path: Path) -> None:
    """A target that is no directory, or is below a file, is refused, and stays what it is."""
    plain("backup", source)
    target = tmp_path / "target"
    target.write_text("mine")
    for each in (target, target / "below"):
        ran = plain("restore", "latest", "--target", each, "--json", status=1)
        assert failure(ran)["error"] == "target-failed"
        assert str(target) in failure(ran)["message"]
    assert target.read_text() == "mine"
    plain("restore", "latest", status=2)


def test_target_without_permission(plain: Command, source: Path, tmp_path: Path) -> None:
    """Where nothing can be made the error names the place; where some cannot be replaced, 3, and the rest is there."""
    plain("backup", source)
    user = replace(plain, before=WITHOUT_PRIVILEGES)
    closed, half = tmp_path / "closed", tmp_path / "half"
    closed.mkdir(0o500)
    (half / "sub").mkdir(parents=True)
    with removable(closed, half):
        ran = user("restore", "latest", "--target", closed / "new", status=1)
        assert str(closed) in ran.err
        (half / "sub").chmod(0o500)
        if not WITHOUT_PRIVILEGES:
            return  # the owner of a directory opens it for the restore
        os.chown(half / "sub", 1, 1)
        ran = user("restore", f"latest:{source}", "--target", half, status=3)
        assert "/sub" in ran.err
        assert (half / "b").read_text() == "b\n"


@pytest.mark.parametrize("arguments", [("--exclude", "[z-a"), ("--iexclude", "../x"), ("--exclude", "a\\")])
def test_pattern_that_does_not_parse(plain: Command, source: Path, arguments: tuple[str, ...]) -> None:
    """2, and the message shows the pattern; nothing is stored or restored."""
    plain("backup", source)
    ran = plain("backup", source, *arguments, "--json", status=2)
    assert failure(ran)["error"] == "invalid-pattern"
    assert arguments[1].replace("\\", "") in failure(ran)["message"]
    assert len(plain.snapshots()) == 1
    plain("restore", "latest", "--target", "out", "--include", arguments[1], status=2)
    assert not (plain.home / "out").exists()


def test_lists_that_do_not_parse(plain: Command, source: Path, tmp_path: Path) -> None:
    """A list that is missing or holds a pattern that does not parse is wrong usage, and named."""
    (tmp_path / "patterns").write_text("fine\n[z-a\n")
    for option in ("--exclude-file", "--files-from"):
        assert "missing" in plain("backup", source, option, tmp_path / "missing", status=2).err
    assert "patterns" in plain("backup", source, "--exclude-file", tmp_path / "patterns", status=2).err
    (tmp_path / "empty").touch()
    plain("backup", "--files-from", tmp_path / "empty", status=2)
    assert plain.snapshots() == []


def test_command_that_fails(plain: Command) -> None:
    """What a failing command printed makes no snapshot, and its exit status is told; nor does one that is not there."""
    for line in (("sh", "-c", "echo half; exit 7"), ("sh", "-c", "echo half; kill -9 $$"), ("no-such-program",)):
        ran = plain("backup", "--stdin-from-command", "--json", "--", *line, status=1)
        assert failure(ran)["error"] == "source-failed"
        assert line[0] in failure(ran)["message"]
    assert "7" in plain("backup", "--stdin-from-command", "--", "sh", "-c", "exit 7", status=1).err
    assert plain.snapshots() == []
    plain("backup", "--stdin-from-command", status=2)


def test_empty_standard_input(plain: Command) -> None:
    """Nothing piped in is a file of nothing, not an error."""
    plain("backup", "--stdin", "--stdin-filename", "nothing")
    plain("restore", "latest", "--target", plain.home / "out")
    assert (plain.home / "out" / "nothing").stat().st_size == 0
    assert set(census(plain.home / "out")) == {b".", b"./nothing"}
