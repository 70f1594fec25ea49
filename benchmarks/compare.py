#!/usr/bin/env python3
"""Runs backupforge, restic, borg and `tar | zstd -3 -T2` side by side and says how they compare.

For each corpus: sources are copied to the work directory (tmpfs when there is room); then each round takes the tools
in turn, a different one first each time, so that drift of the machine hits all alike. A turn starts with a fresh
repository and fresh caches, runs every phase as one whole process, and leaves nothing behind. Before each phase the
memory it may need is fetched, so that no tool pays for that. The first restore of each tool is compared with its
source. Standard library only, Linux only. benchmarks/README.md says what each figure means.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import platform
import shlex
import shutil
import signal
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NamedTuple

TOOLS = ("backupforge", "restic", "borg", "tar")
BASE = "restic"
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

PASSWORD = "a benchmark keeps no secrets"
MEMORY_RESERVE = 2 << 30
"""Bytes of memory that a tmpfs must leave to the tools themselves."""
SAMPLE_EVERY = 25
"""Of the small files of a restore, every one of this many is compared by content."""
SAMPLE_ALWAYS = 1 << 20
"""Files of this many bytes or more are always compared by content."""

MEMORY_FOR_TOOL = 1 << 30
"""Bytes of memory that a tool may use itself, besides what it writes to a tmpfs."""
MEMORY_BLOCK = 2 << 20
"""Bytes of which one page is kept while memory is held at hand."""

UNSTEADY = 1.2
"""A time whose slowest round took this many times its quickest says more about the machine than about the tool."""

Pipeline = list[list[str]]
"""One command, or several joined by pipes."""


class BenchmarkError(Exception):
    """A tool failed, a restore differs from its source, or there is no room. No figure of this run can be trusted."""


class Key(NamedTuple):
    """Names one figure."""

    tool: str
    corpus: str
    phase: str
    quantity: str


@dataclass(frozen=True, slots=True)
class Measure:
    """One phase of one tool: wall clock, user + system CPU, peak memory, and what the repository grew by."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    added_bytes: int = 0


# --- the tools: what each is called with ---


@dataclass(frozen=True, slots=True)
class Scene:
    """The places of one turn. `root` holds all that the tool writes, and goes away with it.

    `needs_bytes` is as much memory as any phase fills.
    """

    root: Path
    sources: tuple[Path, ...]
    needs_bytes: int

    @property
    def repository(self) -> str:
        """Where the tool keeps its backups."""
        return str(self.root / "repository")

    @property
    def cache(self) -> str:
        """Where the tool keeps what it could compute again."""
        return str(self.root / "cache")

    @property
    def target(self) -> Path:
        """Where restores go; also where every tool is started, because borg extracts into where it stands."""
        return self.root / "target"


@dataclass(frozen=True, slots=True)
class Tool:
    """A program to measure: the pipeline for `init` and each phase it has, and the variables it wants."""

    name: str
    version: list[str]
    commands: Callable[[Scene], dict[str, Pipeline]]
    environment: Callable[[Scene], dict[str, str]]


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


def run(pipeline: Pipeline, *, cwd: Path, environment: dict[str, str], log_path: Path) -> Measure:
    """Runs the pipeline to its end. Raises BenchmarkError with the end of its output when a part of it fails.

    Peak memory is the kernel's ru_maxrss: that of the largest process a stage started, itself included; stages are
    summed. An exception (Ctrl-C) kills what still runs.
    """
    processes: list[subprocess.Popen[bytes]] = []
    with log_path.open("wb") as log:
        start = time.perf_counter()
        try:
            for stage in pipeline:
                processes.append(spawn(stage, processes, len(pipeline), log, cwd=cwd, environment=environment))
            usages = [wait(process) for process in processes]
        finally:
            kill(processes)
        wall_s = time.perf_counter() - start
    for stage, process in zip(pipeline, processes, strict=True):
        if process.returncode != 0:
            output = log_path.read_text(errors="replace")[-2000:]
            raise BenchmarkError(f"exit status {process.returncode} of: {shlex.join(stage)}\n{output}")
    cpu_s = sum(user_s + system_s for user_s, system_s, _ in usages)
    return Measure(wall_s, cpu_s, sum(peak for _, _, peak in usages))


