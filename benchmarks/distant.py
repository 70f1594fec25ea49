"""Runs backupforge and restic side by side on servers that are far away: 50 ms there and back, 20 MB/s each way.

The servers are real ones of this machine: `rclone serve restic`, `rclone serve s3` and OpenSSH's sshd; the distance is
that of a proxy, which counts requests too. What is backed up is a part of the Linux 6.1 tree. Rounds take the tools in
turn, a different one first each time, and begin with an empty repository. benchmarks/README.md says what is measured.

    python -m benchmarks.distant --peers DIR --corpus DIR
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.compare import (
    BASE,
    PASSWORD,
    BenchmarkError,
    Goal,
    Key,
    Pipeline,
    Scene,
    Tool,
    aligned,
    compare_trees,
    existing_directory,
    exit_status,
    find_program,
    goal_ratio,
    in_units,
    medians,
    names_among,
    note,
    positive,
    ratio,
    rotated,
    run,
    show_ratio,
    tool_environment,
    unsteady,
    verdict,
    version_of,
)
from benchmarks.mount import Contender, mounted
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
GOALS = tuple(
    Goal(f"{server}, {title}", server, phase, "wall_s", 1.5, 2) for server in SERVERS for phase, title in TITLES.items()
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


def measure_server(
    server: str, sources: tuple[Path, ...], root: Path, arguments: argparse.Namespace
) -> dict[Key, list[float]]:
    """All rounds of all tools with one server: each figure's values, one per round."""
    samples: dict[Key, list[float]] = {}
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


# --- showing ---


def show(quantity: str, value: float | None) -> str:
    """A figure with its unit."""
    if value is None:
        return "-"
    if quantity.endswith("_bytes"):
        return in_units(value)
    return f"{value:.0f}" if quantity == "requests" else f"{value:.2f} s"


def figure_table(middles: dict[Key, float], server: str, tools: Sequence[str]) -> str:
    """All figures of a server: for each tool the median, and what it is against restic's."""
    rows = [[server, *(cell for tool in tools for cell in (tool, ""))]]
    for phase, title in TITLES.items():
        for quantity, what in QUANTITIES.items():
            row = [f"{title}, {what}"]
            for tool in tools:
                key = Key(tool, server, phase, quantity)
                row += [show(quantity, middles.get(key)), show_ratio(quantity, ratio(middles, key))]
            rows.append(row)
    return aligned(rows)


def requests_verdict(middles: dict[Key, float], server: str, phase: str) -> tuple[float | None, float | None, str]:
    """How many requests we and restic have made, and whether ours are fewer, as they must be."""
    own, other = (middles.get(Key(tool, server, phase, "requests")) for tool in ("backupforge", BASE))
    if own is None or other is None:
        return own, other, "not measured"
    return own, other, "must met" if own < other else "missed"


def goal_table(middles: dict[Key, float], servers: Sequence[str]) -> str:
    """Each goal with what was reached and whether it is met."""
    rows = [["goal (ratio against restic)", "reached", "must", "aim", "verdict"]]
    for goal in GOALS:
        if goal.corpus in servers:
            reached = goal_ratio(middles, goal)
            shown = (show_ratio(goal.quantity, each) for each in (reached, goal.must, goal.aim))
            rows.append([goal.title, *shown, verdict(goal, reached)])
    for server in servers:
        for phase, title in TITLES.items():
            own, other, judged = requests_verdict(middles, server, phase)
            below = f"< {show('requests', other)}"
            rows.append([f"{server}, {title}, requests", show("requests", own), below, "-", judged])
    return aligned(rows)


def as_json(samples: dict[Key, list[float]], versions: dict[str, str], rounds: int) -> str:
    """The whole run as a JSON document, in the form of compare.py's."""
    middles = medians(samples)
    figures = [
        key._asdict() | {"samples": values, "median": middles[key], "ratio": ratio(middles, key)}
        for key, values in samples.items()
    ]
    goals: list[dict[str, object]] = []
    for goal in GOALS:
        reached = goal_ratio(middles, goal)
        goals.append(asdict(goal) | {"reached": reached, "verdict": verdict(goal, reached)})
        own, other, judged = requests_verdict(middles, goal.corpus, goal.phase)
        goals.append({"title": f"{goal.title}, requests", "reached": own, "must": other, "verdict": judged})
    machine = {"cpus": os.cpu_count(), "architecture": platform.machine(), "kernel": platform.release()}
    line = {"round_trip_s": ROUND_TRIP_S, "rate": RATE}
    document = {"rounds": rounds, "machine": machine, "line": line, "versions": versions, "figures": figures}
    return json.dumps(document | {"goals": goals}, indent=2) + "\n"


# --- the command line ---


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = argparse.ArgumentParser(prog="distant.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--peers", type=existing_directory, required=True, metavar="DIR", help="holds the program restic")
    add("--corpus", type=existing_directory, required=True, metavar="DIR", help="holds linux")
    add("--work", type=existing_directory, default="/dev/shm", metavar="DIR", help="(default: %(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often to run everything (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    add("--only", type=names_among(SERVERS), default=list(SERVERS), metavar="NAMES", help=f"{','.join(SERVERS)}")
    add("--tools", type=names_among(TOOLS), default=list(TOOLS), metavar="NAMES", help=f"tools: {','.join(TOOLS)}")
    add("--backupforge", type=shlex.split, default=["backupforge"], metavar="CMD", help="how backupforge is started")
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
    samples: dict[Key, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="distant-", dir=arguments.work) as name:
        root = Path(name)
        sources = copy_sources(arguments.corpus, root / "sources")
        for server in arguments.only:
            samples |= measure_server(server, sources, root, arguments)
    middles = medians(samples)
    for server in arguments.only:
        print(f"\n{figure_table(middles, server, arguments.tools)}")
    print(f"\n{goal_table(middles, arguments.only)}")
    for key in unsteady(samples):
        note(f"unsteady: {key.tool}, {key.corpus}, {TITLES[key.phase]}: {samples[key]} s; was the machine busy?")
    if arguments.json:
        nowhere = Far(LongLine(0), Path(), "")
        contenders = [make_contender(name, arguments.peers, arguments.backupforge, nowhere) for name in arguments.tools]
        versions = {each.name: version_of(each.tool) for each in contenders}
        arguments.json.write_text(as_json(samples, versions, arguments.rounds))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status("distant.py", parser().parse_args(argv), compare)


if __name__ == "__main__":
    # SIGTERM ends the run like Ctrl-C: mounts ended, servers and children killed, directories removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
