"""Runs backupforge and restic side by side on servers that are far away: 50 ms there and back, 20 MB/s each way.

The servers are real ones of this machine: `rclone serve restic`, `rclone serve s3` and OpenSSH's sshd; the distance is
that of a proxy, which counts requests too. What is backed up is a part of the Linux 6.1 tree. Rounds take the tools in
turn, a different one first each time, and begin with an empty repository. benchmarks/README.md says what is measured.

    python -m benchmarks.distant --peers DIR --corpus DIR
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.figures import Goal, Key, Report, Samples
from benchmarks.mount import Contender, mounted
from benchmarks.options import common_options, exit_status, names_option, start
from benchmarks.places import compare_trees
from benchmarks.running import (
    PASSWORD,
    BenchmarkError,
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
from tests.support import rclone, sshd
from tests.support.buckets import BUCKET, KEY, RCLONE_KEYS, SECRET
from tests.support.long_line import LongLine, long_line_to

TOOLS = ("backupforge", "restic")
SERVERS = ("rest", "s3", "sftp")
PARTS = ("drivers/net", "fs", "kernel")
"""Of the Linux tree: 7,000 files, 180 MB."""
TITLES = {
    "first": "first backup",
    "unchanged": "unchanged again",
    "restore": "restore, empty cache",
    "list": "mount and ls -lR, empty cache",
    "check": "check, empty cache",
}
"""What is timed, in this order."""
FEWER = 0.999
"""Times the requests of restic: one less will do."""
GOALS = tuple(
    goal
    for server in SERVERS
    for phase, title in TITLES.items()
    for goal in (
        Goal(f"{server}, {title}", server, phase, "wall_s", 1.5, 2),
        Goal(f"{server}, {title}, requests", server, phase, "requests", FEWER, 0.5),
    )
)
ROUND_TRIP_S = 0.05
RATE = 20e6

_SFTP_REQUEST = re.compile(r"request \d+: (?!sent)")


@dataclass(frozen=True, slots=True)
class Far:
    """A server behind the line. `place` is the location where repositories are, in the folder `served`.

    `options` are what a tool has to be told besides.
    """

    line: LongLine
    served: Path
    place: str
    options: dict[str, list[str]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    sftp_log: Path | None = None

    def forget(self) -> None:
        """Count from nothing again."""
        self.line.forget()
        if self.sftp_log is not None:
            os.truncate(self.sftp_log, 0)

    @property
    def requests(self) -> int:
        """How many there were: of HTTP as the proxy has seen them, of SFTP as the server has."""
        if self.sftp_log is None:
            return len(self.line.requests)
        return len(_SFTP_REQUEST.findall(self.sftp_log.read_text(errors="replace")))


# --- the servers ---


@contextmanager
def rest(folder: Path) -> Iterator[Far]:
    """`rclone serve restic`."""
    served = folder / "served"
    served.mkdir()
    with rclone.serve("restic", served) as server, long_line_to(server.port, ROUND_TRIP_S, RATE) as line:
        yield Far(line, served, f"rest:http://127.0.0.1:{line.port}")


@contextmanager
def s3(folder: Path) -> Iterator[Far]:
    """`rclone serve s3`."""
    served = folder / "served"
    (served / BUCKET).mkdir(parents=True)
    with (
        rclone.serve("s3", served, environment=RCLONE_KEYS) as server,
        long_line_to(server.port, ROUND_TRIP_S, RATE) as line,
    ):
        variables = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
        yield Far(line, served / BUCKET, f"s3:http://127.0.0.1:{line.port}/{BUCKET}", variables=variables)


@contextmanager
def sftp(folder: Path) -> Iterator[Far]:
    """OpenSSH's sshd, whose sftp-server writes down each request."""
    served, log, script = folder / "served", folder / "sftp.log", folder / "sftp-server"
    served.mkdir()
    log.touch()
    program = next((path for path in _SFTP_SERVERS if Path(path).exists()), None)
    if program is None:
        raise BenchmarkError("there is no sftp-server: install openssh-server, or openssh-sftp-server")
    script.write_text(f"#!/bin/sh\nexec {program} -e -l DEBUG3 2>> {shlex.quote(str(log))}\n")
    script.chmod(0o755)
    (folder / "sshd").mkdir()
    with (
        sshd.serve(folder / "sshd", sftp=str(script)) as server,
        long_line_to(server.port, ROUND_TRIP_S, RATE) as line,
    ):
        with (server.ssh / "known_hosts").open("a") as hosts:
            hosts.write(sshd.known_host(f"[127.0.0.1]:{line.port}", server.host_key))
        config = server.ssh / "config"
        config.write_text(config.read_text().replace(f"Port {server.port}\n", f"Port {line.port}\n"))
        options = {
            "backupforge": ["-o", f"sftp.config-file={config}"],
            "restic": ["-o", f"sftp.command=ssh -F {config} backup -s sftp"],
        }
        yield Far(line, served, f"sftp:backup:{served}", options, sftp_log=log)


_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/libexec/sftp-server")
SERVE: dict[str, Callable[[Path], AbstractContextManager[Far]]] = {"rest": rest, "s3": s3, "sftp": sftp}


# --- measuring ---


def make_contender(name: str, peers: Path, command: list[str], far: Far) -> Contender:
    """One of TOOLS, ready to run. Raises BenchmarkError when its program is not there."""
    ours = name == "backupforge"
    program = [find_program(command[0]), *command[1:]] if ours else [find_program(str(peers / name))]
    variable = "BACKUPFORGE_PASSWORD" if ours else "RESTIC_PASSWORD"
    version = [*program, "--version" if ours else "version"]

    def start(scene: Scene) -> list[str]:
        place = f"{far.place}/{scene.root.name}"
        return [*program, "-r", place, *far.options.get(name, []), "--cache-dir", scene.cache]

    tool = Tool(name, version, lambda s: commands(start(s), s), lambda _: {variable: PASSWORD, **far.variables})
    latest = "latest" if ours else "snapshots/latest"
    return Contender(tool, lambda _: [], lambda scene, place: [*start(scene), "mount", str(place)], latest)


