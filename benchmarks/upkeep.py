"""Runs the commands that keep a repository in shape, of backupforge and restic, side by side.

Both back up the Linux 6.1 tree and then 6.12 into one repository, which is not timed. What is timed, each as one whole
process: check without data, diff of the two trees, find, copy of everything to a second repository, and, once the
first snapshot is forgotten, the plan of a prune and the prune. In the first round both repositories are checked at the
end. Rounds, turns and memory at hand are as in compare.py; benchmarks/README.md says what each figure means.

    python -m benchmarks.upkeep --peers DIR --corpus DIR
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import Goal, Key, Report, Samples
from benchmarks.options import common_options, exit_status, start
from benchmarks.places import MEMORY_FOR_TOOL, memory_at_hand, tree_bytes, workplace
from benchmarks.running import (
    PASSWORD,
    BenchmarkError,
    Measure,
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

TOOLS = ("backupforge", "restic")
CORPUS = "linux"
SOURCES = ("linux", "linux12")
PATTERN = "Makefile"

TITLES = {
    "check": "check",
    "diff": "diff 6.1 6.12",
    "find": "find Makefile",
    "copy": "copy",
    "plan": "prune --dry-run",
    "prune": "prune",
}
"""What is timed, in this order."""
SIZED = ("copy", "prune")
"""After these phases a repository has another size: that of the copy, and what the prune left."""
QUANTITIES = {"wall_s": "time", "cpu_s": "CPU", "peak_bytes": "peak memory", "added_bytes": "size"}
GOALS = tuple(Goal(f"linux, {title}", CORPUS, phase, "wall_s", 2, 3) for phase, title in TITLES.items())


@dataclass(frozen=True, slots=True)
class Commands:
    """What a tool is called with. `start` opens the repository; IDs are those of the 6.1 and the 6.12 snapshot."""

    setup: list[Pipeline]
    list_snapshots: list[str]
    phases: Callable[[list[str]], dict[str, Pipeline]]
    forget: Callable[[list[str]], Pipeline]
    checks: list[Pipeline]


def copy_place(scene: Scene) -> str:
    """Where the second repository is."""
    return str(scene.root / "copy")


def backupforge(program: list[str], scene: Scene) -> Commands:
    """backupforge with its defaults, but for the grace time: restic has none, and deletes at once."""
    start = [*program, "-r", scene.repository, "--cache-dir", scene.cache]
    second = [*program, "-r", copy_place(scene), "--cache-dir", scene.cache]
    init_second = [*second, "init", "--copy-chunker-from", scene.repository]
    return commands(
        scene, start, second, init_second, ["list"], ["copy", "--to", copy_place(scene)], ["prune", "--grace", "0"]
    )


def restic(program: str, scene: Scene) -> Commands:
    """restic with its defaults."""
    start = [program, "-r", scene.repository, "--cache-dir", scene.cache]
    second = [program, "-r", copy_place(scene), "--cache-dir", scene.cache]
    init_second = [*second, "init", "--copy-chunker-params", "--from-repo", scene.repository]
    made = commands(scene, start, second, init_second, ["snapshots"], [], ["prune"])

    def phases(ids: list[str]) -> dict[str, Pipeline]:
        return {**made.phases(ids), "copy": [[*second, "copy", "--from-repo", scene.repository]]}

    return Commands(made.setup, made.list_snapshots, phases, made.forget, made.checks)


def commands(
    scene: Scene,
    start: list[str],
    second: list[str],
    init_second: list[str],
    listing: list[str],
    copy: list[str],
    prune: list[str],
) -> Commands:
    """The command lines that both tools have in common."""
    old, new = scene.sources

    def phases(ids: list[str]) -> dict[str, Pipeline]:
        return {
            "check": [[*start, "check"]],
            "diff": [[*start, "diff", f"{ids[0]}:{old}", f"{ids[1]}:{new}"]],
            "find": [[*start, "find", PATTERN]],
            "copy": [[*start, *copy]],
            "plan": [[*start, *prune, "--dry-run"]],
            "prune": [[*start, *prune]],
        }

    return Commands(
        setup=[
            [[*start, "init"]],
            [[*start, "backup", str(old)]],
            [[*start, "backup", str(new)]],
            [init_second],
        ],
        list_snapshots=[*start, *listing, "--json"],
        phases=phases,
        forget=lambda ids: [[*start, "forget", ids[0]]],
        checks=[[[*start, "check"]], [[*second, "check"]]],
    )


VARIABLES = {
    "backupforge": dict.fromkeys(
        ("BACKUPFORGE_PASSWORD", "BACKUPFORGE_TO_PASSWORD", "BACKUPFORGE_FROM_PASSWORD"), PASSWORD
    ),
    "restic": {"RESTIC_PASSWORD": PASSWORD, "RESTIC_FROM_PASSWORD": PASSWORD},
}


@dataclass(frozen=True, slots=True)
class Contender:
    """A tool, and the commands that it has for a scene."""

    tool: Tool
    commands: Callable[[Scene], Commands]

    @property
    def name(self) -> str:
        return self.tool.name


def make_contender(name: str, peers: Path, command: list[str]) -> Contender:
    """One of TOOLS, ready to run. Raises BenchmarkError when its program is not there."""
    if name == "backupforge":
        program = [find_program(command[0]), *command[1:]]
        tool = Tool(name, [*program, "--version"], lambda _: {}, lambda _: VARIABLES[name])
        return Contender(tool, lambda scene: backupforge(program, scene))
    found = find_program(str(peers / name))
    return Contender(
        Tool(name, [found, "version"], lambda _: {}, lambda _: VARIABLES[name]), lambda s: restic(found, s)
    )


# --- measuring ---


def take_turn(contender: Contender, scene: Scene, *, verify: bool) -> Iterator[tuple[str, Measure]]:
    """One tool through everything, with fresh repositories. Yields each phase's figures as it ends."""
    given = contender.commands(scene)
    environment = tool_environment(contender.tool, scene)
    scene.target.mkdir(parents=True)

    def do(pipeline: Pipeline) -> Measure:
        return run(pipeline, cwd=scene.target, environment=environment, log_path=scene.root / "log")

    for pipeline in given.setup:
        do(pipeline)
    ids = snapshot_ids(given.list_snapshots, environment)
    for phase, pipeline in given.phases(ids).items():
        if phase == "plan":
            do(given.forget(ids))
        with memory_at_hand(scene.root, scene.needs_bytes):
            measure = do(pipeline)
        place = copy_place(scene) if phase == "copy" else scene.repository
        size = tree_bytes(Path(place)) if phase in SIZED else 0
        yield phase, Measure(measure.wall_s, measure.cpu_s, measure.peak_bytes, size)
    if verify:
        for pipeline in given.checks:
            do(pipeline)


