"""The documentation says what the program does: every command, flag, exit code and variable is in it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import click
import pytest

from cli.exit_codes import MEANINGS
from cli.main import COMMANDS, program
from cli.options import Command, Group
from cli.profiles import CheckTable, ForgetTable, Profile, PruneTable, keys_of
from cli.settings import VARIABLES
from tests.support.program import ROOT

DOCS = ROOT / "docs" / "reference"


def flags_of(command: click.Command) -> set[str]:
    """The long names of all options of a command, and of the commands in it."""
    own = {name for each in command.params for name in each.opts if name.startswith("--")}
    return own.union(*map(flags_of, command.commands.values())) if isinstance(command, click.Group) else own


def test_generated_pages_are_as_they_would_be_generated() -> None:
    """Whoever changes a command runs scripts/make-man."""
    done = subprocess.run(
        [sys.executable, "scripts/make-man", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_in_the_manual(name: str) -> None:
    """The page of a command and the reference name each of its flags."""
    context = click.Context(program)
    command = program.get_command(context, name)
    assert isinstance(command, Command | Group)
    page = (ROOT / "man" / f"backupforge-{name}.1").read_text().replace("\\-", "-")
    reference = (DOCS / "commands.md").read_text()
    flags = flags_of(command) - flags_of(program)

    assert {flag for flag in flags if flag not in page} == set()
    assert {flag for flag in flags if flag not in reference} == set()


def test_every_global_flag_is_in_the_manual() -> None:
    """backupforge(1) and the reference name each global flag."""
    pages = [(ROOT / "man" / "backupforge.1").read_text().replace("\\-", "-"), (DOCS / "commands.md").read_text()]

    assert {flag for flag in flags_of(program) for page in pages if flag not in page} == set()


def test_every_exit_code_is_documented() -> None:
    """The reference and backupforge-exit-codes(7) list the codes of the program, no others."""
    reference = re.findall(r"^\| (\d+) \| (.*?) \|", (DOCS / "exit-codes.md").read_text(), re.MULTILINE)
    page = re.findall(r"^\.B (\d+)$", (ROOT / "man" / "backupforge-exit-codes.7").read_text(), re.MULTILINE)

    assert {int(code): meaning for code, meaning in reference} == MEANINGS
    assert [int(code) for code in page] == list(MEANINGS)


def test_every_variable_is_documented() -> None:
    """The reference lists the variables that the program knows, no others."""
    documented = re.findall(r"^\| `([A-Z_]+)` \|", (DOCS / "environment.md").read_text(), re.MULTILINE)

    assert documented == list(VARIABLES)


def test_every_variable_that_is_read_is_known() -> None:
    """What settings.py asks the environment for is in its own list."""
    source = (ROOT / "cli" / "settings.py").read_text()
    read = set(re.findall(r'(?:environment\.get\(|environment, )"([A-Z_]+)"', source)) - {"HOME"}

    assert read - set(VARIABLES) == set()
    assert {"BACKUPFORGE_REPOSITORY", "BACKUPFORGE_PASSWORD", "NO_COLOR"} <= read


def test_every_profile_setting_is_documented() -> None:
    """backupforge-profile(5) describes what a profile and the tables in it may set, nothing else."""
    page = (ROOT / "man" / "backupforge-profile.5").read_text().replace("\\-", "-")
    settings = page.partition(".SH SETTINGS")[2].partition(".SH")[0]
    known = [keys_of(kind) for kind in (Profile, ForgetTable, PruneTable, CheckTable)]

    assert sorted(re.findall(r"^\.T[PQ]\n\.B ([a-z-]+)$", settings, re.MULTILINE)) == sorted(chain(*known))


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
@pytest.mark.parametrize("page", sorted((ROOT / "man").iterdir()), ids=lambda page: page.name)
def test_manual_pages_are_sound(page: Path) -> None:
    """groff has nothing to say about any page."""
    done = subprocess.run(
        ["groff", "-man", "-t", "-ww", "-z", "-Tutf8", page], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
