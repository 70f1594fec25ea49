"""Asks a server for lists and statistics, and counts how many answers it gives on one processor.

The server is started anew, on SQLite and a loopback address, pinned to the last processor; who asks runs on the others.
"Per second" is of the processor's seconds that the server took, as other programs may want the processor, too.
A tenant has a repository with 10,000 snapshots, which are written straight into its store. Each request is asked one at
a time over one connection, which gives the median, and then over eight at once, which gives the throughput.

    python -m benchmarks.server [--snapshots 10000] [--json figures.json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from api.services.store_backend import StoreBackend
from benchmarks.figures import aligned, machine
from benchmarks.options import existing_directory, exit_status, positive, start
from benchmarks.running import BenchmarkError, kill, note
from bfrepo.core.clock import SystemClock
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot, SnapshotSummary, encode_snapshot
from bfrepo.data.tree import save_tree
from bfrepo.repository.repository import open_repository
from bfrepo.repository.saver import SaverOptions
from bfrepo.storage.base import ObjectKind

MEDIAN_MS = 10.0
PER_SECOND = 500.0
"""What must be."""

ONE_BY_ONE = 300
AT_ONCE = 8
FOR_S = 5.0
READY_WITHIN_S = 60
EMAIL, PASSWORD = "root@example.org", "correct horse battery"

PATHS = {
    "snapshots": "/api/snapshots",
    "snapshots, 500 of them": "/api/snapshots?limit=500",
    "snapshots of a host": "/api/snapshots?host=host7",
    "statistics": "/api/storage/stats",
    "who am I": "/api/auth/me",
    "health": "/healthz",
}
JUDGED = ("snapshots", "statistics")


@dataclass(frozen=True, slots=True)
class Figure:
    """What one path gave: ms of the median and of the slowest of a hundred, answers per second of the clock and of the
    processor, and the bytes of an answer."""

    median_ms: float
    slow_ms: float
    per_second: float
    per_cpu_second: float
    size: int


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers, and a token for it."""

    process: subprocess.Popen[str]
    address: tuple[str, int]
    token: str

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request; the answer's JSON. Raises BenchmarkError for anything but success."""
        connection = HTTPConnection(*self.address, timeout=60)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if answer.status >= 300:
            raise BenchmarkError(f"{method} {path}: {answer.status} {data.decode(errors='replace')}")
        return json.loads(data) if data else None

    def cpu_s(self) -> float:
        """The processor's seconds that the process has taken so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_bytes(self) -> int:
        """The most memory that the process has had so far."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@contextmanager