def snapshot_ids(command: list[str], environment: dict[str, str]) -> list[str]:
    """The IDs of all snapshots, oldest first."""
    answer = subprocess.run(command, env=environment, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    return [each["id"] for each in sorted(json.loads(answer.stdout), key=lambda each: each["time"])]


def measure_all(contenders: Sequence[Contender], sources: tuple[Path, ...], root: Path, rounds: int) -> Samples:
    """All rounds of all tools: each figure's values, one per round."""
    samples: Samples = {}
    needs_bytes = max(map(tree_bytes, sources)) + MEMORY_FOR_TOOL
    for number in range(rounds):
        for tool in rotated([each.tool for each in contenders], number):
            contender = next(each for each in contenders if each.tool is tool)
            scene = Scene(root / "turn", sources, needs_bytes)
            try:
                for phase, measure in take_turn(contender, scene, verify=number == 0):
                    note(f"round {number + 1}, {contender.name}, {TITLES[phase]}: {measure.wall_s:.2f} s")
                    for quantity, value in asdict(measure).items():
                        if quantity != "added_bytes" or phase in SIZED:
                            samples.setdefault(Key(contender.name, CORPUS, phase, quantity), []).append(value)
            finally:
                shutil.rmtree(scene.root, ignore_errors=True)
    return samples


# --- the command line ---


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    return common_options("upkeep.py", __doc__, "the program restic", "linux and linux12")


def compare(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the tables, writes the JSON."""
    for name in SOURCES:
        if not (arguments.corpus / name).is_dir():
            raise BenchmarkError(f"there is no {arguments.corpus / name}: get it first")
    contenders = [make_contender(name, arguments.peers, arguments.backupforge) for name in TOOLS]
    versions = {each.name: version_of(each.tool) for each in contenders}
    with workplace(arguments.corpus, SOURCES, arguments.work) as (root, sources):
        samples = measure_all(contenders, sources, root, arguments.rounds)
    Report({CORPUS: TITLES}, QUANTITIES, GOALS).show(samples, versions, arguments.rounds, arguments.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(parser(), argv, compare)


if __name__ == "__main__":
    start(main)
