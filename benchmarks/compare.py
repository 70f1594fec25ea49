"""Runs backupforge, restic, borg and `tar | zstd -3 -T2` side by side and says how they compare.

For each corpus: sources are copied to the work directory (tmpfs when there is room); then each round takes the tools
in turn, a different one first each time, so that drift of the machine hits all alike. A turn starts with a fresh
repository and fresh caches, runs every phase as one whole process, and leaves nothing behind. Before each phase the
memory it may need is fetched, so that no tool pays for that. The first restore of each tool is compared with its
source. Standard library only, Linux only. benchmarks/README.md says what each figure means.

    python -m benchmarks.compare --peers DIR --corpus DIR
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.figures import Goal, Key, Report, Samples
from benchmarks.options import common_options, exit_status, names_option, start
from benchmarks.places import MEMORY_FOR_TOOL, compare_trees, memory_at_hand, tree_bytes, workplace
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

TOOLS = ("backupforge", "restic", "borg", "tar")
SOURCES = {"linux": ("linux", "linux12"), "big": ("big",)}
PHASES = {"linux": ("first", "unchanged", "restore", "check", "next"), "big": ("first", "restore")}
TITLES = {
    "first": "first backup",
    "unchanged": "unchanged again",
    "restore": "restore",
    "check": "check --read-data",
    "next": "6.12 after 6.1",
}
QUANTITIES = {"wall_s": "time", "cpu_s": "CPU", "peak_bytes": "peak memory", "added_bytes": "added size"}
PEAKS = tuple(
    Goal(f"{corpus}, {TITLES[phase]}, peak memory", corpus, phase, "peak_bytes", 1.3, 1.0)
    for corpus, phases in PHASES.items()
    for phase in phases
)
GOALS = (
    Goal("linux, first backup", "linux", "first", "wall_s", 2.5, 3.5),
    Goal("linux, first backup, against tar", "linux", "first", "wall_s", None, 1.0, against="tar"),
    Goal("linux, unchanged again", "linux", "unchanged", "wall_s", 3, 5),
    Goal("linux, restore", "linux", "restore", "wall_s", 2, 3.5),
    Goal("linux, check --read-data", "linux", "check", "wall_s", 2, 3),
    Goal("linux, repository size", "linux", "first", "added_bytes", 0.82, 0.78),
    Goal("linux 6.12 after 6.1, added size", "linux", "next", "added_bytes", 0.85, 0.75),
    Goal("big, first backup", "big", "first", "wall_s", 3, 4.5),
    Goal("big, restore", "big", "restore", "wall_s", 2, 3),
    *PEAKS,
)


# --- the tools: what each is called with ---


def backupforge(program: list[str]) -> Tool:
    """backupforge with its defaults."""

    def commands(scene: Scene) -> dict[str, Pipeline]:
        start = [*program, "-r", scene.repository, "--cache-dir", scene.cache]
        return mirroring_commands(start, scene)

    return Tool("backupforge", [*program, "--version"], commands, lambda _: {"BACKUPFORGE_PASSWORD": PASSWORD})


def restic(program: str) -> Tool:
    """restic with its defaults: compression auto."""

    def commands(scene: Scene) -> dict[str, Pipeline]:
        return mirroring_commands([program, "-r", scene.repository, "--cache-dir", scene.cache], scene)

    return Tool("restic", [program, "version"], commands, lambda _: {"RESTIC_PASSWORD": PASSWORD})


def mirroring_commands(start: list[str], scene: Scene) -> dict[str, Pipeline]:
    """The command lines that restic and backupforge have in common, after `start`."""
    return {
        "init": [[*start, "init"]],
        "first": [[*start, "backup", str(scene.sources[0])]],
        "unchanged": [[*start, "backup", str(scene.sources[0])]],
        "restore": [[*start, "restore", "latest", "--target", str(scene.target)]],
        "check": [[*start, "check", "--read-data"]],
        "next": [[*start, "backup", str(scene.sources[-1])]],
    }


def borg(program: str) -> Tool:
    """borg 1.4, with the compression that the others use (its default is lz4) and authenticated encryption."""

    def commands(scene: Scene) -> dict[str, Pipeline]:
        create = [program, "create", "--compression", "zstd,3"]
        archive = f"{scene.repository}::"
        return {
            "init": [[program, "init", "--encryption", "repokey-blake2", scene.repository]],
            "first": [[*create, f"{archive}first", str(scene.sources[0])]],
            "unchanged": [[*create, f"{archive}unchanged", str(scene.sources[0])]],
            "restore": [[program, "extract", f"{archive}first"]],
            "check": [[program, "check", "--verify-data", scene.repository]],
            "next": [[*create, f"{archive}next", str(scene.sources[-1])]],
        }

    def environment(scene: Scene) -> dict[str, str]:
        return {"BORG_PASSPHRASE": PASSWORD, "BORG_BASE_DIR": scene.cache}

    return Tool("borg", [program, "--version"], commands, environment)


def tar(program: str, zstd: str) -> Tool:
    """tar piped through zstd: no deduplication, no encryption, no integrity of its own. The floor to compare with."""

    def commands(scene: Scene) -> dict[str, Pipeline]:
        archive = f"{scene.repository}/all.tar.zst"
        inside = str(scene.sources[0].relative_to("/"))
        return {
            "init": [["mkdir", scene.repository]],
            "first": [[program, "-C", "/", "-cf", "-", inside], [zstd, "-q", "-3", "-T2", "-o", archive]],
            "restore": [[zstd, "-q", "-d", "-c", archive], [program, "-C", str(scene.target), "-xf", "-"]],
        }

    return Tool("tar", [zstd, "--version"], commands, lambda _: {})


# --- measuring ---


def take_turn(tool: Tool, corpus: str, scene: Scene, *, verify: bool) -> Iterator[tuple[str, Measure]]:
    """One tool through all phases it has, in a fresh repository. Yields each phase's figures as it ends."""
    commands = tool.commands(scene)
    environment = tool_environment(tool, scene)
    log_path = scene.root / "log"
    scene.target.mkdir(parents=True)
    run(commands["init"], cwd=scene.target, environment=environment, log_path=log_path)
    stored = 0
    for phase in PHASES[corpus]:
        if phase not in commands:
            continue
        with memory_at_hand(scene.root, scene.needs_bytes):
            measure = run(commands[phase], cwd=scene.target, environment=environment, log_path=log_path)
        if phase == "restore":
            if verify:
                compare_trees(scene.sources[0], scene.target / scene.sources[0].relative_to("/"), tool.name)
            shutil.rmtree(scene.target)
            scene.target.mkdir()
        now = tree_bytes(Path(scene.repository))
        yield phase, Measure(measure.wall_s, measure.cpu_s, measure.peak_bytes, now - stored)
        stored = now