def serving(data: Path) -> Iterator[Server]:
    """A server on one processor, with its first administrator. Raises BenchmarkError when it does not start."""
    pinned = ["taskset", "-c", str(max(os.sched_getaffinity(0)))]
    command = [sys.executable, "-m", "cli", "--json", "server", "--listen", "127.0.0.1:0", "--data", str(data)]
    process = subprocess.Popen([*pinned, *command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        said = {line["message_type"]: line for line in (_line(process), _line(process))}
        url = urlsplit(said["listening"]["url"])
        address = (str(url.hostname), int(url.port or 0))
        credentials = {"email": EMAIL, "password": PASSWORD}
        nobody = Server(process, address, "")
        nobody.ask("POST", "/api/auth/register", {**credentials, "secret": said["first_secret"]["secret"]})
        yield Server(process, address, nobody.ask("POST", "/api/auth/login", credentials)["token"])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        finally:
            kill([process])  # type: ignore[list-item]


def _line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    text = process.stdout.readline()
    if not text:
        raise BenchmarkError("the server did not start")
    return json.loads(text)


def fill(server: Server, data: Path, count: int) -> str:
    """A repository with so many snapshots of one small tree; its ID."""
    made = server.ask("POST", "/api/repositories", {"name": "many", "location": "store:many", "create": True})
    tenant = server.ask("GET", "/api/auth/me")["tenant_id"]
    backend = StoreBackend(data / "stores" / tenant / "many", "many", append_only=False)
    with open_repository(backend, SystemClock(), lambda: b"") as repository:
        repository.refresh_index()
        config = repository.config
        saver = repository.make_saver(SaverOptions(config.compression, config.pack_size, 1))
        tree = save_tree(saver, [])
        saver.flush()
        saver.close()
        start = datetime(2020, 1, 1, tzinfo=UTC)
        for number in range(count):
            snapshot = Snapshot(
                version=SNAPSHOT_VERSION,
                time=(start + timedelta(hours=number)).isoformat(),
                tree=tree,
                paths=[b"/srv/data", b"/home"],
                hostname=f"host{number % 50}",
                username="root",
                tags=["daily"],
                program="backupforge",
                summary=SnapshotSummary(files=100_000, dirs=5_000, size=10**10, files_new=number),
            )
            repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(snapshot))
    return str(made["id"])


class Asker:
    """Asks for one path again and again over one connection, with as little work as can be."""

    def __init__(self, server: Server, path: str) -> None:
        host, port = server.address
        self._request = (
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {server.token}\r\n\r\n"
        ).encode()
        self._socket = socket.create_connection(server.address, timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.size = 0

    def ask(self) -> float:
        """The seconds until the whole answer was there. Raises BenchmarkError."""
        begun = time.perf_counter()
        self._socket.sendall(self._request)
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head = bytes(data[:end]).decode().lower()
        if not head.startswith("http/1.1 200 "):
            raise BenchmarkError(f"the server answers {head.splitlines()[0]}")
        self.size = int(head.partition("content-length:")[2].split("\r\n")[0])
        left = self.size - (len(data) - end - 4)
        while left > 0:
            left -= len(self._more())
        return time.perf_counter() - begun

    def close(self) -> None:
        """The connection ends."""
        self._socket.close()

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise BenchmarkError("the server closed the connection")
        return data


def measure(server: Server, path: str, seconds: float) -> Figure:
    """One path, one request at a time and then many."""
    asker = Asker(server, path)
    for _ in range(20):
        asker.ask()
    times = sorted(asker.ask() for _ in range(ONE_BY_ONE))
    asker.close()
    before = server.cpu_s()
    answers = throughput(server, path, seconds)
    return Figure(
        median_ms=statistics.median(times) * 1000,
        slow_ms=times[len(times) * 99 // 100] * 1000,
        per_second=answers / seconds,
        per_cpu_second=answers / max(server.cpu_s() - before, 0.01),
        size=asker.size,
    )


def throughput(server: Server, path: str, seconds: float) -> int:
    """How many answers several get who ask at once, in so many seconds."""
    until = time.perf_counter() + seconds
    counts = [0] * AT_ONCE

    def ask_on(number: int) -> None:
        asker = Asker(server, path)
        while time.perf_counter() < until:
            asker.ask()
            counts[number] += 1
        asker.close()

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def wait_until_measured(server: Server) -> None:
    """Statistics are worked out in the background, within a minute of the first look. Raises BenchmarkError."""
    deadline = time.monotonic() + 3 * READY_WITHIN_S
    while server.ask("GET", "/api/storage/stats")["repositories"][0]["sums"] is None:
        if time.monotonic() > deadline:
            raise BenchmarkError("the repository was not measured")
        time.sleep(1)


def verdict(name: str, figure: Figure) -> str:
    """Whether what must be is."""
    if name not in JUDGED:
        return "-"
    return "met" if figure.median_ms < MEDIAN_MS and figure.per_cpu_second >= PER_SECOND else "missed"


def table(figures: dict[str, Figure]) -> str:
    """All figures, and whether they are what they must be."""
    rows = [
        [
            "request",
            "median",
            "of 100 the slowest",
            "per second",
            "of CPU",
            "answer",
            f"< {MEDIAN_MS:g} ms, {PER_SECOND:g}/s",
        ]
    ]
    for name, figure in figures.items():
        size = f"{figure.size / 1000:.1f} kB"
        times = (
            f"{figure.median_ms:.2f} ms",
            f"{figure.slow_ms:.2f} ms",
            f"{figure.per_second:.0f}",
            f"{figure.per_cpu_second:.0f}",
        )
        rows.append([name, *times, size, verdict(name, figure)])
    return aligned(rows)


def as_json(figures: dict[str, Figure], snapshots: int, peak_bytes: int) -> str:
    """The whole run as a JSON document."""
    shown = [asdict(figure) | {"request": name, "verdict": verdict(name, figure)} for name, figure in figures.items()]
    document = {"snapshots": snapshots, "machine": machine(), "peak_bytes": peak_bytes, "figures": shown}
    return json.dumps(document, indent=2) + "\n"


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = argparse.ArgumentParser(prog="server.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    made.add_argument("--snapshots", type=positive, default=10_000, help="how many the repository has")
    made.add_argument("--work", type=existing_directory, default="/dev/shm", help="where the server keeps its data")
    made.add_argument("--json", type=Path, help="a file for every figure")
    return made


def measure_all(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the table, writes the JSON."""
    with tempfile.TemporaryDirectory(prefix="server-", dir=arguments.work) as place:
        data = Path(place) / "data"
        with serving(data) as server:
            note(f"{arguments.snapshots} snapshots are made")
            fill(server, data, arguments.snapshots)
            wait_until_measured(server)
            figures = {}
            for name, path in PATHS.items():
                note(name)
                figures[name] = measure(server, path, FOR_S)
            peak_bytes = server.peak_bytes()
    print(table(figures))
    print(f"\npeak memory of the server: {peak_bytes / 1e6:.0f} MB")
    if arguments.json:
        arguments.json.write_text(as_json(figures, arguments.snapshots, peak_bytes))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(parser(), argv, measure_all)


if __name__ == "__main__":
    start(main)
