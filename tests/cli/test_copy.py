"""`copy` on the command line: two repositories with a password each, what is said, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.directories import Seen, census
from tests.support.program import Bf

OTHER = "the other password"


@pytest.fixture
def target(bf: Bf, backed_up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second, empty repository that cuts files like the first; its password is in the environment."""
    path = tmp_path / "target"
    (tmp_path / "target-password").write_text(f"{OTHER}\n")
    with monkeypatch.context() as patch:
        patch.setenv("BACKUPFORGE_FROM_PASSWORD", "a secret of the tests")
        patch.setenv("BACKUPFORGE_PASSWORD", OTHER)
        source = tmp_path / "repository"
        assert bf("init", "-r", path, "--copy-chunker-from", source).status == 0
    monkeypatch.setenv("BACKUPFORGE_TO_PASSWORD", OTHER)
    return path


@pytest.fixture
def in_target(bf: Bf, target: Path, tmp_path: Path) -> Bf:
    """Runs a command line on the target."""
    return lambda *arguments: bf(*arguments, "-r", target, "--password-file", tmp_path / "target-password")


def test_copy(bf: Bf, in_target: Bf, target: Path, backed_up: str, files: Path, tmp_path: Path) -> None:
    """Every snapshot is copied and named with its new ID, and restores from the target alone."""
    ran = bf("copy", "--to", target)
    assert (ran.status, ran.err) == (0, "")
    (copy,) = in_target("list", "--json").document
    first, second, third = ran.out.splitlines()
    assert first.startswith(f"copied snapshot {backed_up[:8]} of ")
    assert first.endswith(f": {files} as {copy['short_id']}")
    assert second == f"1 snapshot copied to {target}, 0 there already"
    assert third.startswith("Read 10.0 KiB; added ")
    (tmp_path / "repository").rename(tmp_path / "gone")
    assert in_target("restore", f"latest:{files}", "--target", tmp_path / "out").status == 0
    assert without_top(tmp_path / "out") == without_top(files)
    assert in_target("check", "--read-data").status == 0


def without_top(folder: Path) -> dict[bytes, Seen]:
    """Everything in a directory, but not the directory itself."""
    return {path: seen for path, seen in census(folder).items() if path != b"."}


def test_again(bf: Bf, target: Path, backed_up: str) -> None:
    """What is there already is counted, and nothing else happens."""
    bf("copy", "--to", target)
    ran = bf("copy", "--to", target)
    assert (ran.status, ran.out) == (0, f"0 snapshots copied to {target}, 1 there already\n")


def test_json(bf: Bf, in_target: Bf, target: Path, backed_up: str, files: Path) -> None:
    """A line for each snapshot, with both IDs, and a summary."""
    ran = bf("copy", "--to", target, "--json")
    (copied,) = [line for line in ran.lines if line["message_type"] == "copied"]
    (there,) = in_target("list", "--json").document
    assert (copied["source_snapshot_id"], copied["snapshot_id"]) == (backed_up, there["id"])
    assert (copied["hostname"], copied["paths"], copied["time"]) == (there["hostname"], [str(files)], there["time"])
    assert {
        key: ran.summary[key] for key in ("snapshots_copied", "snapshots_present", "snapshots_failed", "same_chunker")
    } == {"snapshots_copied": 1, "snapshots_present": 0, "snapshots_failed": [], "same_chunker": True}
    assert ran.summary["data_added"] > ran.summary["bytes_read"] == 10252


def test_dry_run(bf: Bf, in_target: Bf, target: Path, backed_up: str) -> None:
    """A dry run says what would be copied, and copies nothing."""
    ran = bf("copy", "--to", target, "--dry-run")
    assert ran.out.splitlines()[0].startswith(f"would copy snapshot {backed_up[:8]} of ")
    assert ran.out.splitlines()[1:] == [
        f"1 snapshot to copy to {target}, 0 there already",
        "dry run: nothing was copied",
    ]
    assert in_target("list", "--json").document == []
    assert in_target("list", "packs").out == ""
    assert bf("copy", "--to", target, "-n", "--json").summary["snapshots_to_copy"] == 1