def measure_corpus(corpus: str, sources: tuple[Path, ...], root: Path, tools: Sequence[Tool], rounds: int) -> Samples:
    """All rounds of all tools on one corpus: each figure's values, one per round."""
    samples: Samples = {}
    needs_bytes = max(map(tree_bytes, sources)) + MEMORY_FOR_TOOL
    for number in range(rounds):
        for tool in rotated(tools, number):
            scene = Scene(root / "turn", sources, needs_bytes)
            try:
                for phase, measure in take_turn(tool, corpus, scene, verify=number == 0):
                    note(f"round {number + 1}, {corpus}, {tool.name}, {TITLES[phase]}: {measure.wall_s:.2f} s")
                    for quantity, value in asdict(measure).items():
                        samples.setdefault(Key(tool.name, corpus, phase, quantity), []).append(value)
            finally:
                shutil.rmtree(scene.root, ignore_errors=True)
    return samples


# --- the command line ---


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = common_options("compare.py", __doc__, "the programs restic and borg", "linux, linux12 and big")
    names_option(made, "--only", tuple(SOURCES))
    names_option(made, "--tools", TOOLS)
    return made


def make_tool(name: str, peers: Path, backupforge_command: list[str]) -> Tool:
    """One of TOOLS, ready to run. Raises BenchmarkError when its program is not there."""
    if name == "backupforge":
        return backupforge([find_program(backupforge_command[0]), *backupforge_command[1:]])
    if name == "tar":
        return tar(find_program("tar"), find_program("zstd"))
    return {"restic": restic, "borg": borg}[name](find_program(str(peers / name)))


def check_corpora(corpus_dir: Path, only: Sequence[str]) -> None:
    """Raises BenchmarkError when a directory that will be needed is not there."""
    for corpus in only:
        for name in SOURCES[corpus]:
            if not (corpus_dir / name).is_dir():
                raise BenchmarkError(f"there is no {corpus_dir / name}: get it, or leave its corpus out with --only")


def compare(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the tables, writes the JSON."""
    check_corpora(arguments.corpus, arguments.only)
    tools = [make_tool(name, arguments.peers, arguments.backupforge) for name in arguments.tools]
    versions = {tool.name: version_of(tool) for tool in tools}
    samples: Samples = {}
    for corpus in arguments.only:
        with workplace(arguments.corpus, SOURCES[corpus], arguments.work) as (root, sources):
            samples |= measure_corpus(corpus, sources, root, tools, arguments.rounds)
    phases = {corpus: {phase: TITLES[phase] for phase in PHASES[corpus]} for corpus in arguments.only}
    Report(phases, QUANTITIES, GOALS).show(samples, versions, arguments.rounds, arguments.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(parser(), argv, compare)


if __name__ == "__main__":
    start(main)
