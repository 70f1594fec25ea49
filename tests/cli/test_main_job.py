"""The main job as a user does it: every command a process of its own, with a password and the real KDF."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import answering
from tests.support.program import PASSWORD, Bf, Ran, process_environment
from tests.support.trees import look


def succeed(ran: Ran) -> str:
    """What a run that went well said on stdout."""
    assert (ran.status, ran.err) == (0, "")
    return ran.out


@pytest.mark.slow
def test_the_main_job(process: Bf, files: Path, tmp_path: Path) -> None:
    """Make a repository, back up, change something, back up again, look at it, restore it, check it."""
    assert "Without the password the data is lost" in succeed(process("init"))

    first = succeed(process("backup", files))
    assert "Files:      3 new, 0 changed, 0 unmodified" in first
    found = re.search(r"snapshot ([0-9a-f]{8}) saved", first)
    assert found is not None

    (files / "a.txt").write_text("first, changed\n")
    (files / "d.txt").write_text("new\n")
    assert "Files:      1 new, 1 changed, 2 unmodified" in succeed(process("backup", files, "--tag", "later"))

    listed = succeed(process("list"))
    assert [line.split()[0] for line in listed.splitlines()[1:2]] == [found[1]]
    assert "later" in listed
    assert "2 snapshots" in listed

    assert succeed(process("ls", "latest", files)).splitlines() == [
        f"{files}/{name}" for name in ("a.txt", "b.bin", "d.txt", "sub")
    ]
    assert succeed(process("ls", "--recursive", f"latest:{files}/sub")) == f"{files}/sub/c.txt\n"

    totals = succeed(process("stats"))
    assert "Together" in totals

    target = tmp_path / "restored"
    assert "4 created" in succeed(process("restore", f"latest:{files}", "--target", target))
    assert look(target) == look(files)

    old = tmp_path / "old"
    succeed(process("restore", f"{found[1]}:{files}/a.txt", "--target", old))
    assert (old / "a.txt").read_text() == "first\n"

    assert "no errors found" in succeed(process("check", "--read-data"))
    assert "no errors found" in succeed(process("check", "--no-key", BACKUPFORGE_PASSWORD=""))


@pytest.mark.slow
def test_secrets_are_never_said(process: Bf, files: Path, repository: Path) -> None:
    """No output of any command holds the password, nor the password of a location, right or wrong."""
    wrong = "another secret"
    with answering.serve() as server:
        server.will(answering.Answer(401))
        said = all_said(process, files, repository, wrong, server.url.partition("//")[2])

    assert [ran for ran in said if wrong in ran.out + ran.err or PASSWORD in ran.out + ran.err] == []
    assert [ran.status for ran in said] == [0, 0, 0, 12, 1, 1, 1, 1, 1, 1]


def all_said(process: Bf, files: Path, repository: Path, wrong: str, host: str) -> list[Ran]:
    """What commands say to a wrong password, and about a location that has one, on a server that refuses it."""
    return [
        process("init", "--debug"),
        process("backup", "-vv", "--debug", files),
        process("list", "--debug", "--json"),
        process("list", "--debug", BACKUPFORGE_PASSWORD=wrong),
        process("list", "-r", f"rest:http://me:{wrong}@{host}/path", "--debug"),
        process("list", "--json", "-r", f"rest:http://me:{wrong}@{host}/path"),
        process("key", "list", "--password-command", f"sh -c 'echo {PASSWORD}; exit 3'", "--debug"),
        process("key", "list", "--password-command", f"/dev/null/nowhere/program {wrong}"),
        process("check", "--password-file", repository / wrong.replace(" ", "_")),
        process("doctor", "--json", "-r", f"rest:http://me:{wrong}@{host}/path"),
    ]


def test_no_password_and_no_terminal(process: Bf) -> None:
    """Where nobody can be asked for the password, the error says how to give it."""
    ran = process("init", BACKUPFORGE_PASSWORD="")

    assert ran.status == 2
    assert "no password was given, and there is no terminal to ask for it" in ran.err
    assert "--password-file" in ran.err


def test_the_module_runs(process: Bf) -> None:
    """`python -m cli` is the program."""
    assert process("--version").out.startswith("backupforge ")


def into_a_closed_pipe(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Runs the program where nobody reads what it says on stdout."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as out:
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            env=process_environment({}),
            check=False,
        )


def test_a_closed_pipe_is_no_error(bf: Bf, backed_up: str) -> None:
    """When whoever reads a list has had enough, nothing is said about it."""
    assert into_a_closed_pipe("ls", "-R", "latest").stderr == b""


def test_a_backup_outlives_its_reader(bf: Bf, backed_up: str, files: Path) -> None:
    """A backup goes on when nobody reads any more what it does."""
    done = into_a_closed_pipe("backup", "-vv", str(files))

    assert (done.returncode, done.stderr) == (0, b"")
    assert len(bf("list", "--json").document) == 2