def test_which_snapshots(bf: Bf, target: Path, backed_up: str, files: Path) -> None:
    """Snapshots are chosen by name, by filters, or by latest among those that match."""
    tagged = [bf("backup", "--json", "--tag", "t", files).summary["snapshot_id"] for _ in range(2)]

    def chosen(*arguments: str) -> set[str]:
        lines = bf("copy", "--to", target, "-n", "--json", *arguments).lines
        return {line["source_snapshot_id"] for line in lines if line["message_type"] == "would_copy"}

    assert chosen() == {backed_up, *tagged}
    assert chosen("--tag", "t") == set(tagged)
    assert chosen("--host", "nobody") == set()
    assert chosen(backed_up[:8], "latest") == {backed_up, tagged[1]}
    assert chosen("latest~1", "--tag", "t") == {tagged[0]}
    assert bf("copy", "--to", target, "latest~9").status == 1


def test_passwords(bf: Bf, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target's password comes from an option or a variable of its own, and from one of them only."""
    assert bf("copy", "--to", target, "-n").status == 0
    monkeypatch.setenv("BACKUPFORGE_TO_PASSWORD_FILE", str(tmp_path / "target-password"))
    both = bf("copy", "--to", target, "-n")
    assert (both.status, "--to-password-file" in both.err) == (2, True)
    monkeypatch.delenv("BACKUPFORGE_TO_PASSWORD")
    assert bf("copy", "--to", target, "-n").status == 0
    monkeypatch.delenv("BACKUPFORGE_TO_PASSWORD_FILE")
    assert bf("copy", "--to", target, "-n", "--to-password-file", tmp_path / "target-password").status == 0
    assert bf("copy", "--to", target, "-n", "--to-password-command", f"echo '{OTHER}'").status == 0
    wrong = bf("copy", "--to", target, "-n", "--to-password-command", "echo wrong")
    assert (wrong.status, str(target) in wrong.err) == (12, True)


def test_no_password_and_no_terminal(process: Bf, bf: Bf, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose password is missing is said, and how to give it."""
    monkeypatch.delenv("BACKUPFORGE_TO_PASSWORD")
    ran = process("copy", "--to", str(target))
    assert ran.status == 2
    assert str(target) in ran.err
    assert "--to-password-file, --to-password-command or the environment variable BACKUPFORGE_TO_PASSWORD" in ran.err


def test_to_itself(bf: Bf, backed_up: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying a repository to itself is wrong usage."""
    monkeypatch.setenv("BACKUPFORGE_TO_PASSWORD", "a secret of the tests")
    ran = bf("copy", "--to", repository)
    assert (ran.status, "the same repository" in ran.err) == (2, True)


def test_no_target(bf: Bf, backed_up: str, tmp_path: Path) -> None:
    """Where no repository is, none is made."""
    assert bf("copy", "--to", tmp_path / "nowhere").status == 10
    assert not (tmp_path / "nowhere").exists()
    assert bf("copy").status == 2


def test_another_chunker(bf: Bf, backed_up: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that cuts files elsewhere is mentioned when something was copied, and does no harm."""
    target = tmp_path / "target"
    with monkeypatch.context() as patch:
        patch.delenv("BACKUPFORGE_PASSWORD")
        bf("init", "-r", target, "--encryption", "none")
    first, second = bf("copy", "--to", target), bf("copy", "--to", target)
    assert (first.status, "--copy-chunker-from" in first.err) == (0, True)
    assert (second.status, second.err) == (0, "")


def test_damage(bf: Bf, target: Path, backed_up: str, files: Path, repository: Path) -> None:
    """A file that cannot be read is named, its snapshot is not copied, and the exit code is 3."""
    for pack in (repository / "packs").rglob("*"):
        if pack.is_file():
            data = bytearray(pack.read_bytes())
            data[100] ^= 1
            pack.chmod(0o600)
            pack.write_bytes(data)
    ran = bf("copy", "--to", target)
    assert ran.status == 3
    assert f"error: snapshot {backed_up[:8]} of " in ran.err
    assert f"0 snapshots copied to {target}, 0 there already, 1 could not be copied" in ran.out
