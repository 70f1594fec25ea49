"""Runs the mounts of backupforge and restic side by side, by programs that know nothing of backups.

Both back up the Linux 6.1 tree and the largest file of `big` into a repository on tmpfs, which is not timed. Then, for
each figure, a new process mounts the repository (the kernel knows nothing of it yet), a program reads from it, pinned
to the last processor, and the mount is ended. Rounds take the tools in turn, a different one first each time.
benchmarks/README.md says what each figure means.

    python -m benchmarks.mount --peers DIR --corpus DIR
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.figures import Goal, Key, Report, Samples, in_units
from benchmarks.options import common_options, exit_status, names_option, start
from benchmarks.places import memory_at_hand
from benchmarks.running import (
    PASSWORD,
    BenchmarkError,
    Measure,
    Pipeline,
    Scene,
    Tool,
    find_program,
    kill,
    note,
    rotated,
    run,
    tool_environment,
    version_of,
    wait,
)

TOOLS = ("backupforge", "restic")
CORPUS = "mount"
TITLES = {
    "tar": "tar of the tree",
    "find": "find -type f",
    "cat": "cat of a large file",
    "grep": "grep -r, 8 processes",
    "random": "4,000 random reads",
}
"""What is timed, in this order."""
QUANTITIES = {"wall_s": "time", "cpu_s": "CPU of reader and mount", "peak_bytes": "peak memory of the mount"}
BOUNDS = {"tar": (2, 3.5), "find": (1.8, 2.7), "cat": (4, 8), "grep": (1.5, 3), "random": (3, 3)}
"""How many times faster than restic: what must be, and what is aimed at."""
CACHE_SIZE = 256 << 20
"""Bytes that our mount may keep by default: its peak memory may be above restic's by this much."""
GOALS = (
    *(Goal(TITLES[phase], CORPUS, phase, "wall_s", *bounds) for phase, bounds in BOUNDS.items()),
    *(
        Goal(f"{title}, peak memory", CORPUS, phase, "peak_bytes", 1, 0.5, margin=CACHE_SIZE)
        for phase, title in TITLES.items()
    ),
)
NEEDS_BYTES = 3 << 30
"""Bytes of memory that a phase fills: pages of what is read, and the mount itself."""
READS = 4000
PATTERN = "copy_from_user"
READY_WITHIN_S = 120
ENDS_WITHIN_S = 20

RANDOM_READS = """
import os, random, sys
fd, chance = os.open(sys.argv[1], os.O_RDONLY), random.Random(int(sys.argv[2]))
size = os.fstat(fd).st_size
for _ in range(int(sys.argv[3])):
    if len(os.pread(fd, 4096, chance.randrange(size - 4096))) != 4096:
        sys.exit("a short read")
"""

PARALLEL_GREP = """
{ find "$1" -maxdepth 1 -type f -print0; find "$1" -mindepth 2 -maxdepth 2 ! -type l -print0; } |
xargs -0 -n 4 -P 8 grep -r -s -l -F -- "$2"
[ $? -eq 0 ] || [ $? -eq 123 ] || true
"""
"""grep fails where it finds nothing, and xargs with it."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A tool, what it makes its repository with, and how it mounts it on a directory."""

    tool: Tool
    setup: Callable[[Scene], list[Pipeline]]
    mount: Callable[[Scene, Path], list[str]]
    latest: str
    """Where the newest snapshot is below the mount."""

    @property
    def name(self) -> str:
        return self.tool.name


def backupforge(program: list[str]) -> Contender:
    """backupforge with its defaults."""

    def start(scene: Scene) -> list[str]:
        return [*program, "-r", scene.repository, "--cache-dir", scene.cache]

    tool = Tool("backupforge", [*program, "--version"], lambda _: {}, lambda _: {"BACKUPFORGE_PASSWORD": PASSWORD})
    return Contender(tool, lambda s: setup(start(s), s), lambda s, place: [*start(s), "mount", str(place)], "latest")


def restic(program: str) -> Contender:
    """restic with its defaults."""

    def start(scene: Scene) -> list[str]:
        return [program, "-r", scene.repository, "--cache-dir", scene.cache]

    tool = Tool("restic", [program, "version"], lambda _: {}, lambda _: {"RESTIC_PASSWORD": PASSWORD})
    return Contender(
        tool, lambda s: setup(start(s), s), lambda s, place: [*start(s), "mount", str(place)], "snapshots/latest"
    )


def setup(start: list[str], scene: Scene) -> list[Pipeline]:
    """A repository with one snapshot of all sources."""
    return [[[*start, "init"]], [[*start, "backup", *map(str, scene.sources)]]]


def make_contender(name: str, peers: Path, command: list[str]) -> Contender:
    """One of TOOLS, ready to run. Raises BenchmarkError when its program is not there."""
    if name == "backupforge":
        return backupforge([find_program(command[0]), *command[1:]])
    return restic(find_program(str(peers / name)))


def readers(tree: Path, file: Path, seed: int) -> dict[str, Pipeline]:
    """What reads from a mount: the tree and the file are below it. All of it on one processor."""
    pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
    return {
        "tar": [[*pinned, "tar", "-C", str(tree), "-cf", "-", "."], [*pinned, "wc", "-c"]],
        "find": [[*pinned, "find", str(tree), "-type", "f"], [*pinned, "wc", "-l"]],
        "cat": [[*pinned, "sh", "-c", 'cat "$1" > /dev/null', "sh", str(file)]],
        "grep": [[*pinned, "sh", "-c", PARALLEL_GREP, "sh", str(tree), PATTERN], [*pinned, "wc", "-l"]],
        "random": [[*pinned, sys.executable, "-c", RANDOM_READS, str(file), str(seed), str(READS)]],
    }


# --- measuring ---


