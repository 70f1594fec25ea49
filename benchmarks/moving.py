"""How long it takes to move in: a repository of restic is imported, beside a first backup of what is in it.

restic backs up the Linux 6.1 tree, which is not timed. What is timed, each as one whole process: the import of that
repository by backupforge, a first backup of the tree by backupforge, and `restic copy` to a second repository of
restic, which is the same task for restic. Each begins with an empty repository and an empty cache. Rounds and memory at
hand are as in compare.py; benchmarks/README.md says what each figure means.

    python -m benchmarks.moving --peers DIR --corpus DIR
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Goal, Key, Report, Samples
from benchmarks.options import common_options, exit_status, start
from benchmarks.places import MEMORY_FOR_TOOL, memory_at_hand, tree_bytes, workplace
from benchmarks.running import (
    PASSWORD,
    Pipeline,
    Scene,
    Tool,
    find_program,
    note,
    rotated,
    run,
    tool_environment,
    version_of,
)

CORPUS = "linux"
PHASES = {"move": "move in"}
QUANTITIES = {"wall_s": "time", "cpu_s": "CPU", "peak_bytes": "peak memory", "added_bytes": "size"}
BACKUP = "first backup"
GOALS = (
    Goal("import, against a first backup", CORPUS, "move", "wall_s", 0.5, 1, against=BACKUP),
    Goal("import, against restic copy", CORPUS, "move", "wall_s", None, 1),
)
VARIABLES = dict.fromkeys(
    ("BACKUPFORGE_PASSWORD", "BACKUPFORGE_FROM_PASSWORD", "RESTIC_PASSWORD", "RESTIC_FROM_PASSWORD"), PASSWORD
)


def make_tools(backupforge: list[str], restic: str, old: Path) -> list[Tool]:
    """What takes part. Each has a command for `init` and one for the phase; `old` is the repository to move from."""

    def ours(scene: Scene, *work: str) -> dict[str, Pipeline]:
        begin = [*backupforge, "-r", scene.repository, "--cache-dir", scene.cache]
        return {"init": [[*begin, "init"]], "move": [[*begin, *work]]}

    def theirs(scene: Scene) -> dict[str, Pipeline]:
        begin = [restic, "-r", scene.repository, "--cache-dir", scene.cache]
        init = [*begin, "init", "--copy-chunker-params", "--from-repo", str(old)]
        return {"init": [init], "move": [[*begin, "copy", "--from-repo", str(old)]]}

    version = [*backupforge, "--version"]
    return [
        Tool("backupforge", version, lambda scene: ours(scene, "import", f"restic:{old}"), lambda _: VARIABLES),
        Tool(BACKUP, version, lambda scene: ours(scene, "backup", str(scene.sources[0])), lambda _: VARIABLES),
        Tool("restic", [restic, "version"], theirs, lambda _: VARIABLES),
    ]


def make_old(restic: str, source: Path, old: Path, root: Path) -> None:
    """The repository to move from. Raises BenchmarkError."""
    scene = Scene(root / "old", (source,), 0)
    scene.target.mkdir(parents=True)
    begin = [restic, "-r", str(old), "--cache-dir", scene.cache]
    tool = Tool("restic", [restic, "version"], lambda _: {}, lambda _: VARIABLES)
    for work in (["init"], ["backup", str(source)]):
        environment = tool_environment(tool, scene)
        run([[*begin, *work]], cwd=scene.target, environment=environment, log_path=scene.root / "log")
    shutil.rmtree(scene.root)


def take_turn(tool: Tool, scene: Scene) -> dict[str, float]:
    """One tool, from an empty repository on: what it took and what it stored."""
    commands, environment, log = tool.commands(scene), tool_environment(tool, scene), scene.root / "log"
    scene.target.mkdir(parents=True)
    run(commands["init"], cwd=scene.target, environment=environment, log_path=log)
    with memory_at_hand(scene.root, scene.needs_bytes):
        measure = run(commands["move"], cwd=scene.target, environment=environment, log_path=log)
    return {**asdict(measure), "added_bytes": tree_bytes(Path(scene.repository))}


def compare(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the tables, writes the JSON."""
    command = arguments.backupforge
    backupforge, restic = [find_program(command[0]), *command[1:]], find_program(str(arguments.peers / "restic"))
    samples: Samples = {}
    with workplace(arguments.corpus, [CORPUS], arguments.work) as (root, (source,)):
        old = root / "restic"
        note("restic backs up what will be moved")
        make_old(restic, source, old, root)
        tools = make_tools(backupforge, restic, old)
        versions = {tool.name: version_of(tool) for tool in tools}
        for number in range(arguments.rounds):
            for tool in rotated(tools, number):
                scene = Scene(root / "turn", (source,), tree_bytes(source) + MEMORY_FOR_TOOL)
                try:
                    figures = take_turn(tool, scene)
                finally:
                    shutil.rmtree(scene.root, ignore_errors=True)
                note(f"round {number + 1}, {tool.name}: {figures['wall_s']:.2f} s")
                for quantity, value in figures.items():
                    samples.setdefault(Key(tool.name, CORPUS, "move", quantity), []).append(value)
    Report({CORPUS: PHASES}, QUANTITIES, GOALS).show(samples, versions, arguments.rounds, arguments.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(common_options("moving.py", __doc__, "the program restic", "linux"), argv, compare)


if __name__ == "__main__":
    start(main)
