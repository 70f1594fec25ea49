"""Programs to measure: what they are called with, and what it took."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

PASSWORD = "a benchmark keeps no secrets"

Pipeline = list[list[str]]
"""One command, or several joined by pipes."""


class BenchmarkError(Exception):
    """A tool failed, a restore differs from its source, or there is no room. No figure of this run can be trusted."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One phase of one tool: wall clock, user + system CPU, peak memory, and what the repository grew by."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    added_bytes: int = 0


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


def rotated(tools: Sequence[Tool], number: int) -> list[Tool]:
    """The tools in the order of round `number`: each round starts with another one."""
    first = number % len(tools)
    return [*tools[first:], *tools[:first]]


def find_program(name: str) -> str:
    """The absolute path of a program. Raises BenchmarkError when there is none."""
    found = shutil.which(name)
    if found is None:
        raise BenchmarkError(f"there is no program {name}: get it, or leave its tool out with --tools")
    # Not resolved: a program inside a virtual environment must be started by its link.
    return os.path.abspath(found)


def version_of(tool: Tool) -> str:
    """The first line that a tool says about itself. Raises BenchmarkError when it cannot."""
    answer = subprocess.run(tool.version, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if answer.returncode != 0 or not answer.stdout.strip():
        raise BenchmarkError(f"{shlex.join(tool.version)} does not run:\n{answer.stderr}")
    return answer.stdout.splitlines()[0]


def note(text: str) -> None:
    """One line of progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
