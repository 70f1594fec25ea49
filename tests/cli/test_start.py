"""Starting: help, version and completion, which must not wait for the library."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import cli.commands
from bfrepo.repository.config import FORMAT_VERSION
from cli.exit_codes import MEANINGS
from cli.main import ALIASES, COMMANDS, program
from cli.options import Command
from cli.version import VERSION
from tests.support.program import ROOT, Bf, process_environment

pytestmark = pytest.mark.usefixtures("clean_environment")

HEAVY = ("msgspec", "cryptography", "zstandard", "lz4", "blake3", "borghash", "argon2", "concurrent.futures")


def all_commands() -> Iterator[tuple[str, Command]]:
    """Every command that does something, by the words that call it."""
    context = click.Context(program, info_name="backupforge")
    for name in program.list_commands(context):
        found = program.get_command(context, name)
        if isinstance(found, click.Group):
            yield from ((f"{name} {sub}", each) for sub, each in found.commands.items() if isinstance(each, Command))
        elif isinstance(found, Command):
            yield name, found


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], [], *([name, "--help"] for name in COMMANDS), ["completion", "zsh"]],
    ids=" ".join,
)
def test_help_version_and_completion_import_only_click_and_the_standard_library(arguments: list[str]) -> None:
    """What says how the program is used loads nothing that is needed to use it."""
    script = f"""
import sys
from cli.main import run
run({arguments!r}, "backupforge")
print(sorted(name for name in sys.modules if name in {HEAVY!r}), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=process_environment({}), check=True
    )

    assert done.stderr.splitlines()[-1] == "[]"


def test_help_answers_at_once() -> None:
    """`backupforge --help` needs less than 0.15 s of a processor: time on the clock depends on who else is at work."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "cli", "--help"], stdout=subprocess.DEVNULL, env=process_environment({}), check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.15


def test_the_table_names_what_is_there() -> None:
    """Every line of the command table loads a command of that name, and every module is in the table."""
    context = click.Context(program)
    modules = {f"cli.commands.{path.stem}" for path in Path(cli.commands.__path__[0]).glob("*.py")}

    assert [program.get_command(context, name).name for name in COMMANDS] == list(COMMANDS)  # type: ignore[union-attr]
    assert {entry.module for entry in COMMANDS.values()} == modules - {"cli.commands.__init__"}
    assert set(ALIASES.values()) <= set(COMMANDS)


def test_the_table_says_what_the_commands_say() -> None:
    """The one line about a command is the same in the table and in the command."""
    loaded = {name: importlib.import_module(entry.module).run.short_help for name, entry in COMMANDS.items()}

    assert {
        name: entry.summary.removesuffix(" (also: snapshots).").rstrip(".") for name, entry in COMMANDS.items()
    } == {name: text.rstrip(".") for name, text in loaded.items()}


@pytest.mark.parametrize(("name", "command"), list(all_commands()))
def test_help_has_examples_and_exit_codes(bf: Bf, name: str, command: Command) -> None:
    """The help of every command shows an example of it, and what each exit code of it means."""
    shown = bf(*name.split(), "--help")

    assert shown.status == 0
    assert any(f"backupforge {name}" in text for text, _ in command.examples)
    assert all(text in shown.out for text, _ in command.examples)
    said = [line.split(maxsplit=1) for line in shown.out.splitlines()]
    assert [code for code in command.exit_codes if [str(code), MEANINGS[code]] not in said] == []


@pytest.mark.parametrize(("name", "command"), list(all_commands()))
def test_examples_parse(name: str, command: Command) -> None:
    """Every example is a command line that the program takes."""
    import shlex

    for text, _ in command.examples:
        words = shlex.split(text.partition(" > ")[0].partition(" | ")[0])
        if words[0] != "backupforge":
            continue
        with click.Context(program) as root:
            root_arguments = words[1:]
            context = program.make_context("backupforge", root_arguments, parent=root)
            _, found, rest = program.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            found.make_context(found.name, rest, parent=context)


def test_the_version_is_that_of_the_package(bf: Bf) -> None:
    """The version in the program is the one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == VERSION
    assert bf("--version").out == f"backupforge {VERSION}\n"


def test_both_names_start_the_program() -> None:
    """`backupforge` and `bf` are the same entry point."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]

    assert scripts == {"backupforge": "cli.main:main", "bf": "cli.main:main"}


def test_no_arguments_show_the_help(bf: Bf) -> None:
    """Without a command the help is shown, and the exit code says that this was no use of the program."""
    shown = bf()

    assert shown.status == 2
    assert "Back up and restore" in shown.out + shown.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_both_names(bf: Bf, shell: str) -> None:
    """The script completes `backupforge` and `bf`."""
    script = bf("completion", shell)

    assert script.status == 0
    assert "_BACKUPFORGE_COMPLETE" in script.out
    assert "_BF_COMPLETE" in script.out


def test_completion_completes(process: Bf) -> None:
    """The shell is told the commands that begin like what was typed."""
    asked = {"_BACKUPFORGE_COMPLETE": "bash_complete", "COMP_WORDS": "backupforge res", "COMP_CWORD": "1"}

    assert process(**asked).out == "plain,restore\n"


def test_version_tells_about_libraries(bf: Bf) -> None:
    """`version --json` has the number of every library that the program depends on."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    told = bf("version", "--json").document

    assert set(told["libraries"]) == {each.partition(">")[0] for each in dependencies}
    assert all(told["libraries"].values())
    assert (told["version"], told["repository_format"]) == (VERSION, FORMAT_VERSION)
