"""A command that is told to stop, whose reader goes away, or whose surroundings lack what others have."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.command import Command, wait_until
from tests.support.directories import census

MIB = 1 << 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_backup(plain: Command, tmp_path: Path, number: signal.Signals) -> None:
    """130, no snapshot, and what was stored is kept: the next backup does not store it again."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "big").write_bytes(incompressible(1, 24 * MIB))
    with plain.start("backup", "--stdin", "--no-progress", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write((top / "big").read_bytes())
        wait_until(lambda: stored(plain) > 8 * MIB, process)
        process.send_signal(number)
        out, err = process.communicate()
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert b"error: " in err
    assert b"are kept and will be reused by the next backup" in err
    assert (out, plain.snapshots()) == (b"", [])
    assert "no errors found" in plain("check", "--read-data").out

    text = plain("backup", top).out
    added = re.search(r"Added to the repository: ([\d.]+) MiB", text)
    assert float(added[1]) < 20 if added else "KiB" in text
    plain("restore", f"latest:{top}", "--target", tmp_path / "out")
    assert (tmp_path / "out" / "big").read_bytes() == (top / "big").read_bytes()


def stored(command: Command) -> int:
    """Bytes below the repository, also of what is not finished."""
    total = 0
    for path in command.repository.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue  # a temporary file that has got its name
    return total


def test_interrupted_restore(plain: Command, tmp_path: Path) -> None:
    """130; what the next restore then makes is complete."""
    top, target = tmp_path / "top", tmp_path / "out"
    top.mkdir()
    for number in range(2000):
        (top / f"{number:04}").write_bytes(incompressible(number, 8000))
    plain("backup", top)
    with plain.start("restore", f"latest:{top}", "--target", target, "--no-progress") as process:
        wait_until(target.exists, process)
        process.send_signal(signal.SIGINT)
        err = process.communicate()[1]
    assert process.returncode in (0, 130), err  # it may have been quicker than the signal
    assert b"Traceback" not in err
    plain("restore", f"latest:{top}", "--target", target, "--delete", "--verify")
    assert {path: each for path, each in census(target).items() if path != b"."} == {
        path: each for path, each in census(top).items() if path != b"."
    }


@pytest.mark.parametrize("arguments", [("ls", "-R", "latest"), ("list",), ("list", "blobs"), ("backup", "-vv")])
def test_closed_pipe(plain: Command, source: Path, arguments: tuple[str, ...]) -> None:
    """Nobody reads what is printed: no traceback, and a backup is made all the same or not at all."""
    for number in range(300):
        (source / f"a file with quite a long name {number}").touch()
    plain("backup", source)
    reader, writer = os.pipe()
    os.close(reader)
    what = [source] if arguments[0] == "backup" else []
    with plain.start(*arguments, *what, stdout=writer) as process:
        os.close(writer)
        err = process.communicate()[1]
    assert b"Traceback" not in err
    assert b"internal error" not in err
    assert "no errors found" in plain("check").out


def test_bare_surroundings(plain: Command, source: Path, tmp_path: Path) -> None:
    """Without a home, a language, or a terminal that can do anything, everything works."""
    surroundings: tuple[dict[str, str | None], ...] = (
        {"HOME": None, "LANG": None, "TZ": None},
        {"HOME": "/nonexistent", "LANG": "C", "TERM": "dumb"},
        {"HOME": "", "LC_ALL": "no_such_LOCALE", "TZ": "Nowhere/Never", "COLUMNS": "x", "TERM": ""},
    )
    for number, environment in enumerate(surroundings):
        bare = replace(plain, environment={**plain.environment, **environment})
        assert bare("backup", source).err == ""
        assert "\x1b" not in bare("list").out
        target = tmp_path / str(number)
        assert bare("restore", f"latest:{source}", "--target", target).err == ""
        assert (target / "b").read_text() == "b\n"
        assert "no errors found" in bare("check").out


def test_names_in_a_terminal_without_unicode(plain: Command, source: Path) -> None:
    """A name that the terminal's characters cannot show is escaped, not an error."""
    (source / "日本語 \udcff").touch()
    bare = replace(
        plain, environment={**plain.environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    )
    bare("backup", "-v", source)
    assert "\\xff" in bare("ls", "-R", "latest").out


def test_standard_streams_that_are_closed(plain: Command, source: Path) -> None:
    """A program may be started without input, output or errors; the backup is made."""
    line = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *plain.line("backup", source)]
    done = subprocess.run(line, env=plain.variables(), check=False)
    assert done.returncode == 0
    assert len(plain.snapshots()) == 1
