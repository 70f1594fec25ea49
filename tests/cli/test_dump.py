"""`dump`: bytes on standard output, in files, and not on terminals."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.program import Bf, process_environment


def run(*arguments: str | Path, status: int = 0) -> bytes:
    """What a process of its own writes to standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "cli", "dump", *arguments],
        env=process_environment({}),
        capture_output=True,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert b"Traceback" not in done.stderr
    return done.stdout


def on_terminal(*arguments: str | Path) -> tuple[int, bytes]:
    """The status, and what a terminal shows on which the command runs."""
    terminal, inside = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "cli", "dump", *arguments],
        env=process_environment({"TERM": "xterm"}),
        stdin=subprocess.DEVNULL,
        stdout=inside,
        stderr=subprocess.STDOUT,
        check=False,
    )
    os.close(inside)
    said = b""
    try:
        while more := os.read(terminal, 65536):
            said += more
    except OSError:  # nobody holds the other end any more
        pass
    os.close(terminal)
    return done.returncode, said


def test_a_file(backed_up: str, files: Path) -> None:
    """Its bytes and nothing else, however it is named."""
    content = (files / "b.bin").read_bytes()

    assert run("latest", files / "b.bin") == content
    assert run(f"{backed_up[:8]}:{files}/b.bin") == content


def test_a_directory(backed_up: str, files: Path) -> None:
    """A tar archive, or a zip archive if that is wanted."""
    with tarfile.open(fileobj=io.BytesIO(run("latest", files))) as opened:
        assert sorted(opened.getnames()) == ["a.txt", "b.bin", "sub", "sub/c.txt"]
    with zipfile.ZipFile(io.BytesIO(run("latest", files, "--archive", "zip"))) as archive:
        assert archive.read("sub/c.txt") == b"third\n"


def test_a_path_twice(bf: Bf, backed_up: str) -> None:
    """It is not clear which one is meant."""
    assert bf("dump", "latest:/a", "/b").status == 2


def test_to_a_file(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """A sentence says what was written; --json says it in fields, and standard output has nothing else."""
    target = tmp_path / "out.tar"
    ran = bf("dump", f"latest:{files}", "--output", target)

    assert ran.status == 0
    assert ran.out.startswith(f"{backed_up[:8]}:{files} written to {target} in ")
    assert ran.out.endswith(": 3 files, 1 directories, 0 others, 10.0 KiB\n")
    assert tarfile.is_tarfile(target)
    summary = bf("dump", "--json", f"latest:{files}", "--output", target).summary
    assert (summary["files"], summary["dirs"], summary["size"]) == (3, 1, 10252)
    assert (summary["snapshot_id"], summary["output"]) == (backed_up, str(target))


def test_an_error_leaves_no_file(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """A place that is not there, in the snapshot or for the file, is an error."""
    target = tmp_path / "out"

    assert bf("dump", "latest", "/missing", "-o", target).status == 1
    assert bf("dump", "latest", files / "a.txt", "-o", tmp_path / "no" / "out").status == 1
    assert not target.exists()


def test_what_is_lost_is_told(bf: Bf, backed_up: str, files: Path, tmp_path: Path) -> None:
    """A warning for each entry that is left out, and one for each kind of thing that an archive does not keep."""
    os.link(files / "a.txt", files / "again")
    os.mkfifo(files / "pipe")
    bf("backup", files)

    ran = bf("dump", "latest", files, "--archive", "zip", "-o", tmp_path / "out.zip")

    assert (ran.status, ran.err.splitlines()) == (
        0,
        [
            "warning: /pipe: left out: a zip archive cannot hold a fifo",
            "warning: a zip archive keeps no hard links (1 affected)",
        ],
    )


def test_nobody_reads(backed_up: str, files: Path) -> None:
    """A pipe that is closed ends the command, and it says nothing about it."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "cli", "dump", f"latest:{files}"],
        env=process_environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) != 0


def test_text_on_a_terminal(backed_up: str, files: Path) -> None:
    """It is shown."""
    assert on_terminal("latest", files / "a.txt") == (0, b"first\r\n")


@pytest.mark.parametrize("what", ["", "b.bin", "escape", "latin"])
def test_nothing_else_on_a_terminal(bf: Bf, backed_up: str, files: Path, what: str) -> None:
    """Neither archives nor what a terminal would act on, nor what is no UTF-8."""
    (files / "escape").write_bytes(b"text\n\x1b]0;title\x07")
    (files / "latin").write_bytes(b"caf\xe9")
    bf("backup", files)

    status, said = on_terminal("latest", files / what)

    assert status == 2
    assert said.splitlines()[0].endswith(b"does not belong on a terminal")
    assert b"title" not in said
    assert b"--output FILE" in said
