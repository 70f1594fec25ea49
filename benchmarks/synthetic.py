"""How a repository with millions of blobs and a thousand snapshots behaves, and how that grows.

Makes repositories with the library's own writers: packs with real directories, an index in as many objects as backups
write, real trees. Only the files are tiny, 16 bytes each, so that ten million of them fit into memory. Then everyday
commands run on them, each as a process of its own, and what they took is shown. benchmarks/README.md says what each
figure means. Linux only.

    python -m benchmarks.synthetic --blobs 1000000,10000000
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from blake3 import blake3

from benchmarks.figures import aligned, in_units
from benchmarks.options import existing_directory, exit_status, positive, start
from benchmarks.places import memory_at_hand
from benchmarks.running import PASSWORD, BenchmarkError, Measure, Pipeline, find_program, note, run
from bfrepo.compression import Compressor
from bfrepo.core.clock import SystemClock
from bfrepo.core.ids import BlobKind
from bfrepo.data.node import Node
from bfrepo.data.snapshot import SNAPSHOT_VERSION, Snapshot, encode_snapshot
from bfrepo.data.tree import save_tree
from bfrepo.pack.writer import FrameSealer
from bfrepo.repository.config import new_config
from bfrepo.repository.packing import PackPool
from bfrepo.repository.repository import Repository, init_repository, open_repository
from bfrepo.repository.saver import Saver, SaverOptions
from bfrepo.storage.base import ObjectKind
from bfrepo.storage.local import LocalBackend

FILES = 20
"""Files of one blob each in a directory."""
LEAVES = 100
"""Directories in a directory above them, and of those again in one above."""
FRAME_BLOBS = 64
PACK_BYTES = 17_000
"""Bytes after which a pack of tiny files is full: about 1,000 blobs, as in a pack of 64 MiB whose files have 64 KiB."""
BLOB_BYTES = 16
FORGOTTEN = 0.05
"""Of all snapshots, so many were the oldest and are forgotten: what only they need is for a prune to find."""
START = datetime(2020, 1, 1, tzinfo=UTC)

OPEN_AIM_S = 2.0
OPEN_AIM_BYTES = 700e6
AIM_BLOBS = 10_000_000

TITLES = {
    "first": "open, no cache",
    "open": "open",
    "list": "list",
    "plan": "prune --dry-run",
    "check": "check",
}


# --- making a repository ---


class Maker:
    """Fills a repository: leaves of files, directories above them, and a snapshot after each change."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        config, table, objects = repository.config, repository.index.table, repository.objects
        self._sealer = FrameSealer(Compressor(config.compression), verify=False)
        self._pool = PackPool(
            table, repository.backend, objects, repository.keys.pack_key, repository.id, repository.clock, PACK_BYTES, 1
        )
        self.trees: Saver = repository.make_saver(SaverOptions(config.compression, config.pack_size, 2, verify=False))
        self._ids = self._new_files()
        self._frames = 0

    def leaf(self) -> bytes:
        """The tree of a directory whose files nobody else has."""
        return save_tree(
            self.trees, [_node(b"file-%02d.c" % number, content=next(self._ids)) for number in range(FILES)]
        )

    def directory(self, trees: Sequence[bytes]) -> bytes:
        """The tree of a directory of directories."""
        nodes = [_node(b"directory-%03d" % number, subtree=tree) for number, tree in enumerate(trees)]
        return save_tree(self.trees, nodes)

    def snapshot(self, data: bytes, number: int) -> None:
        """A snapshot of what is in /data, made `number` days after the first."""
        snapshot = Snapshot(
            version=SNAPSHOT_VERSION,
            time=(START + timedelta(days=number)).isoformat(),
            tree=save_tree(self.trees, [_node(b"data", subtree=data)]),
            paths=[b"/data"],
            hostname="synthetic",
            username="root",
            program="benchmarks",
        )
        self._repository.objects.save(ObjectKind.SNAPSHOT, encode_snapshot(snapshot))

    def finish(self) -> None:
        """Make everything durable."""
        self._pool.finish()
        self._pool.write_index()
        self.trees.flush()
        self.trees.close()

    def _new_files(self) -> Iterator[bytes]:
        """Blob IDs without end; each is stored by the time it is given."""
        hash_blob = self._repository.blob_hash
        sizes = array("I", [BLOB_BYTES]) * FRAME_BLOBS
        while True:
            self._frames += 1
            plain = memoryview(blake3(self._frames.to_bytes(8, "little")).digest(length=BLOB_BYTES * FRAME_BLOBS))
            ids = [hash_blob(plain[at : at + BLOB_BYTES]) for at in range(0, len(plain), BLOB_BYTES)]
            pack = self._pool.take(BlobKind.DATA)
            self._sealer.add(pack, self._sealer.compress(plain), b"".join(ids), sizes)
            self._pool.put_back(BlobKind.DATA, pack)
            yield from ids


