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
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.compare import (
    MEMORY_FOR_TOOL,
    PASSWORD,
    BenchmarkError,
    Goal,
    Key,
    Measure,
    Pipeline,
    Scene,
    Tool,
    aligned,
    existing_directory,
    exit_status,
    find_program,
    goal_ratio,
    medians,
    memory_at_hand,
    note,
    positive,
    ratio,
    rotated,
    run,
    show_ratio,
    show_value,
    tool_environment,
    tree_bytes,
    unsteady,
    verdict,
    version_of,
    workplace,
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


def measure_all(
    contenders: Sequence[Contender], sources: tuple[Path, ...], root: Path, rounds: int
) -> dict[Key, list[float]]:
    """All rounds of all tools: each figure's values, one per round."""
    samples: dict[Key, list[float]] = {}
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


# --- showing ---


def figure_table(middles: dict[Key, float], tools: Sequence[str]) -> str:
    """All figures: for each tool the median and its ratio against restic."""
    rows = [["linux 6.1 and 6.12", *(cell for tool in tools for cell in (tool, ""))]]
    for phase, title in TITLES.items():
        for quantity, what in QUANTITIES.items():
            if quantity == "added_bytes" and phase not in SIZED:
                continue
            row = [f"{title}, {what}"]
            for tool in tools:
                key = Key(tool, CORPUS, phase, quantity)
                row += [show_value(quantity, middles.get(key)), show_ratio(quantity, ratio(middles, key))]
            rows.append(row)
    return aligned(rows)


def goal_table(middles: dict[Key, float]) -> str:
    """Each goal with what was reached and whether it is met."""
    rows = [["goal (ratio against restic)", "reached", "must", "aim", "verdict"]]
    for goal in GOALS:
        reached = goal_ratio(middles, goal)
        shown = (show_ratio(goal.quantity, each) for each in (reached, goal.must, goal.aim))
        rows.append([goal.title, *shown, verdict(goal, reached)])
    return aligned(rows)


def as_json(samples: dict[Key, list[float]], versions: dict[str, str], rounds: int) -> str:
    """The whole run as a JSON document, in the form of compare.py's."""
    middles = medians(samples)
    figures = [
        key._asdict() | {"samples": values, "median": middles[key], "ratio": ratio(middles, key)}
        for key, values in samples.items()
    ]
    goals = []
    for goal in GOALS:
        reached = goal_ratio(middles, goal)
        goals.append(asdict(goal) | {"reached": reached, "verdict": verdict(goal, reached)})
    machine = {"cpus": os.cpu_count(), "architecture": platform.machine(), "kernel": platform.release()}
    document = {"rounds": rounds, "machine": machine, "versions": versions, "figures": figures, "goals": goals}
    return json.dumps(document, indent=2) + "\n"


# --- the command line ---


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = argparse.ArgumentParser(prog="upkeep.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--peers", type=existing_directory, required=True, metavar="DIR", help="holds the program restic")
    add("--corpus", type=existing_directory, required=True, metavar="DIR", help="holds linux and linux12")
    add("--work", type=existing_directory, default="/dev/shm", metavar="DIR", help="(default: %(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often to run everything (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    add("--backupforge", type=shlex.split, default=["backupforge"], metavar="CMD", help="how backupforge is started")
    return made


def compare(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the tables, writes the JSON."""
    for name in SOURCES:
        if not (arguments.corpus / name).is_dir():
            raise BenchmarkError(f"there is no {arguments.corpus / name}: get it first")
    contenders = [make_contender(name, arguments.peers, arguments.backupforge) for name in TOOLS]
    versions = {each.name: version_of(each.tool) for each in contenders}
    with workplace(arguments.corpus, SOURCES, arguments.work) as (root, sources):
        samples = measure_all(contenders, sources, root, arguments.rounds)
    middles = medians(samples)
    print(f"\n{figure_table(middles, TOOLS)}")
    print(f"\n{goal_table(middles)}")
    for key in unsteady(samples):
        note(f"unsteady: {key.tool}, {TITLES[key.phase]}: {samples[key]} s; was the machine busy?")
    if arguments.json:
        arguments.json.write_text(as_json(samples, versions, arguments.rounds))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status("upkeep.py", parser().parse_args(argv), compare)


if __name__ == "__main__":
    # SIGTERM ends the run like Ctrl-C: children killed, directories removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
