"""Reading from a mount, in every way that programs read: the bytes are those of the source."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bfrepo.core.units import MIB
from bfrepo.repository.repository import Repository
from tests.support.backups import incompressible, run_backup
from tests.support.campaign import is_campaign
from tests.support.directories import back_up
from tests.support.mounting import Mount
from tests.support.program import process_environment
from tests.support.sources import Item

PROCESSES = 8


def make_files(top: Path) -> None:
    """Files of many sizes, of noise, of text, and with holes; some larger than what a mount keeps in these tests."""
    chance = random.Random(1)
    for number in range(40):
        size = chance.choice((0, 1, 4095, 4096, 4097, chance.randrange(100_000), chance.randrange(2 * MIB)))
        content = incompressible(number, size)
        (top / f"noise-{number}").write_bytes(content)
        (top / f"text-{number}").write_bytes(content.hex().encode()[:size])
    with (top / "sparse").open("wb") as file:
        file.truncate(20 * MIB)
        for offset in range(0, 18 * MIB, 3 * MIB):
            os.pwrite(file.fileno(), incompressible(offset, 70_000), offset + 11_111)
    (top / "large").write_bytes(incompressible(99, 24 * MIB))


@pytest.mark.timeout(1800)
def test_random_reads(repository: Repository, source: Path, mount: Mount) -> None:
    """Eight processes read random pieces of many files by pread, mmap and sendfile: all are those of the source."""
    make_files(source)
    back_up(repository, source)
    mounted = mount("--cache-size", "8M")
    count = 100_000 // PROCESSES if is_campaign() else 300
    readers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.reader", "random", source, mounted.at(source), str(seed), str(count)],
            stdout=subprocess.PIPE,
            env=process_environment({}),
        )
        for seed in range(PROCESSES)
    ]
    said = [reader.communicate()[0] for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * PROCESSES
    assert [json.loads(each)["reads"] for each in said] == [count] * PROCESSES
    assert mounted.said().count("\n") == 0 or "error" not in mounted.said()


@pytest.mark.root
def test_disk_image(repository: Repository, source: Path, tmp_path: Path, mount: Mount) -> None:
    """A file system inside a file of a snapshot can be mounted from there, read-only, and has its files."""
    content, image, place = tmp_path / "content", source / "disk.img", tmp_path / "image"
    (content / "below").mkdir(parents=True)
    (content / "below" / "file").write_bytes(incompressible(1, 3 * MIB))
    subprocess.run(["mkfs.ext4", "-q", "-d", content, image, "16M"], check=True, capture_output=True)
    place.mkdir()
    loop = ["mount", "-o", "loop,ro,noload"]
    if subprocess.run([*loop, image, place], check=False, capture_output=True).returncode:
        pytest.skip("this system mounts no images, not even the one that is backed up")
    subprocess.run(["umount", place], check=True)
    back_up(repository, source)
    mounted = mount()
    subprocess.run([*loop, mounted.at(image), place], check=True)
    try:
        assert (place / "below" / "file").read_bytes() == incompressible(1, 3 * MIB)
    finally:
        subprocess.run(["umount", place], check=True)
    mounted.unmount()


@pytest.mark.slow
def test_large_directory(repository: Repository, mount: Mount) -> None:
    """A directory of 100,000 entries lists each once, and finds each."""
    names = [f"{number:06}" for number in range(100_000)]
    run_backup(repository, {f"data/{name}": Item(content=name.encode()) for name in names})
    folder = mount().top / "latest" / "data"
    listed = os.listdir(folder)
    assert len(listed) == len(names)
    assert set(listed) == set(names)
    with os.scandir(folder) as entries:
        assert sum(entry.is_file() for entry in entries) == len(names)
    for name in random.Random(1).sample(names, 200):
        assert (folder / name).read_bytes() == name.encode()
    assert not (folder / "none").exists()


def test_names_of_any_bytes(repository: Repository, mount: Mount) -> None:
    """Names that are no text are the bytes that they were."""
    names = [b"\xff\xfe", b"a\nb", "ü".encode(), b"\x80" * 255, b" ", b"\\", b"*"]
    run_backup(repository, {"data/" + os.fsdecode(name): Item(content=name) for name in names})
    folder = bytes(mount().top) + b"/latest/data"
    assert sorted(os.listdir(folder)) == sorted(names)
    for name in names:
        assert Path(os.fsdecode(folder + b"/" + name)).read_bytes() == name