def commands(start: list[str], scene: Scene) -> dict[str, Pipeline]:
    """The command lines that both tools have in common, after `start`."""
    backup = [[*start, "backup", *map(str, scene.sources)]]
    return {
        "init": [[*start, "init"]],
        "first": backup,
        "unchanged": backup,
        "restore": [[*start, "restore", "latest", "--target", str(scene.target)]],
        "check": [[*start, "check"]],
    }


@dataclass(frozen=True, slots=True)
class Visit:
    """One phase of one tool. Bytes are those that went over the line, with all that protocols need."""

    wall_s: float
    cpu_s: float
    requests: int
    up_bytes: int
    down_bytes: int


QUANTITIES = {
    "wall_s": "time",
    "requests": "requests",
    "up_bytes": "sent",
    "down_bytes": "received",
    "cpu_s": "CPU",
}


def take_turn(contender: Contender, scene: Scene, far: Far, *, verify: bool) -> Iterator[tuple[str, Visit]]:
    """One tool through all phases, with an empty repository. Yields each phase's figures as it ends."""
    given = contender.tool.commands(scene)
    environment = tool_environment(contender.tool, scene)
    scene.target.mkdir(parents=True)

    def do(pipeline: Pipeline) -> tuple[float, float]:
        measure = run(pipeline, cwd=scene.target, environment=environment, log_path=scene.root / "log")
        return measure.wall_s, measure.cpu_s

    do(given["init"])
    for phase in TITLES:
        if phase in ("restore", "list", "check"):
            shutil.rmtree(scene.cache, ignore_errors=True)
        far.forget()
        wall_s, cpu_s = list_mounted(contender, scene) if phase == "list" else do(given[phase])
        yield phase, Visit(wall_s, cpu_s, far.requests, far.line.up, far.line.down)
        if phase == "restore" and verify:
            for source in scene.sources:
                compare_trees(source, scene.target / source.relative_to("/"), contender.name)


def list_mounted(contender: Contender, scene: Scene) -> tuple[float, float]:
    """Seconds and CPU seconds from the start of the mount to the end of `ls -lR` of all sources in it."""
    began = time.perf_counter()
    with mounted(contender, scene) as (place, end):
        tops = [str(place / contender.latest / source.relative_to("/")) for source in scene.sources]
        run([["ls", "-lR", *tops], ["wc", "-l"]], cwd=scene.root, environment={**os.environ}, log_path=scene.root / "l")
        wall_s = time.perf_counter() - began
        cpu_s, _ = end()
    return wall_s, cpu_s


def measure_server(server: str, sources: tuple[Path, ...], root: Path, arguments: argparse.Namespace) -> Samples:
    """All rounds of all tools with one server: each figure's values, one per round."""
    samples: Samples = {}
    folder = root / server
    folder.mkdir()
    with SERVE[server](folder) as far:
        contenders = [make_contender(name, arguments.peers, arguments.backupforge, far) for name in arguments.tools]
        for number in range(arguments.rounds):
            for tool in rotated([each.tool for each in contenders], number):
                contender = next(each for each in contenders if each.tool is tool)
                # A name of its own for each repository, because rclone remembers what there was.
                scene = Scene(root / f"{tool.name}-{number}", sources, 0)
                try:
                    for phase, visit in take_turn(contender, scene, far, verify=number == 0):
                        note(
                            f"round {number + 1}, {server}, {tool.name}, {TITLES[phase]}: {visit.wall_s:.2f} s, "
                            f"{visit.requests} requests"
                        )
                        for quantity, value in asdict(visit).items():
                            samples.setdefault(Key(tool.name, server, phase, quantity), []).append(value)
                finally:
                    shutil.rmtree(scene.root, ignore_errors=True)
                    shutil.rmtree(far.served / scene.root.name, ignore_errors=True)
    return samples


# --- the command line ---


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = common_options("distant.py", __doc__, "the program restic", "linux")
    names_option(made, "--only", SERVERS)
    names_option(made, "--tools", TOOLS)
    return made


def copy_sources(corpus: Path, root: Path) -> tuple[Path, ...]:
    """The parts of the tree, in a place of their own. Raises BenchmarkError where they are not below `corpus`."""
    tops = [corpus / "linux", *(corpus / "linux").glob("linux*/")]
    top = next((each for each in tops if all((each / part).is_dir() for part in PARTS)), None)
    if top is None:
        raise BenchmarkError(f"there is no {corpus}/linux with {', '.join(PARTS)} in it: see benchmarks/README.md")
    for part in PARTS:
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(top / part), str(root / part)], check=True)
    return tuple(root / part for part in PARTS)


def compare(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the tables, writes the JSON."""
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="distant-", dir=arguments.work) as name:
        root = Path(name)
        sources = copy_sources(arguments.corpus, root / "sources")
        for server in arguments.only:
            samples |= measure_server(server, sources, root, arguments)
    nowhere = Far(LongLine(0), Path(), "")
    contenders = [make_contender(name, arguments.peers, arguments.backupforge, nowhere) for name in arguments.tools]
    versions = {each.name: version_of(each.tool) for each in contenders}
    report = Report(dict.fromkeys(arguments.only, TITLES), QUANTITIES, GOALS)
    report.show(samples, versions, arguments.rounds, arguments.json, round_trip_s=ROUND_TRIP_S, rate=RATE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(parser(), argv, compare)


if __name__ == "__main__":
    start(main)
