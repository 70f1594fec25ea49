#!/usr/bin/env python3
"""Backs up the Linux 6.1 tree of another host by SSH, and holds it against rsync, and restic on a mount by sshfs.

The host is this machine behind a real sshd of its own. Rounds take the tools in turn, a different one first each time,
and begin with nothing stored. benchmarks/README.md says what is measured.

    python -m benchmarks.hosts --peers DIR --corpus DIR
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Goal, Key, Report, Samples
from benchmarks.options import common_options, exit_status, names_option, start
from benchmarks.places import compare_trees
from benchmarks.running import (
    PASSWORD,
    BenchmarkError,
    Scene,
    Tool,
    find_program,
    note,
    rotated,
    run,
    tool_environment,
    version_of,
)
from tests.support.sshd import Sshd, serve

TOOLS = ("rsync", "backupforge", "restic")
TITLES = {"first": "first backup", "unchanged": "unchanged again"}
QUANTITIES = {"wall_s": "time", "cpu_s": "CPU here", "host_cpu_s": "CPU of the host"}
MOST = {"first": 1.3, "unchanged": 1.5}
"""How many times as long as rsync it may take."""
GOALS = tuple(
    Goal(f"linux, {title}, against rsync", "linux", phase, "wall_s", round(1 / MOST[phase], 3), 1.0, "rsync")
    for phase, title in TITLES.items()
)
_SETTLES_S = 30.0
_DESPITE_PROBLEMS = ("sh", "-c", '"$@" || test $? -eq 3', "sh")
"""Symlinks that sshfs does not read are no reason to end."""


@dataclass(frozen=True, slots=True)
class Host:
    """The host, and the tree there."""

    sshd: Sshd
    tree: Path

    @property
    def place(self) -> str:
        """Whom to ask."""
        return f"{getpass.getuser()}@127.0.0.1"

    @property
    def ssh(self) -> str:
        """The program that gets in."""
        return f"ssh -F {self.sshd.ssh}/config -p {self.sshd.port}"

    def cpu_s(self) -> float:
        """Seconds that the sessions so far have had, when they have ended."""
        deadline = time.monotonic() + _SETTLES_S
        while self.sshd.sessions() and time.monotonic() < deadline:
            time.sleep(0.01)
        fields = Path(f"/proc/{self.sshd.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[13:15])) / os.sysconf("SC_CLK_TCK")  # those of children that have ended: proc(5)


def make_tool(name: str, host: Host, arguments: argparse.Namespace) -> Tool:
    """One of TOOLS. Raises BenchmarkError when its program is not there."""
    if name == "rsync":
        program = [find_program("rsync")]

        def copy(scene: Scene) -> list[str]:
            return [*program, "-a", "-e", host.ssh, f"{host.place}:{host.tree}/", f"{scene.target}/"]

        return Tool(name, [*program, "--version"], lambda scene: phases([], copy(scene)), lambda _: {})
    ours = name == "backupforge"
    program = [find_program(arguments.backupforge[0]), *arguments.backupforge[1:]]
    if not ours:
        program = [find_program(str(arguments.peers / name))]
    variable = "BACKUPFORGE_PASSWORD" if ours else "RESTIC_PASSWORD"

    def commands(scene: Scene) -> dict[str, list[list[str]]]:
        start = [*program, "-r", scene.repository, "--cache-dir", scene.cache]
        if not ours:
            return phases([*start, "init"], [*_DESPITE_PROBLEMS, *start, "backup", str(scene.root / "mounted")])
        what = f"ssh://{host.place}:{host.sshd.port}{host.tree}"
        option = f"sftp.config-file={host.sshd.ssh}/config"
        return phases([*start, "init"], [*start, "backup", "-o", option, what])

    return Tool(name, [*program, "--version" if ours else "version"], commands, lambda _: {variable: PASSWORD})


def phases(init: list[str], backup: list[str]) -> dict[str, list[list[str]]]:
    """The command lines of a tool."""
    return {"init": [init] if init else [], "first": [backup], "unchanged": [backup]}


@contextmanager
def mounted(host: Host, place: Path) -> Iterator[None]:
    """The tree of the host, mounted by sshfs. Raises BenchmarkError."""
    place.mkdir()
    options = f"ro,ssh_command={host.ssh},cache_timeout=1"
    done = subprocess.run(
        [find_program("sshfs"), "-o", options, f"{host.place}:{host.tree}", place], capture_output=True, text=True
    )
    if done.returncode:
        raise BenchmarkError(f"sshfs: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["fusermount3", "-u", place], check=True)


def take_turn(tool: Tool, scene: Scene, host: Host, *, verify: bool) -> Iterator[tuple[str, dict[str, float]]]:
    """One tool through both phases, from nothing. Yields each phase's figures as it ends."""
    environment = tool_environment(tool, scene)
    scene.target.mkdir(parents=True)
    commands = tool.commands(scene)
    if commands["init"]:
        run(commands["init"], cwd=scene.root, environment=environment, log_path=scene.root / "log")
    for phase in TITLES:
        before = host.cpu_s()
        with ExitStack() as stack:
            if tool.name == "restic":
                stack.enter_context(mounted(host, scene.root / "mounted"))
            measure = run(commands[phase], cwd=scene.root, environment=environment, log_path=scene.root / "log")
        if tool.name == "restic":
            (scene.root / "mounted").rmdir()
        figures = {"wall_s": measure.wall_s, "cpu_s": measure.cpu_s, "host_cpu_s": host.cpu_s() - before}
        yield phase, figures
    if verify and tool.name == "backupforge":
        restored = scene.root / "restored"
        start = [*commands["first"][0][: commands["first"][0].index("backup")]]
        back = [*start, "restore", f"latest:{host.tree}", "--target", str(restored)]
        run([back], cwd=scene.root, environment=environment, log_path=scene.root / "log")
        compare_trees(host.tree, restored, tool.name)


