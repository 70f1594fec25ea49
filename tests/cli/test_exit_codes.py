"""Each exit code of the table, by something that ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.exit_codes import MEANINGS
from tests.support.program import Bf, process_environment


def test_0_when_all_is_done(bf: Bf, backed_up: str) -> None:
    """A command that did what it should ends with 0."""
    assert bf("list").status == 0


def test_1_when_it_failed(bf: Bf, backed_up: str) -> None:
    """A snapshot that is not there is a failure."""
    ran = bf("restore", "deadbeef", "--target", "/dev/null/nowhere")

    assert ran.status == 1
    assert ran.err == "error: no snapshot starts with deadbeef\n"


def test_1_when_check_finds_something(bf: Bf, backed_up: str, repository: Path) -> None:
    """A repository that is not as it should be makes check fail."""
    pack = next((repository / "packs").glob("*/*"))
    pack.unlink()

    ran = bf("check")

    assert ran.status == 1
    assert pack.name[:8] in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["backup", "--frobnicate"],
        ["frobnicate"],
        ["backup"],
        ["init", "--compression", "zip"],
        ["init", "--pack-size", "1M"],
        ["backup", "/", "--exclude-larger-than", "big"],
        ["backup", "/", "--exclude", "[z-a]"],
        ["backup", "/", "--time", "yesterday"],
        ["list", "--group-by", "size"],
        ["list", "packs", "--latest", "1"],
        ["check", "--read-data", "--no-key"],
        ["check", "--read-data-subset", "8/7"],
        ["stats", "--mode", "raw-data", "--plot"],
        ["restore", "latest"],
        ["ls", "abc"],
        ["backup", "--stdin", "path"],
    ],
    ids=" ".join,
)
def test_2_when_the_usage_is_wrong(bf: Bf, backed_up: str, arguments: list[str]) -> None:
    """An option or argument that makes no sense is wrong usage."""
    ran = bf(*arguments)

    assert ran.status == 2
    assert ran.err.startswith("error: ")


def test_2_without_a_repository(bf: Bf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that needs a repository must be told which."""
    monkeypatch.delenv("BACKUPFORGE_REPOSITORY")

    ran = bf("list")

    assert ran.status == 2
    assert "no repository was given" in ran.err


def test_3_when_some_items_could_not_be_read(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """A path that is not there is named; the rest is in the snapshot."""
    ran = bf("backup", files, tmp_path / "missing")

    assert ran.status == 3
    assert f"error: {tmp_path}/missing: No such file or directory" in ran.err
    assert "saved" in ran.out


def test_3_when_some_items_could_not_be_restored(bf: Bf, backed_up: str, tmp_path: Path, files: Path) -> None:
    """A file that cannot be made is named; the rest is restored."""
    target = tmp_path / "restored"
    (target / "a.txt" / "in the way").mkdir(parents=True)

    ran = bf("restore", f"latest:{files}", "--target", target)

    assert ran.status == 3
    assert "a.txt" in ran.err
    assert (target / "b.bin").exists()


def test_3_when_some_snapshots_cannot_be_listed(bf: Bf, backed_up: str, files: Path, repository: Path) -> None:
    """A damaged snapshot is named; the others are listed."""
    other = bf("backup", "--json", files).summary["snapshot_id"]
    damaged = repository / "snapshots" / backed_up
    damaged.chmod(0o600)
    damaged.write_bytes(b"nonsense")

    ran = bf("list")

    assert ran.status == 3
    assert backed_up[:8] in ran.err
    assert other[:8] in ran.out


@pytest.mark.parametrize("arguments", [["list"], ["backup", "/etc/hostname"], ["check", "--no-key"], ["key", "list"]])
def test_10_when_there_is_no_repository(bf: Bf, arguments: list[str]) -> None:
    """A place without a repository has an exit code of its own."""
    ran = bf(*arguments)

    assert ran.status == 10
    assert "there is no repository in" in ran.err


def test_12_when_the_password_is_wrong(bf: Bf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password has an exit code of its own."""
    bf("init")
    monkeypatch.setenv("BACKUPFORGE_PASSWORD", "not the password")

    ran = bf("list")

    assert ran.status == 12
    assert "wrong password" in ran.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_130_when_interrupted(bf: Bf, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end a backup well: no snapshot, and what was stored is named and kept."""
    bf("init")
    with subprocess.Popen(
        [sys.executable, "-m", "cli", "backup", "--stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=process_environment({}),
    ) as process:
        assert process.stdin is not None
        process.stdin.write(os.urandom(12 << 20))
        process.stdin.flush()  # the pipe holds far less than that: the backup is reading by now
        process.send_signal(number)
        time.sleep(0.1)
        _, err = process.communicate()

    assert process.returncode == 130
    assert b"no snapshot was made" in err
    assert b"stored are kept and will be reused by the next backup" in err
    assert bf("list", "--json").document == []


def test_a_second_signal_ends_at_once(bf: Bf) -> None:
    """Who presses Ctrl-C twice does not wait, not even for a read that never ends."""
    bf("init")
    with subprocess.Popen(
        [sys.executable, "-m", "cli", "backup", "--stdin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=process_environment({}),
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(bytes(12 << 20))
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert b"stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == -signal.SIGINT  # which a shell calls 130


def test_every_exit_code_is_tested_here() -> None:
    """A code that is added to the table gets a test."""
    tested = {name.split("_")[1] for name in globals() if name.startswith("test_")}

    assert {str(code) for code in MEANINGS} - tested == set()
