"""On a real terminal: progress that cleans up after itself, prompts, and colours."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.output import Output
from cli.progress import Display
from tests.support.program import PASSWORD, Bf, process_environment
from tests.support.repositories import FakeClock

COLUMNS = 60

# Makes the terminal that is standard input the controlling one, which a shell does for its programs, and starts ours.
START = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "cli", *sys.argv[1:]])
"""


def on_terminal(arguments: Sequence[str], typed: Sequence[tuple[str, str]] = (), **variables: str) -> tuple[int, str]:
    """Runs the program on a terminal, types each answer when its question appears; exit status and screen output."""
    terminal, inside = pty.openpty()
    environment = {**process_environment(variables), "TERM": "xterm", "COLUMNS": str(COLUMNS)}
    command = [sys.executable, "-c", START, *arguments]
    with subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside, env=environment, start_new_session=True
    ) as process:
        os.close(inside)
        try:
            said = _converse(terminal, list(typed))
            process.wait(10)
        finally:
            process.kill()  # one that still waits for an answer; it does nothing to one that has ended
    os.close(terminal)
    return process.returncode, said


def _converse(terminal: int, answers: list[tuple[str, str]]) -> str:
    said, heard = b"", b""
    deadline = time.monotonic() + 30
    ready = select.poll()  # select() takes no descriptor above 1023, and other tests may have many open
    ready.register(terminal, select.POLLIN)
    while time.monotonic() < deadline:
        if not ready.poll(1000):
            continue
        try:
            heard += os.read(terminal, 65536)
        except OSError:  # the other end is closed: the program has ended
            break
        if answers and answers[0][0].encode() in heard.rpartition(b"\n")[2]:
            said, heard = said + heard, b""
            os.write(terminal, answers.pop(0)[1].encode() + b"\n")
    return (said + heard).decode()


def test_a_new_password_is_asked_twice(repository: Path) -> None:
    """`init` asks for the password and asks again, and shows neither."""
    status, said = on_terminal(
        ["init"], [("new password", PASSWORD), ("the same again", PASSWORD)], BACKUPFORGE_PASSWORD=""
    )

    assert status == 0
    assert PASSWORD not in said
    assert (repository / "config").exists()


def test_two_different_passwords_make_no_repository(repository: Path) -> None:
    """A slip while typing is found out before it costs anything."""
    status, said = on_terminal(["init"], [("new password", "one"), ("the same again", "two")], BACKUPFORGE_PASSWORD="")

    assert status == 2
    assert "the two passwords are not the same" in said
    assert not (repository / "config").exists()


def test_who_types_a_wrong_password_is_asked_again(bf: Bf) -> None:
    """At a terminal there are three tries."""
    bf("init")

    status, said = on_terminal(
        ["list"], [("password for", "wrong"), ("password for", PASSWORD)], BACKUPFORGE_PASSWORD=""
    )
    assert status == 0
    assert "wrong password" in said

    wrong = [("password for", "wrong")] * 3
    assert on_terminal(["list"], wrong, BACKUPFORGE_PASSWORD="")[0] == 12


@pytest.mark.slow
def test_progress_stays_within_the_terminal_and_goes_away(bf: Bf, tmp_path: Path) -> None:
    """While a backup runs there is a block of lines, cut to the width; nothing of it is left at the end."""
    files = tmp_path / "files" / ("a long name " * 8)
    files.mkdir(parents=True)
    for number in range(8000):
        (files / f"{number}").write_bytes(b"x")
    bf("init")

    status, said = on_terminal(["backup", str(files)])

    assert status == 0, said
    blocks = said.split("\x1b[J")
    drawn = [block for block in blocks[:-1] if "files" in block]
    assert drawn != []
    assert max(len(line) for block in drawn for line in block.replace("\x1b[1A", "").split("\r\n")) <= COLUMNS
    assert blocks[-1].startswith("Files:")


@pytest.mark.slow
def test_no_progress_where_nobody_wants_it(bf: Bf, files: Path) -> None:
    """--no-progress and --quiet draw nothing, not even for a moment."""
    bf("init")

    assert "\x1b[J" not in on_terminal(["backup", "--no-progress", str(files)])[1]
    assert on_terminal(["backup", "-q", str(files)]) == (0, "")


def test_sigusr1_prints_progress(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever sends SIGUSR1 is told how far the work is, at once, also with --quiet."""
    from cli.signals import Cancellation, handling

    display = Display(Output(as_json=False, quiet=True, verbosity=0), FakeClock(), unit="files", shows_progress=False)
    display.progress.files_done, display.progress.bytes_done, display.progress.bytes_total = 12, 1 << 20, 2 << 20
    with handling(Cancellation(), lambda: None, display.show_now):
        display.start()
        os.kill(os.getpid(), signal.SIGUSR1)
        deadline = time.monotonic() + 10
        said = ""
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
            said = capfd.readouterr().err
        display.stop()

    assert "50%  12 files  1.00 MiB / 2.00 MiB" in said


def test_status_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    """A status line has restic's names, and totals only when they are known."""
    import json

    output = Output(as_json=True, quiet=False, verbosity=0)
    output.streaming = True
    clock = FakeClock()
    display = Display(output, clock, unit="files", shows_progress=True)
    clock.advance(10)
    progress = display.progress
    progress.files_done, progress.bytes_done, progress.current = 2, 100, b"/a\xff"
    display.start()
    display.show_now()
    display.stop()

    (status,) = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert status == {
        "message_type": "status",
        "seconds_elapsed": 10.0,
        "files_done": 2,
        "bytes_done": 100,
        "error_count": 0,
        "current_file": "/a\ufffd",
        "current_file_raw": "L2H/",
    }


def test_signals_are_as_before_afterwards() -> None:
    """The handlers that were there before the work are there again after it."""
    from cli.signals import Cancellation, handling

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with handling(Cancellation(), lambda: None, lambda: None):
        assert [signal.getsignal(number) for number in numbers] != before

    assert [signal.getsignal(number) for number in numbers] == before
