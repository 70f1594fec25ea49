"""How fast a machine's VMA archive is read and backed up, and what a second backup stores after a little has changed.

Makes a raw disk of which half is zeros and VMA archives of it, and measures, each several times:

    read      taking the archive apart, without doing anything with it; from memory
    backup    a first backup of it into an empty repository, and a second one of the same archive
    changed   a second backup after 1 % of its data was written to, in stretches as large as files are

The archives are made by the program's own writer and read from a file in memory, in place of a node: what SSH and a
storage cost is not in the figures. benchmarks/README.md says what each figure means. Linux only.

    python -m benchmarks.vma
    python -m benchmarks.vma --size 1G --rounds 1        # a quick look
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from blake3 import blake3

from bfrepo.core.clock import SystemClock
from bfrepo.core.progress import Quiet
from bfrepo.core.units import MIB, parse_size
from bfrepo.exporter.sinks import open_file_sink
from bfrepo.formats.vma_reader import VmaReader
from bfrepo.operations.backup import BackupOptions, BackupResult, backup
from bfrepo.operations.vma import create_vma
from bfrepo.repository.config import new_config
from bfrepo.repository.repository import Repository, init_repository
from bfrepo.sources.proxmox.dump import Dump
from bfrepo.sources.proxmox.inventory import Guest
from bfrepo.sources.proxmox.machine import MachineSource
from bfrepo.storage.local import LocalBackend

T = TypeVar("T")

GUEST = Guest(100, "qemu", "vm", "node")
CHANGED = 0.01
STRETCHES = (1 * MIB, 16 * MIB)
"""How large the stretches are that change: between these, at any multiple of 4 KiB."""
READ_AIM = 500e6
"""Bytes of the disk that are read in a second of one processor."""
STORED_AIM = 0.015
"""Of the disk's data, what a second backup may add after 1 % of it was written to."""


@dataclass(frozen=True)
class Took:
    """What something took, in seconds."""

    wall: float
    cpu: float


class FromFile:
    """A node that sends an archive which is at hand."""

    shown = "node"

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)

    def readinto(self, buffer: memoryview, /) -> int:
        return self._file.readinto(buffer)

    def status(self) -> int:
        self._file.close()
        return 0

    def complaint(self) -> str:
        return ""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    with folder(options.work) as work:
        print(f"a disk of {options.size / 1e9:.2f} GB, half of it zeros; {options.rounds} rounds, medians\n")
        disk = make_disk(work / "disk.raw", options.size)
        archive = make_archive(disk, work / "vm.vma")
        measure_reading(archive, options.size, options.rounds)
        measure_backups(work, disk, archive, options.size, options.rounds)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=parse_size, default=parse_size("4G"), help="bytes of the disk (4G)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (3)")
    parser.add_argument("--work", type=Path, default=Path("/dev/shm"), help="where there is room for twice the disk")
    return parser.parse_args(arguments)


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="backupforge-vma.", dir=place))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def make_disk(path: Path, size: int) -> Path:
    """Data and zeros in stretches of 1 to 64 MiB; of the data a half can be compressed to a half."""
    chance = random.Random(1)
    with path.open("wb") as file:
        file.truncate(size)
        at = 0
        while at < size:
            length = min(chance.randrange(1, 65) * MIB, size - at)
            file.seek(at)
            for start in range(0, length, MIB):
                file.write(content(at + start, min(MIB, length - start)))
            at += 2 * length
    return path


def content(seed: int, size: int) -> bytes:
    whole = blake3(seed.to_bytes(8, "little")).digest(length=size)
    return whole if seed // MIB % 2 else (whole[: size // 2] * 2).ljust(size, b"x")


def change_disk(path: Path, size: int, seed: int) -> None:
    """Write to 1 % of the data of the disk."""
    chance, left = random.Random(seed), int(os.stat(path).st_blocks * 512 * CHANGED)
    with path.open("r+b") as file:
        while left > 0:
            length = min(chance.randrange(STRETCHES[0], STRETCHES[1], 4096), left)
            start = os.lseek(file.fileno(), chance.randrange(0, size - length, 4096), os.SEEK_DATA)
            file.seek(min(start, size - length))
            file.write(os.urandom(length))
            left -= length


def make_archive(disk: Path, path: Path) -> Path:
    config = path.with_suffix(".conf")
    config.write_text("memory: 512\n#qmdump#map:scsi0:drive-scsi0:local:raw:\n")
    path.unlink(missing_ok=True)
    with open_file_sink(os.fsencode(path)) as sink:
        disks = {"drive-scsi0": str(disk)}
        create_vma(sink, {"qemu-server.conf": str(config)}, disks, Quiet(), lambda: False, created_s=1)
    return path


def measure_reading(archive: Path, size: int, rounds: int) -> None:
    def read() -> None:
        with archive.open("rb", buffering=0) as file:
            for _ in VmaReader(file).runs():
                pass

    took = [timed(read)[0] for _ in range(rounds)]
    stored = archive.stat().st_size
    cpu, wall = (statistics.median(getattr(each, name) for each in took) for name in ("cpu", "wall"))
    verdict = "met" if size / cpu >= READ_AIM else "MISSED"
    print(f"read      {size / wall / 1e6:8.0f} MB/s of the disk, {size / cpu / 1e6:.0f} MB/s a core")
    print(f"          {stored / wall / 1e6:8.0f} MB/s of the archive, {stored / cpu / 1e6:.0f} MB/s a core")
    print(f"          goal {READ_AIM / 1e6:.0f} MB/s a core: {verdict}\n")


def measure_backups(work: Path, disk: Path, archive: Path, size: int, rounds: int) -> None:
    for number in range(rounds):
        repository = make_repository(work / "repository")
        first, made = timed(partial(back_up, repository, archive))
        data = made.stored.bytes_new
        again, _ = timed(partial(back_up, repository, archive))
        change_disk(disk, size, number)
        make_archive(disk, archive)
        later, changed = timed(partial(back_up, repository, archive))
        share = changed.stored.bytes_new / data
        print(f"backup    {size / first.wall / 1e6:8.0f} MB/s, {size / first.cpu / 1e6:.0f} MB/s a core")
        print(f"  again   {size / again.wall / 1e6:8.0f} MB/s, {size / again.cpu / 1e6:.0f} MB/s a core")
        print(f"changed   {size / later.wall / 1e6:8.0f} MB/s, {size / later.cpu / 1e6:.0f} MB/s a core")
        verdict = "met" if share <= STORED_AIM else "MISSED"
        kept = changed.stored.bytes_stored / made.stored.bytes_stored
        print(f"          adds {100 * share:.2f} % to the data, {100 * kept:.2f} % to what is stored")
        print(f"          goal {100 * STORED_AIM:.1f} %: {verdict}\n")
        repository.close()
        shutil.rmtree(work / "repository")


def make_repository(path: Path) -> Repository:
    path.mkdir()
    clock = SystemClock()
    config = new_config(created=clock.now().isoformat())
    return init_repository(LocalBackend(path), config, clock, password=b"benchmark", label="", host="")


def back_up(repository: Repository, archive: Path) -> BackupResult:
    def open_source() -> MachineSource:
        return MachineSource(Dump(FromFile(archive), GUEST), GUEST)

    options = BackupOptions(paths=(b"/qemu/100",), hostname="node", username="me", program="benchmark", read_once=True)
    return backup(repository, open_source, options, Quiet(), lambda: False)


def timed(work: Callable[[], T]) -> tuple[Took, T]:
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    result = work()
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(wall, cpu), result


if __name__ == "__main__":
    sys.exit(main())
