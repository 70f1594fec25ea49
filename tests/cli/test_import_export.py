"""`import` and `export`, as they are typed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.support.command import Command, failure, without_encryption
from tests.support.restic_local import PASSWORD, make_restic


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """A command with an empty repository."""
    return without_encryption(tmp_path)


def archive(*names: str) -> bytes:
    """Files with their names in them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as opened:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            opened.addfile(entry, io.BytesIO(name.encode()))
    return out.getvalue()


def test_a_pipe_through_a_repository(command: Command, tmp_path: Path) -> None:
    """What is imported from a pipe is exported to one."""
    summary = command(
        "import", "tar", "-", "--host", "web1", "--tag", "a,b", "--at", "/srv", "--json", stdin=archive("x", "d/y")
    ).summary
    assert (summary["total_files_processed"], summary["errors"]) == (2, 0)
    (snapshot,) = command("list", "--json").document
    assert (snapshot["hostname"], snapshot["paths"], snapshot["tags"]) == ("web1", ["/srv"], ["a", "b"])

    with command.start("export", "tar", "latest:/srv") as process:
        exported = process.communicate()[0]
    with tarfile.open(fileobj=io.BytesIO(exported)) as opened:
        assert sorted(opened.getnames()) == ["d", "d/y", "x"]
    command("export", "tar", "latest", "-o", tmp_path / "all.tar")
    with tarfile.open(tmp_path / "all.tar") as opened:
        assert sorted(opened.getnames()) == ["srv", "srv/d", "srv/d/y", "srv/x"]


def test_a_repository_of_restic_is_named_by_its_kind_and_place(command: Command, tmp_path: Path) -> None:
    """`restic:PLACE` is one word; where there is no such repository, it says so."""
    ran = command("import", f"restic:{tmp_path}/missing", "--json", status=10)
    assert (failure(ran)["error"], "restic" in failure(ran)["message"]) == ("no-repository", True)
    command("import", "restic:", status=2)
    command("import", "borg:/srv", status=2)


@pytest.mark.slow
def test_import_restic(command: Command, tmp_path: Path) -> None:
    """Looked at first, imported, and there the second time."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_bytes(b"x" * 1000)
    restic = make_restic(tmp_path)
    restic("backup", tmp_path / "src", "--host", "web1", "--tag", "t")
    (tmp_path / "password").write_text(PASSWORD + "\n")
    line = ("import", f"restic:{restic.folder}", "--from-password-file", tmp_path / "password")

    assert "would import snapshot" in command(*line, "--dry-run").out
    assert command.snapshots() == []
    assert "web1" in command(*line).out
    assert command(*line, "--json").summary["snapshots_present"] == 1
    (snapshot,) = command("list", "--json").document
    assert (snapshot["original"], snapshot["tags"]) == (restic.snapshots()[0]["id"], ["t"])
    (tmp_path / "password").write_text("wrong")
    command(*line, status=12)


def test_what_is_left_out_is_told(command: Command, tmp_path: Path) -> None:
    """The exit code says that not everything is in the snapshot."""
    (tmp_path / "evil.tar").write_bytes(archive("../../etc/passwd", "good"))
    ran = command("import", "tar", tmp_path / "evil.tar", status=3)
    assert "../../etc/passwd" in ran.err
    assert len(command.snapshots()) == 1


def test_no_snapshot_of_half_an_archive(command: Command, tmp_path: Path) -> None:
    """Nor of what is none, or cannot be read."""
    ran = command("import", "tar", "-", "--json", stdin=archive("x")[:700], status=1)
    assert failure(ran)["error"] == "malformed-tar"
    command("import", "tar", tmp_path / "missing", status=1)
    command("import", "tar", "-", stdin=b"", status=1)
    assert command.snapshots() == []
