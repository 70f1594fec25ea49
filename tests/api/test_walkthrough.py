"""The first steps of a server, done as README and the manual say: from nothing to the figures of a backup."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.support.program import ROOT

PLACES = [
    ("README.md", "## Server", "## How it compares"),
    ("docs/how-to/server.md", "# Run a server", "## Back up other"),
]
VARIABLE = re.compile(r"\.\.\.|\b[0-9a-f]{32}\b|(?<![\w-])[\w-]{43}(?![\w-])|\d+")
"""What differs from run to run in an output: what is left out, IDs, secrets, numbers."""
LIMIT_S = 60.0


@dataclass(frozen=True)
class Step:
    """A command of a document, and what the document shows of its output."""

    command: str
    shown: str


def steps(text: str) -> list[Step]:
    """The commands of a text: lines that begin with a dollar, as far as the shell would read on."""
    found: list[Step] = []
    lines = iter(line.strip() for line in text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith(("\\", "|")) or not _is_complete(command):
                command += "\n" + next(lines)
            found.append(Step(command, ""))
        elif found and line and not line.startswith("```") and not _is_prose(line):
            found[-1] = Step(found[-1].command, f"{found[-1].shown} {line}".strip())
        elif found:
            found.append(Step("", ""))  # what follows is no output of it
    return [step for step in found if step.command]


def _is_complete(command: str) -> bool:
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def _is_prose(line: str) -> bool:
    return re.match(r"\d+\. |In another|`GET", line) is not None


def pattern(shown: str) -> tuple[re.Pattern[str], list[str]]:
    """What an output has to look like, and the IDs and secrets that its groups stand for."""
    parts, names, end = [], [], 0
    for match in VARIABLE.finditer(shown):
        parts.append(re.escape(shown[end : match.start()]))
        end = match.end()
        if match[0] == "...":
            parts.append(".*")
        elif match[0].isdecimal() and len(match[0]) < 32:
            parts.append(r"\d+")
        else:
            names.append(match[0])
            parts.append(f"([\\w-]{{{len(match[0])}}})")
    return re.compile("".join(parts) + re.escape(shown[end:])), names


class Shell:
    """A shell that goes on from command to command."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._input: IO[str] = _there(process.stdin)
        self._output: IO[str] = _there(process.stdout)

    def run(self, command: str) -> str:
        """What a command writes, with the white space that a reader would not see."""
        self._input.write(f"{command}\necho; echo = $?\n")
        self._input.flush()
        lines: list[str] = []
        while not (line := self._output.readline()).startswith("= "):
            assert line, lines
            lines.append(line)
        assert line == "= 0\n", (command, lines)
        return " ".join("".join(lines).split())


def _there(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@contextmanager
def running(command: list[str], stdin: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A process for the time of the block, with nothing of this one's environment."""
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.defpath, "HOME": "/nonexistent"}
    process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("path, begin, end", PLACES, ids=[place[0] for place in PLACES])
def test_first_steps(tmp_path: Path, path: str, begin: str, end: str) -> None:
    """The document's commands, fewer than ten, make an administrator, a tenant, a repository, a job and its run, and
    print what the document shows."""
    text = (ROOT / path).read_text()
    start, *rest = steps(text[text.index(begin) : text.index(end)])
    assert len(rest) < 9
    files = tmp_path / "files"
    files.mkdir()
    (files / "letter").write_text("Dear reader")
    known = {"/var/lib/backupforge": str(tmp_path / "data"), "/srv/data": str(files)}

    def given(command: str) -> str:
        for name, value in known.items():
            command = command.replace(name, value)
        return command

    def matches(step: Step, said: str) -> bool:
        form, names = pattern(step.shown)
        match = form.search(said)
        if match is not None:
            known.update(zip(names, match.groups(), strict=True))
        return match is not None

    program, *arguments = shlex.split(given(start.command))
    assert program in ("backupforge", "bf")
    served = [sys.executable, "-m", "cli", *arguments, "--listen", "127.0.0.1:0"]
    with running(served) as server, running(["bash"], stdin=subprocess.PIPE) as bash:
        said = " ".join(" ".join(_there(server.stdout).readline() for _line in range(3)).split())
        assert matches(start, said), said
        known["localhost:8420"] = said.split("://")[1].split()[0]
        shell = Shell(bash)
        for step in rest:
            deadline = time.monotonic() + LIMIT_S
            while not matches(step, said := shell.run(given(step.command))):
                assert not {"--json", "-X"} & set(step.command.split()), (step, said)
                assert time.monotonic() < deadline, (step, said)
                time.sleep(0.2)
