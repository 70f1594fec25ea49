"""The picture of a terminal in the documentation: what it shows is what a terminal would show."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "terminal-picture"


def shoot(folder: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Draws picture.svg in the folder."""
    (folder / "commands").write_text(commands)
    command = [sys.executable, str(SCRIPT), "commands", "picture.svg"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def shown(folder: Path) -> list[str]:
    """The lines of text in picture.svg. Spaces between words of different looks are not in it, so all are left out."""
    rows: dict[float, str] = {}
    pieces = re.findall(r'<text [^>]*? y="([\d.]+)"[^>]*>(.*?)</text>', (folder / "picture.svg").read_text())
    for row, text in pieces:
        rows[float(row)] = rows.get(float(row), "") + html.unescape(text).replace("\xa0", "")
    return [rows[row] for row in sorted(rows)]


def test_the_picture_shows_what_the_terminal_shows(tmp_path: Path) -> None:
    """Remarks, commands and their output are in the picture; what a command wrote over is not."""
    done = shoot(tmp_path, "# a remark\nprintf 'half done\\rall\\e[K\\n'\ncd /\npwd\n")

    assert (done.returncode, done.stderr) == (0, "")
    assert shown(tmp_path) == ["#aremark", r"$printf'halfdone\rall\e[K\n'", "all", "$cd/", "$pwd", "/"]


def test_the_picture_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    """No picture loads a font or anything else from a server."""
    shoot(tmp_path, "echo done\n")

    assert re.findall(r"https?://(?!www\.w3\.org/)", (tmp_path / "picture.svg").read_text()) == []


def test_a_command_that_fails_makes_no_picture(tmp_path: Path) -> None:
    """A failing command ends everything, and its output is told."""
    done = shoot(tmp_path, "echo why\nfalse\n")

    assert done.returncode == 1
    assert "exit status 1" in done.stderr
    assert "why" in done.stderr
    assert not (tmp_path / "picture.svg").exists()
