#!/usr/bin/env python3
"""The data plane against `rclone serve restic`: PUT and GET of packs of 16 MB, one after the other and 64 at once.

    python benchmarks/server_store.py [--packs 64] [--names sha256] [--folder /dev/shm]

Both servers keep their files in the same folder, which should be in memory: disks differ more than servers do. They
take turns, and the best of three rounds counts. rclone does not check what it gets, and does not wait for the disk; we
do both. Names are BLAKE3 hashes, as our client gives them, or SHA-256, as restic does. The client speaks plain HTTP
through sockets, and keeps nothing of what it gets.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from api.services.store_files import HASHES, Hash
from tests.support.rclone import serve
from tests.support.server import make_stage
from tests.support.serving import serving
from tests.support.store_client import ALL, basic

SIZE = 16_000_000
ROUNDS = 3


@dataclass(frozen=True)
class Server:
    """A server under test."""

    name: str
    port: int
    pid: int
    place: str
    headers: str


def ask(server: Server, method: str, name: str, body: bytes) -> int:
    """One request on a connection of its own; the bytes of the answer, which is not kept."""
    head = f"{method} {server.place}{name} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{server.headers}"
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        if body:
            connection.sendall(body)
        total = 0
        while count := connection.recv_into(buffer):
            if not total:
                assert buffer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 201")), bytes(buffer[:200])
            total += count
    return total


def timed(server: Server, method: str, packs: dict[str, bytes], parallel: int) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of the server."""
    cpu, began = cpu_of(server.pid), time.monotonic()
    with ThreadPoolExecutor(parallel) as pool:
        for _ in pool.map(lambda item: ask(server, method, f"data/{item[0]}", item[1]), packs.items()):
            pass
    return time.monotonic() - began, cpu_of(server.pid) - cpu


def cpu_of(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def name_of(data: bytes, hashed: Callable[[], Hash]) -> str:
    """The name of a pack."""
    hasher = hashed()
    hasher.update(data)
    return hasher.hexdigest()


def run(servers: list[Server], count: int, hashed: Callable[[], Hash]) -> None:
    """Every round with new packs; they are deleted again."""
    print(f"{count} packs of {SIZE / 1e6:.0f} MB; MB/s, and the server's CPU seconds for a GB")
    names = [server.name for server in servers]
    print(f"{'':8}{'at once':>8}" + "".join(f"{name:>22}" for name in names) + f"{'ratio':>8}")
    for parallel in (1, 64):
        best: dict[tuple[str, str], tuple[float, float]] = {}
        for _ in range(ROUNDS):
            packs = {name_of(data, hashed): data for data in (os.urandom(SIZE) for _ in range(count))}
            for server in servers:
                for method in ("POST", "GET"):
                    sent = packs if method == "POST" else dict.fromkeys(packs, b"")
                    result = timed(server, method, sent, parallel)
                    best[server.name, method] = min(best.get((server.name, method), result), result)
                for name in packs:
                    ask(server, "DELETE", f"data/{name}", b"")
        volume = count * SIZE
        for method, shown in (("POST", "PUT"), ("GET", "GET")):
            cells = [best[name, method] for name in names]
            line = "".join(f"{volume / wall / 1e6:>12.0f} {cpu / volume * 1e9:>8.2f}s" for wall, cpu in cells)
            print(f"{shown:8}{parallel:>8}{line}{cells[1][0] / cells[0][0]:>8.2f}")
    for server in servers:
        print(f"{server.name}: at most {memory_of(server.pid) / 1e6:.0f} MB of memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=64)
    parser.add_argument("--names", choices=sorted(HASHES), default="blake3")
    parser.add_argument("--folder", default="/dev/shm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="server-store-") as folder:
        stage = make_stage(Path(folder) / "data")
        token = f"Authorization: {basic(stage.api_token('alpha.admin', *ALL))}\r\n"
        with serving(stage) as ours, serve("restic", Path(folder) / "rclone") as other:
            servers = [
                Server("ours", ours.port, ours.process.pid, "/repo/alpha/main/", token),
                Server("rclone", other.port, other.pid, "/main/", ""),
            ]
            for server in servers:
                ask(server, "POST", "?create=true", b"")
            run(servers, options.packs, HASHES[options.names])


if __name__ == "__main__":
    main()