def measure_all(host: Host, root: Path, arguments: argparse.Namespace) -> Samples:
    """All rounds of all tools: each figure's values, one per round."""
    samples: Samples = {}
    tools = [make_tool(name, host, arguments) for name in arguments.tools]
    for number in range(arguments.rounds):
        for tool in rotated(tools, number):
            scene = Scene(root / f"{tool.name}-{number}", (host.tree,), 0)
            try:
                for phase, figures in take_turn(tool, scene, host, verify=number == 0):
                    note(f"round {number + 1}, {tool.name}, {TITLES[phase]}: {figures['wall_s']:.2f} s")
                    for quantity, value in figures.items():
                        samples.setdefault(Key(tool.name, "linux", phase, quantity), []).append(value)
            finally:
                shutil.rmtree(scene.root, ignore_errors=True)
    return samples


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = common_options("hosts.py", __doc__, "the program restic", "linux")
    names_option(made, "--tools", TOOLS)
    return made


def compare(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the tables, writes the JSON."""
    tree = arguments.corpus / "linux"
    if not tree.is_dir():
        raise BenchmarkError(f"there is no {tree}: see benchmarks/README.md")
    if "restic" in arguments.tools and shutil.which("sshfs") is None:
        note("without restic: sshfs is not installed")
        arguments.tools.remove("restic")
    with tempfile.TemporaryDirectory(prefix="hosts-", dir=arguments.work) as name, _serve(Path(name)) as sshd:
        host = Host(sshd, tree.resolve())
        samples = measure_all(host, Path(name), arguments)
        versions = {each: version_of(make_tool(each, host, arguments)) for each in arguments.tools}
    report = Report({"linux": TITLES}, QUANTITIES, GOALS)
    report.show(samples, versions, arguments.rounds, arguments.json)


@contextmanager
def _serve(root: Path) -> Iterator[Sshd]:
    (root / "sshd").mkdir()
    with serve(root / "sshd") as sshd:
        yield sshd


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(parser(), argv, compare)


if __name__ == "__main__":
    start(main)