@contextmanager
def mounted(contender: Contender, scene: Scene) -> Iterator[tuple[Path, Callable[[], tuple[float, int]]]]:
    """A mount by a new process, and what ends it: that gives CPU seconds and peak bytes of the process."""
    place = Path(tempfile.mkdtemp(prefix="mount-"))  # not in the work directory: who sums that up would walk into it
    with (scene.root / "mount.log").open("wb") as log:
        process = subprocess.Popen(
            contender.mount(scene, place),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=tool_environment(contender.tool, scene),
            start_new_session=True,
        )

    def end() -> tuple[float, int]:
        unmount(place)
        user_s, system_s, peak_bytes = wait(process)
        return user_s + system_s, peak_bytes

    try:
        wait_until_mounted(place, process, scene.root / "mount.log")
        yield place, end
    finally:
        kill([process])
        if is_mounted(place):
            subprocess.run(["umount", "-l", str(place)], check=False)
        place.rmdir()


def unmount(place: Path) -> None:
    """Ends a mount, which somebody who looks around on this machine may hold for a moment. Raises BenchmarkError."""
    deadline = time.monotonic() + ENDS_WITHIN_S
    while (done := subprocess.run(["umount", str(place)], capture_output=True, text=True, check=False)).returncode:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"cannot end the mount on {place}: {done.stderr}")
        time.sleep(0.1)


def wait_until_mounted(place: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns when the mount answers. Raises BenchmarkError when its process ends, or takes too long."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not is_mounted(place):
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:]
            raise BenchmarkError(f"nothing was mounted on {place}:\n{said}")
        time.sleep(0.05)
    os.listdir(place)


def is_mounted(place: Path) -> bool:
    """Whether there is a mount on the path, even one that does not answer any more."""
    return any(line.split(" ")[4] == str(place) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def take_turn(
    contender: Contender, scene: Scene, phases: Sequence[str], seed: int
) -> Iterator[tuple[str, Measure, str]]:
    """One tool through all phases. Yields each phase's figures as it ends, and what its last program has printed."""
    tree, file = scene.sources
    environment = tool_environment(contender.tool, scene)
    output = scene.root / "log"
    for phase in phases:
        with memory_at_hand(scene.root, NEEDS_BYTES), mounted(contender, scene) as (place, end):
            top = place / contender.latest
            pipeline = readers(top / tree.relative_to("/"), top / file.relative_to("/"), seed)[phase]
            measure = run(pipeline, cwd=scene.root, environment=environment, log_path=output)
            cpu_s, peak_bytes = end()
        yield phase, Measure(measure.wall_s, measure.cpu_s + cpu_s, peak_bytes), output.read_text().strip()


def measure_all(
    contenders: Sequence[Contender], scenes: dict[str, Scene], phases: Sequence[str], rounds: int
) -> Samples:
    """All rounds of all tools: each figure's values, one per round. Raises BenchmarkError when what is read differs."""
    samples: Samples = {}
    printed: dict[str, str] = {}
    for number in range(rounds):
        for tool in rotated([each.tool for each in contenders], number):
            contender = next(each for each in contenders if each.tool is tool)
            for phase, measure, said in take_turn(contender, scenes[tool.name], phases, number):
                note(
                    f"round {number + 1}, {tool.name}, {TITLES[phase]}: {measure.wall_s:.2f} s, "
                    f"{in_units(measure.peak_bytes)}"
                )
                if said != printed.setdefault(phase, said):
                    raise BenchmarkError(f"{tool.name}, {TITLES[phase]}: {said!r} and not {printed[phase]!r}")
                for quantity in QUANTITIES:
                    samples.setdefault(Key(tool.name, CORPUS, phase, quantity), []).append(asdict(measure)[quantity])
    return samples


def make_repositories(contenders: Sequence[Contender], sources: tuple[Path, ...], root: Path) -> dict[str, Scene]:
    """A repository with one snapshot for each tool."""
    scenes = {}
    for contender in contenders:
        scene = Scene(root / contender.name, sources, NEEDS_BYTES)
        scene.root.mkdir()
        note(f"{contender.name} backs up {' and '.join(map(str, sources))}")
        for pipeline in contender.setup(scene):
            environment = tool_environment(contender.tool, scene)
            run(pipeline, cwd=scene.root, environment=environment, log_path=scene.root / "log")
        scenes[contender.name] = scene
    return scenes


# --- the command line ---


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = common_options("mount.py", __doc__, "the program restic", "linux and big")
    names_option(made, "--only", tuple(TITLES))
    names_option(made, "--tools", TOOLS)
    return made


def find_sources(corpus: Path) -> tuple[Path, Path]:
    """The tree, and the largest file of `big`. Raises BenchmarkError when one is not there."""
    tree, folder = corpus / "linux", corpus / "big"
    files = [each for each in folder.iterdir() if each.is_file()] if folder.is_dir() else []
    if not tree.is_dir() or not files:
        raise BenchmarkError(f"{corpus} must have the directories linux and big: see benchmarks/README.md")
    return tree, max(files, key=lambda each: each.stat().st_size)


def compare(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the tables, writes the JSON."""
    sources = find_sources(arguments.corpus)
    contenders = [make_contender(name, arguments.peers, arguments.backupforge) for name in arguments.tools]
    versions = {each.name: version_of(each.tool) for each in contenders}
    with tempfile.TemporaryDirectory(prefix="mount-", dir=arguments.work) as name:
        scenes = make_repositories(contenders, sources, Path(name))
        samples = measure_all(contenders, scenes, arguments.only, arguments.rounds)
    Report({CORPUS: TITLES}, QUANTITIES, GOALS).show(samples, versions, arguments.rounds, arguments.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(parser(), argv, compare)


if __name__ == "__main__":
    start(main)
