"""The program: a table of commands that are loaded when they are used, and how every way of ending is reported.

`--help`, `--version` and completion import nothing but click and the standard library.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn, cast

import click

from cli.options import global_options
from cli.version import VERSION


class Entry(NamedTuple):
    """One line of the command table."""

    module: str
    section: str
    summary: str


_KEEP: Final = "Back up and restore"
_LOOK: Final = "Look inside"
_CARE: Final = "Look after it"
_MOVE: Final = "From and to other programs"
_AUTOMATE: Final = "Let it run by itself"
_REST: Final = "The program"

COMMANDS: Final = {
    "init": Entry("cli.commands.init", _KEEP, "Make a new repository."),
    "backup": Entry("cli.commands.backup", _KEEP, "Make a snapshot of files and directories."),
    "restore": Entry("cli.commands.restore", _KEEP, "Write a snapshot back."),
    "list": Entry("cli.commands.list", _LOOK, "List snapshots, or the IDs of what is stored (also: snapshots)."),
    "ls": Entry("cli.commands.ls", _LOOK, "List the files in a snapshot."),
    "find": Entry("cli.commands.find", _LOOK, "Find files, blobs and packs across snapshots."),
    "history": Entry("cli.commands.history", _LOOK, "List every version of a path, across snapshots."),
    "diff": Entry("cli.commands.diff", _LOOK, "Show what changed between two snapshots."),
    "dump": Entry("cli.commands.dump", _LOOK, "Write a file, or a directory as tar or zip, to standard output."),
    "mount": Entry("cli.commands.mount", _LOOK, "Show snapshots as directories."),
    "umount": Entry("cli.commands.umount", _LOOK, "End a mount."),
    "stats": Entry("cli.commands.stats", _LOOK, "Show what snapshots cost: sizes and ratios."),
    "check": Entry("cli.commands.check", _CARE, "Is everything there, and right?"),
    "forget": Entry("cli.commands.forget", _CARE, "Remove snapshots by rules, and say why each is kept."),
    "prune": Entry("cli.commands.prune", _CARE, "Free the space that no snapshot needs."),
    "repair": Entry("cli.commands.repair", _CARE, "Mend what is damaged: plan first, destroy nothing."),
    "tag": Entry("cli.commands.tag", _CARE, "Change tags and labels of snapshots."),
    "rewrite": Entry("cli.commands.rewrite", _CARE, "Drop paths from old snapshots."),
    "copy": Entry("cli.commands.copy", _CARE, "Copy snapshots to another repository."),
    "storage": Entry("cli.commands.storage", _CARE, "Try out a storage: is it right, and how fast?"),
    "key": Entry("cli.commands.key", _CARE, "List, add, remove and change passwords."),
    "import": Entry("cli.commands.imports", _MOVE, "Make snapshots of a tar archive or a restic repository."),
    "export": Entry("cli.commands.export", _MOVE, "Write a snapshot as a tar archive."),
    "vma": Entry("cli.commands.vma", _MOVE, "Unpack and make archives of virtual machines (VMA)."),
    "proxmox": Entry("cli.commands.proxmox", _MOVE, "Back up and restore guests of Proxmox VE."),
    "run": Entry("cli.commands.run", _AUTOMATE, "Back up, forget, prune and check as a profile says."),
    "schedule": Entry("cli.commands.schedule", _AUTOMATE, "Run profiles at fixed times, by systemd or cron."),
    "server": Entry("cli.commands.server", _AUTOMATE, "Serve statistics, snapshots, jobs and stores over HTTP."),
    "worker": Entry("cli.commands.worker", _AUTOMATE, "Run the jobs of a server that leaves them to workers."),
    "mcp": Entry("cli.commands.mcp", _AUTOMATE, "Let an assistant look into snapshots (MCP)."),
    "cache": Entry("cli.commands.cache", _REST, "Show and remove what is kept on this machine."),
    "version": Entry("cli.commands.version", _REST, "Show the versions of the program and what it uses."),
    "doctor": Entry("cli.commands.doctor", _REST, "Say what this machine lacks, and how to get it."),
    "completion": Entry("cli.commands.completion", _REST, "Print the script that completes commands in a shell."),
}
"""Every command, in the order of the help. To add one: a line here, and a module with the command as `run`."""

ALIASES: Final = {"snapshots": "list"}


class Program(click.Group):
    """The command table as click sees it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one command."""
        entry = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        return cast("click.Command", importlib.import_module(entry.module).run) if entry else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table by sections, without loading any command."""
        width = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (f"{name:<{width}}", entry.summary)
                        for name, entry in COMMANDS.items()
                        if entry.section == section
                    ]
                )


program = Program(
    "backupforge",
    params=[*global_options()],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""Deduplicated, compressed, encrypted backups.

    Global options may stand before or after the command. An option beats its environment variable, which beats the
    profile. 'backupforge COMMAND --help' shows what a command takes, examples, and its exit codes.""",
)
click.version_option(VERSION, prog_name="backupforge", message="%(prog)s %(version)s")(program)


def run(arguments: Sequence[str], name: str) -> int:
    """Run one command line; its exit status. Errors are reported here, once, whatever they are."""
    try:
        status = program.main(args=list(arguments), prog_name=name, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except Exception as error:
        from cli.failures import report_failure

        return report_failure(error, arguments)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of `backupforge` and `bf`."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        _never_fail_to_encode(stream)
    name = "bf" if sys.argv[0].rpartition("/")[2] == "bf" else "backupforge"
    _leave(run(sys.argv[1:] if arguments is None else arguments, name))


def _leave(status: int) -> NoReturn:
    """End at once: to take apart what is in memory, piece by piece, takes a tenth of a second after a large backup.

    Nothing is lost by it, as whatever a command opens it has closed when it returns. A pipe that nobody reads from any
    more is left to the usual way out.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        sys.exit(status)
    os._exit(status)


def _open_standard_streams() -> None:
    """Whoever starts us may have closed some: no file that is opened later may get their numbers, and be written to."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.dup(fd)
    os.close(fd)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 (as long as the program runs)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _never_fail_to_encode(stream: Any) -> None:
    """A terminal that cannot show a character gets its escape, never an exception."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