def _node(name: bytes, *, content: bytes = b"", subtree: bytes = b"") -> Node:
    """A node with the metadata that a backup by the superuser finds."""
    return Node(
        name=name,
        type="dir" if subtree else "file",
        mode=0o755 if subtree else 0o644,
        user="root",
        group="root",
        mtime_ns=1_600_000_000_123_456_789,
        ctime_ns=1_600_000_000_123_456_789,
        inode=int.from_bytes((content or subtree)[:4], "little"),
        size=BLOB_BYTES if content else 0,
        content=content,
        subtree=subtree,
    )


def make_repository(place: Path, blobs: int, snapshots: int) -> None:
    """A repository with about `blobs` blobs. The first snapshot has half of them, each later one replaces some."""
    clock = SystemClock()
    config = new_config(created=clock.now().isoformat())
    backend = LocalBackend(place)
    with init_repository(backend, config, clock, password=PASSWORD.encode()) as repository:
        maker = Maker(repository)
        rounds = round(snapshots / (1 - FORGOTTEN))
        leaves = [maker.leaf() for _ in range(max(1, blobs // (FILES + 1) // 2))]
        middles = [maker.directory(part) for part in _parts(leaves)]
        changed = max(1, len(leaves) // rounds)
        for number in range(rounds):
            if number >= rounds - snapshots:
                tops = [maker.directory(part) for part in _parts(middles)]
                maker.snapshot(maker.directory(tops), number)
            places = [at % len(leaves) for at in range(number * changed, (number + 1) * changed)]
            for at in places:
                leaves[at] = maker.leaf()
            for part in {at // LEAVES for at in places}:
                middles[part] = maker.directory(leaves[part * LEAVES : (part + 1) * LEAVES])
        maker.finish()


def _parts(trees: list[bytes]) -> list[list[bytes]]:
    return [trees[at : at + LEAVES] for at in range(0, len(trees), LEAVES)]


# --- measuring ---


def open_only(place: Path, cache: Path) -> None:
    """What every command begins with: the keys, and the index in memory."""
    backend = LocalBackend(place)
    with open_repository(backend, SystemClock(), PASSWORD.encode, cache_dir=cache) as repository:
        repository.refresh_index()
        print(len(repository.index.table))


def phases(program: list[str], place: Path, cache: Path) -> dict[str, Pipeline]:
    """The command line of each phase."""
    itself = [sys.executable, "-m", "benchmarks.synthetic", "--open", str(place), "--cache", str(cache)]
    start = [*program, "-r", str(place), "--cache-dir", str(cache)]
    return {
        "first": [itself],
        "open": [itself],
        "list": [[*start, "list"]],
        "plan": [[*start, "prune", "--dry-run"]],
        "check": [[*start, "check"]],
    }


@dataclass(frozen=True, slots=True)
class Size:
    """One repository: its blobs, what it takes on the storage, and the figures of each phase."""

    blobs: int
    stored_bytes: int
    figures: dict[str, Measure]


def measure(program: list[str], work: Path, blobs: int, snapshots: int) -> Size:
    """Make a repository, run every phase on it, remove it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BACKUPFORGE_")}
    environment |= {"BACKUPFORGE_PASSWORD": PASSWORD, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with tempfile.TemporaryDirectory(prefix="synthetic-", dir=work) as name:
        place, cache, log = Path(name, "repository"), Path(name, "cache"), Path(name, "log")
        # In a process of its own: its memory is given back before anything is measured.
        itself = [sys.executable, "-m", "benchmarks.synthetic", "--make", str(place), "--snapshots", str(snapshots)]
        made = run([[*itself, "--blobs", str(blobs)]], cwd=Path(name), environment=environment, log_path=log)
        stored = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        note(f"{blobs:,} blobs: made in {made.wall_s:.0f} s, {in_units(stored)}")
        figures = {}
        for phase, pipeline in phases(program, place, cache).items():
            with memory_at_hand(work, stored):
                figures[phase] = run(pipeline, cwd=Path(name), environment=environment, log_path=log)
            note(f"{blobs:,} blobs, {TITLES[phase]}: {show(figures[phase])}")
            if phase == "open":
                blobs = int(log.read_text())
        return Size(blobs, stored, figures)


# --- showing ---


def show(measured: Measure) -> str:
    """Time and peak memory."""
    return f"{measured.wall_s:.2f} s, {in_units(measured.peak_bytes)}"


def table(sizes: Sequence[Size]) -> str:
    """A row for each phase, a column for each size, and how the last compares with the first."""
    head = ["", *(f"{size.blobs:,} blobs" for size in sizes)]
    rows = [[*head, "growth"], ["stored", *(in_units(size.stored_bytes) for size in sizes), growth(sizes, None)]]
    for phase, title in TITLES.items():
        cells = [show(size.figures[phase]) for size in sizes]
        rows.append([title, *cells, growth(sizes, phase)])
    return aligned(rows)


def growth(sizes: Sequence[Size], phase: str | None) -> str:
    """How many times more time and memory (or, for no phase, stored bytes) the last size takes than the first."""
    first, last = sizes[0], sizes[-1]
    if phase is None:
        return f"{last.stored_bytes / first.stored_bytes:.1f}x"
    before, after = first.figures[phase], last.figures[phase]
    return f"{after.wall_s / before.wall_s:.1f}x, {after.peak_bytes / before.peak_bytes:.1f}x"


def verdicts(sizes: Sequence[Size]) -> list[str]:
    """Whether the aim of the design is met, for each size that it speaks of."""
    lines = []
    for size in sizes:
        if size.blobs >= AIM_BLOBS * 0.9:
            opened = size.figures["open"]
            met = opened.wall_s < OPEN_AIM_S and opened.peak_bytes < OPEN_AIM_BYTES
            aim = f"under {OPEN_AIM_S:.0f} s and {in_units(OPEN_AIM_BYTES)}"
            lines.append(f"{size.blobs:,} blobs open in {aim}: {'met' if met else 'missed'} ({show(opened)})")
    return lines


def as_json(sizes: Sequence[Size], snapshots: int) -> str:
    """The whole run as a JSON document."""
    return json.dumps({"snapshots": snapshots, "sizes": [asdict(size) for size in sizes]}, indent=2) + "\n"


# --- the command line ---


def numbers(text: str) -> list[int]:
    """An argparse type: whole numbers of at least 1, separated by commas."""
    return [positive(part) for part in text.split(",")]


def parser() -> argparse.ArgumentParser:
    """The command line of this program."""
    made = argparse.ArgumentParser(prog="synthetic.py", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    add = made.add_argument
    add("--blobs", type=numbers, default=[1_000_000, 10_000_000], metavar="N,...", help="(default: 1 and 10 million)")
    add("--snapshots", type=positive, default=1000, metavar="N", help="(default: %(default)s)")
    add("--work", type=existing_directory, default="/dev/shm", metavar="DIR", help="(default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    add("--backupforge", type=shlex.split, default=["backupforge"], metavar="CMD", help="how backupforge is started")
    add("--make", type=Path, metavar="DIR", help="only make a repository, and keep it")
    add("--open", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    add("--cache", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program. Returns its exit status (argparse: 2 for wrong usage)."""
    return exit_status(parser(), argv, do_as_told)


def do_as_told(arguments: argparse.Namespace) -> None:
    """Measures, or only what was asked for."""
    if arguments.open:
        open_only(arguments.open, arguments.cache)
    elif arguments.make:
        make_repository(arguments.make, arguments.blobs[0], arguments.snapshots)
    else:
        compare_sizes(arguments)


def compare_sizes(arguments: argparse.Namespace) -> None:
    """The whole run: measures, prints the table, writes the JSON."""
    command = arguments.backupforge
    program = [find_program(command[0]), *command[1:]]
    work = Path(arguments.work)
    free = shutil.disk_usage(work).free
    if free < 200 * max(arguments.blobs):
        raise BenchmarkError(f"{work} has {in_units(free)} free: name another --work, or fewer --blobs")
    sizes = [measure(program, work, blobs, arguments.snapshots) for blobs in arguments.blobs]
    print(f"\n{table(sizes)}")
    for line in verdicts(sizes):
        print(line)
    if arguments.json:
        arguments.json.write_text(as_json(sizes, arguments.snapshots))


if __name__ == "__main__":
    start(main)