def spawn(
    stage: list[str],
    earlier: Sequence[subprocess.Popen[bytes]],
    stages: int,
    log: IO[bytes],
    *,
    cwd: Path,
    environment: dict[str, str],
) -> subprocess.Popen[bytes]:
    """Starts the next stage of a pipeline, fed by the last of the earlier ones."""
    source = earlier[-1].stdout if earlier else None
    process = subprocess.Popen(
        stage,
        stdin=source or subprocess.DEVNULL,
        stdout=log if len(earlier) == stages - 1 else subprocess.PIPE,
        stderr=log,
        cwd=cwd,
        env=environment,
        # Without a terminal nothing can stop to ask, and the whole group can be killed at once.
        start_new_session=True,
    )
    if source is not None:
        source.close()
    return process


def wait(process: subprocess.Popen[bytes]) -> tuple[float, float, int]:
    """User seconds, system seconds and peak bytes of a process and of all it waited for."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024


def kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ends what still runs, with all that it started."""
    for process in processes:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def tool_environment(tool: Tool, scene: Scene) -> dict[str, str]:
    """The caller's variables without any that would configure a tool, and its private places inside the scene.

    TMPDIR stays as it is: restic builds its packs there, and on a tmpfs that slowed its first backup of `big`.
    """
    foreign = ("RESTIC_", "BORG_", "BACKUPFORGE_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    private = {"XDG_CONFIG_HOME": scene.cache, "XDG_CACHE_HOME": scene.cache}
    return inherited | private | tool.environment(scene)


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


def measure_corpus(
    corpus: str, sources: tuple[Path, ...], root: Path, tools: Sequence[Tool], rounds: int
) -> dict[Key, list[float]]:
    """All rounds of all tools on one corpus: each figure's values, one per round."""
    samples: dict[Key, list[float]] = {}
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


def rotated(tools: Sequence[Tool], number: int) -> list[Tool]:
    """The tools in the order of round `number`: each round starts with another one."""
    first = number % len(tools)
    return [*tools[first:], *tools[:first]]


# --- trees of files ---


def files_under(root: Path) -> Iterator[Path]:
    """Every entry below `root`, directories included, none followed."""
    for directory, subdirectories, files in os.walk(root):
        for name in (*subdirectories, *files):
            yield Path(directory, name)


def tree_bytes(root: Path) -> int:
    """The sum of the lengths of all regular files below `root`."""
    infos = (path.lstat() for path in files_under(root))
    return sum(info.st_size for info in infos if stat.S_ISREG(info.st_mode))


def compare_trees(source: Path, restored: Path, who: str) -> None:
    """Raises BenchmarkError unless `restored` holds the same entries as `source`.

    Compares names, kinds, sizes, symlink targets and modification times of all, and the contents of large files and of
    a sample of the small ones.
    """
    count = 0
    for count, path in enumerate(files_under(source), 1):
        twin = restored / path.relative_to(source)
        if not same_entry(path, twin, deep=count % SAMPLE_EVERY == 0):
            raise BenchmarkError(f"{who} restored {twin} differently from {path}")
    extra = sum(1 for _ in files_under(restored)) - count
    if extra:
        raise BenchmarkError(f"{who} restored {extra} entries into {restored} that {source} does not have")


def same_entry(path: Path, twin: Path, *, deep: bool) -> bool:
    """Whether two entries agree; `deep` compares the contents of a small file too."""
    try:
        ours, theirs = path.lstat(), twin.lstat()
    except FileNotFoundError:
        return False
    if ours.st_mode != theirs.st_mode:
        return False
    if stat.S_ISLNK(ours.st_mode):
        return path.readlink() == twin.readlink()
    if not stat.S_ISREG(ours.st_mode):
        return True
    # Whole seconds: plain tar archives keep no more.
    if (ours.st_size, int(ours.st_mtime)) != (theirs.st_size, int(theirs.st_mtime)):
        return False
    return not (deep or ours.st_size >= SAMPLE_ALWAYS) or content_hash(path) == content_hash(twin)


def content_hash(path: Path) -> bytes:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


# --- places ---


def room_bytes(directory: Path) -> int:
    """Bytes that may be written below `directory`; on a tmpfs also no more than memory has to give."""
    free = shutil.disk_usage(directory).free
    if not is_tmpfs(directory):
        return free
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return min(free, available - MEMORY_RESERVE)


def is_tmpfs(directory: Path) -> bool:
    """Whether files in `directory` live in memory."""
    device = directory.stat().st_dev
    mounts = (line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return any(mount.split()[2] == wanted and kind.startswith("tmpfs ") for mount, kind in mounts)


@contextmanager
def memory_at_hand(directory: Path, size: int) -> Iterator[None]:
    """On a tmpfs: `size` bytes of the memory that is free, or half of it, cost no more than memory does.

    The first touch of a page that a virtual machine's host has yet to supply takes 10 to 20 microseconds, and makes up
    most of a restore to a tmpfs, whichever tool does it. A machine may also give free memory back after two seconds. So
    the pages are touched, and all but one of each block are let go: what is left keeps the rest from leaving.
    """
    size = min(size, room_bytes(directory) // 2) // MEMORY_BLOCK * MEMORY_BLOCK
    if not is_tmpfs(directory) or size <= 0:
        yield
        return
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(size // MEMORY_BLOCK):
            file.write(bytes(MEMORY_BLOCK))
        file.flush()
        with mmap.mmap(file.fileno(), size) as memory:
            for block in range(0, size, MEMORY_BLOCK):
                memory.madvise(mmap.MADV_REMOVE, block + mmap.PAGESIZE, MEMORY_BLOCK - mmap.PAGESIZE)
        yield


@contextmanager
def workplace(corpus_dir: Path, names: Sequence[str], work: Path) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """A directory to work in and the sources to read, copied into it when there is room. Removed at the end.

    A turn needs at most a repository and a restore besides the sources: twice their size, if nothing compresses.
    """
    originals = tuple((corpus_dir / name).resolve() for name in names)
    size = sum(map(tree_bytes, originals))
    copied = room_bytes(work) >= 3 * size
    if not copied:
        note(f"{work} has no room for three times {in_units(size)}: sources are read from {corpus_dir}")
        if room_bytes(work) < 2 * size:
            work = Path(tempfile.gettempdir())
            note(f"nor for twice that: repositories and restores go to {work}")
        if room_bytes(work) < 2 * size:
            raise BenchmarkError(f"{work} has no room for twice {in_units(size)}: name another --work")
    with tempfile.TemporaryDirectory(prefix="compare-", dir=work.resolve()) as name:
        root = Path(name)
        if copied:
            subprocess.run(["cp", "-a", *map(str, originals), name], check=True)
        yield root, tuple(root / each.name for each in originals) if copied else originals


# --- figures ---


@dataclass(frozen=True, slots=True)
class Goal:
    """What backupforge should reach: a ratio that it must reach, and one that it aims at."""

    title: str
    corpus: str
    phase: str
    quantity: str
    must: float | None
    aim: float
    against: str = BASE


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


def is_time(quantity: str) -> bool:
    """Whether the quantity is in seconds; otherwise it is in bytes."""
    return quantity.endswith("_s")


def medians(samples: dict[Key, list[float]]) -> dict[Key, float]:
    """The median of each figure's rounds."""
    return {key: statistics.median(values) for key, values in samples.items()}


def unsteady(samples: dict[Key, list[float]]) -> list[Key]:
    """The times that differ so much between rounds that the machine was probably busy with something else."""
    return [key for key, values in samples.items() if key.quantity == "wall_s" and max(values) > UNSTEADY * min(values)]


def ratio(middles: dict[Key, float], key: Key, against: str = BASE) -> float | None:
    """How a figure compares with that of `against`; None when one of them was not measured or is zero.

    Times: how many times faster, so more is better. Bytes: the share of the other's, so less is better.
    """
    own, other = middles.get(key), middles.get(key._replace(tool=against))
    if not own or not other:
        return None
    return other / own if is_time(key.quantity) else own / other


def goal_ratio(middles: dict[Key, float], goal: Goal) -> float | None:
    """The ratio that a goal is about; None when it was not measured."""
    return ratio(middles, Key("backupforge", goal.corpus, goal.phase, goal.quantity), goal.against)


def verdict(goal: Goal, reached: float | None) -> str:
    """Whether a goal is met: "aim met", "must met", "missed", or "not measured"."""
    if reached is None:
        return "not measured"

    def meets(bound: float) -> bool:
        return reached >= bound if is_time(goal.quantity) else reached <= bound

    if meets(goal.aim):
        return "aim met"
    return "must met" if goal.must is not None and meets(goal.must) else "missed"


# --- showing ---


def note(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def in_units(size: float) -> str:
    """Bytes as megabytes (10^6), as restic and borg show them."""
    return f"{size / 1e6:.1f} MB"


def show_value(quantity: str, value: float | None) -> str:
    """A figure with its unit, or a dash."""
    if value is None:
        return "-"
    return f"{value:.2f} s" if is_time(quantity) else in_units(value)


def show_ratio(quantity: str, value: float | None) -> str:
    """A ratio: "3.15x" for times, "0.79" for bytes, or a dash."""
    if value is None:
        return "-"
    return f"{value:.2f}x" if is_time(quantity) else f"{value:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equal length as a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def figure_table(middles: dict[Key, float], corpus: str, tools: Sequence[str]) -> str:
    """All figures of one corpus: for each tool the median and its ratio against restic."""
    rows = [[corpus, *(cell for tool in tools for cell in (tool, ""))]]
    for phase in PHASES[corpus]:
        for quantity, what in QUANTITIES.items():
            if quantity == "added_bytes" and phase in ("restore", "check"):
                continue
            row = [f"{TITLES[phase]}, {what}"]
            for tool in tools:
                key = Key(tool, corpus, phase, quantity)
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
    """The whole run as a JSON document: every figure with all its rounds, and the goals."""
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


def names_among(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated list of some of the allowed names, kept in the allowed order."""

    def parse(text: str) -> list[str]:
        given = text.split(",")
        unknown = [name for name in given if name not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(allowed)}")
        return [name for name in allowed if name in given]

    return parse


def positive(text: str) -> int:
    """An argparse type: a whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def existing_directory(text: str) -> Path:
    """An argparse type: a directory that is there."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path.resolve()


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = argparse.ArgumentParser(prog="compare.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--peers", type=existing_directory, required=True, metavar="DIR", help="holds the programs restic and borg")
    add("--corpus", type=existing_directory, required=True, metavar="DIR", help="holds linux, linux12 and big")
    add("--work", type=existing_directory, default="/dev/shm", metavar="DIR", help="(default: %(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often to run everything (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    add("--only", type=names_among(tuple(SOURCES)), default=list(SOURCES), metavar="NAMES", help="corpora: linux,big")
    add("--tools", type=names_among(TOOLS), default=list(TOOLS), metavar="NAMES", help=f"tools: {','.join(TOOLS)}")
    add("--backupforge", type=shlex.split, default=["backupforge"], metavar="CMD", help="how backupforge is started")
    return made


def find_program(name: str) -> str:
    """The absolute path of a program. Raises BenchmarkError when there is none."""
    found = shutil.which(name)
    if found is None:
        raise BenchmarkError(f"there is no program {name}: get it, or leave its tool out with --tools")
    # Not resolved: a program inside a virtual environment must be started by its link.
    return os.path.abspath(found)


def make_tool(name: str, peers: Path, backupforge_command: list[str]) -> Tool:
    """One of TOOLS, ready to run. Raises BenchmarkError when its program is not there."""
    if name == "backupforge":
        return backupforge([find_program(backupforge_command[0]), *backupforge_command[1:]])
    if name == "tar":
        return tar(find_program("tar"), find_program("zstd"))
    return {"restic": restic, "borg": borg}[name](find_program(str(peers / name)))


def version_of(tool: Tool) -> str:
    """The first line that a tool says about itself. Raises BenchmarkError when it cannot."""
    answer = subprocess.run(tool.version, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        raise BenchmarkError(f"{shlex.join(tool.version)} does not run:\n{answer.stderr}")
    return answer.stdout.splitlines()[0]


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
    samples: dict[Key, list[float]] = {}
    for corpus in arguments.only:
        with workplace(arguments.corpus, SOURCES[corpus], arguments.work) as (root, sources):
            samples |= measure_corpus(corpus, sources, root, tools, arguments.rounds)
    middles = medians(samples)
    for corpus in arguments.only:
        print(f"\n{figure_table(middles, corpus, arguments.tools)}")
    print(f"\n{goal_table(middles)}")
    for key in unsteady(samples):
        note(f"unsteady: {key.tool}, {key.corpus}, {TITLES[key.phase]}: {samples[key]} s; was the machine busy?")
    if arguments.json:
        arguments.json.write_text(as_json(samples, versions, arguments.rounds))


def exit_status(program: str, arguments: argparse.Namespace, work: Callable[[argparse.Namespace], None]) -> int:
    """Does the work of a program of this folder. Returns its exit status: 0 done, 1 failed, 130 interrupted."""
    try:
        work(arguments)
    except BenchmarkError as error:
        note(f"{program}: {error}")
        return 1
    except KeyboardInterrupt:
        note(f"{program}: interrupted; nothing is left behind")
        return 130
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status("compare.py", parser().parse_args(argv), compare)


if __name__ == "__main__":
    # SIGTERM ends the run like Ctrl-C: children killed, directories removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
