"""A mount whose repository changes below it: new snapshots, snapshots that go, damage, a storage that is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from bfrepo.core.progress import Quiet
from bfrepo.core.units import MIB
from bfrepo.operations.forget import remove_snapshots
from bfrepo.operations.prune import PruneOptions, UnusedLimit, prune
from bfrepo.repository.repository import Repository
from tests.support.backups import incompressible, never, run_backup
from tests.support.campaign import campaign_s, is_campaign
from tests.support.damage import flipped
from tests.support.mounting import Mount, Mounted, eventually
from tests.support.program import process_environment
from tests.support.sources import Item

READERS = 24
NORMALLY_S = 8.0
CACHE = 16 * MIB
MOST_GROWTH = 32 * MIB
MOST_TO_WORK_WITH = 80 * MIB
"""Bytes besides the cache: each of a dozen threads needs up to 3 MiB, and glibc keeps some of what was freed."""
"""How much more memory a mount may have at the end than when all readers had begun."""


def shown(mounted: Mounted) -> set[str]:
    """The snapshots that are to be seen, by the start of their IDs."""
    return set(os.listdir(mounted.top / "ids"))


def add(repository: Repository, *files: str) -> str:
    """A snapshot of files named for their content, SEED-SIZE; the start of its ID."""
    tree = {f"data/{name}": Item(content=incompressible(*map(int, name.split("-")))) for name in files}
    made = run_backup(repository, tree).snapshot_id
    assert made is not None
    return made.hex()[:8]


def forget(repository: Repository, prefix: str) -> None:
    """Remove a snapshot, by the start of its ID."""
    (name,) = (path.name for path in (Path(repository.location) / "snapshots").glob(f"{prefix}*"))
    remove_snapshots(repository, [bytes.fromhex(name)], Quiet())


def prune_at_once(repository: Repository) -> None:
    """Prune without a grace time, and repack all that is used in part."""
    options = PruneOptions(grace=timedelta(0), max_unused=UnusedLimit.parse("0%"))
    prune(repository, options, Quiet(), never)


def error_of(path: Path) -> int | None:
    """The errno that reading a file gives; None where it can be read."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None


def test_snapshots_come_and_go(repository: Repository, mount: Mount) -> None:
    """New snapshots appear within seconds, and `latest` is the newest; those that are forgotten go."""
    first = add(repository, "1-1000")
    mounted = mount()
    assert shown(mounted) == {first}
    second = add(repository, "2-1000")
    eventually(lambda: shown(mounted) == {first, second})
    eventually(lambda: os.listdir(mounted.top / "latest" / "data") == ["2-1000"])
    forget(repository, first)
    eventually(lambda: shown(mounted) == {second})
    assert (mounted.top / "latest" / "data" / "2-1000").read_bytes() == incompressible(2, 1000)


def test_first_snapshot_of_an_empty_repository(repository: Repository, mount: Mount) -> None:
    """An empty repository can be mounted; its first snapshot appears in it."""
    mounted = mount()
    add(repository, "1-1000")
    eventually(lambda: (mounted.top / "latest" / "data" / "1-1000").exists())


def test_what_a_prune_moves_is_found(repository: Repository, mount: Mount) -> None:
    """What is mounted stays readable when a prune moves it to other packs, also for who has it open."""
    first, second = add(repository, "1-50000", "2-50000", "3-50000"), add(repository, "2-50000")
    mounted = mount("--cache-size", "0")
    file = mounted.top / "ids" / second / "data" / "2-50000"
    with file.open("rb", buffering=0) as opened:
        forget(repository, first)
        prune_at_once(repository)
        assert opened.read(100) == incompressible(2, 50000)[:100]
    assert file.read_bytes() == incompressible(2, 50000)


def test_damage_is_said_and_harms_nothing_else(repository: Repository, mount: Mount) -> None:
    """A file whose content is damaged gives EIO and a line that names it; all others can be read."""
    add(repository, "1-50000")
    before = packs(repository)
    add(repository, "1-50000", "2-50000", "3-700000")
    for pack in packs(repository) - before:
        if pack.stat().st_size > 100_000:  # that of content, not that of trees
            damage(pack)
    mounted = mount()
    folder = mounted.top / "latest" / "data"
    assert {name: error_of(folder / name) for name in sorted(os.listdir(folder))} == {
        "1-50000": None,
        "2-50000": None,
        "3-700000": errno.EIO,
    }
    line = next(line for line in mounted.said().splitlines() if "3-700000" in line)
    assert line.startswith("error: ids/") or line.startswith("error: latest") or "snapshots/" in line
    assert "damaged" in line or "authentic" in line or "does not" in line
    assert (folder / "1-50000").read_bytes() == incompressible(1, 50000)


def packs(repository: Repository) -> set[Path]:
    """The files of all packs."""
    return {path for path in (Path(repository.location) / "packs").rglob("*") if path.is_file()}


def damage(pack: Path) -> None:
    """Flip a bit in every 8 KiB of the second half."""
    content = pack.read_bytes()
    for position in range(len(content) // 2, len(content) - 5000, 8192):
        content = flipped(content, position)
    pack.chmod(0o600)
    pack.write_bytes(content)


def test_a_lost_storage_comes_back(repository: Repository, mount: Mount) -> None:
    """While the storage is away what is not at hand gives EIO; when it is back everything can be read again."""
    add(repository, "1-50000")
    add(repository, "1-50000", "2-50000")
    mounted = mount("--cache-size", "0")
    folder = mounted.top / "latest" / "data"
    assert set(os.listdir(folder)) == {"1-50000", "2-50000"}
    place = Path(repository.location)
    away = place.rename(place.with_name("away"))
    try:
        assert error_of(folder / "2-50000") == errno.EIO
        eventually(lambda: "cannot look for new snapshots" in mounted.said())
    finally:
        away.rename(place)
    assert (folder / "2-50000").read_bytes() == incompressible(2, 50000)
    new = add(repository, "3-50000")
    eventually(lambda: new in shown(mounted))
    assert mounted.said().count("cannot look for new snapshots") == 1


def test_a_storage_that_hangs_keeps_nobody_else(repository: Repository, mount: Mount) -> None:
    """Who waits for a storage that does not answer waits alone: others read on, and a signal ends the mount."""
    first = add(repository, "1-50000")
    before = packs(repository)
    add(repository, "1-50000", "2-50000")
    for pack in packs(repository) - before:
        content = pack.read_bytes()
        if len(content) > 30_000:  # that of content, not that of trees
            pack.unlink()
            os.mkfifo(pack)  # whoever opens it waits
    mounted = mount()
    folder = mounted.top / "latest" / "data"
    with subprocess.Popen(["cat", folder / "2-50000"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as waiting:
        time.sleep(0.5)
        assert (mounted.top / "ids" / first / "data" / "1-50000").read_bytes() == incompressible(1, 50000)
        assert set(os.listdir(folder)) == {"1-50000", "2-50000"}
        assert waiting.poll() is None
        assert mounted.signal(signal.SIGTERM) == 0
        assert waiting.wait(60) == 1


@dataclass
class Crowd:
    """Processes that read."""

    readers: list[subprocess.Popen[bytes]]
    reads: int = 0
    errors: list[tuple[str, int]] = field(default_factory=list)

    def disperse(self) -> None:
        """Tell them to end, and gather what they say."""
        for reader in self.readers:
            said, _ = reader.communicate(timeout=120)
            assert reader.returncode == 0
            told = json.loads(said)
            self.reads += told["reads"]
            self.errors += [(snapshot, number) for snapshot, number in told["errors"]]


@contextmanager
def crowd(top: Path) -> Iterator[Crowd]:
    """Readers at work below a mount."""
    line = [sys.executable, "-m", "tests.support.reader", "crowd", str(top / "ids")]
    readers = [
        subprocess.Popen([*line, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=process_environment({}))
        for seed in range(READERS)
    ]
    try:
        yield Crowd(readers)
    finally:
        for reader in readers:
            reader.kill()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_readers_while_snapshots_come_and_go(repository: Repository, mount: Mount) -> None:
    """Many readers beside backups, forgets and prunes: content is right, errors are due, and memory stays flat."""
    chance, duration = random.Random(3), campaign_s(NORMALLY_S)
    kept, gone = [add(repository, *some_files(chance))], set[str]()
    passing = [add(repository, *some_files(chance))]
    mounted = mount("--cache-size", str(CACHE))
    memory: list[int] = []
    before = mounted.resident_bytes()
    with crowd(mounted.top) as readers:
        end = time.monotonic() + duration
        while time.monotonic() < end:
            passing.append(add(repository, *some_files(chance)))
            if len(passing) > 4:
                forget(repository, passing[0])
                gone.add(passing.pop(0))
                prune_at_once(repository)
            time.sleep(0.5)
            if time.monotonic() > end - duration * 2 / 3:
                memory.append(mounted.resident_bytes())
        readers.disperse()
    assert readers.reads > READERS
    assert [error for error in readers.errors if error[0] not in {*gone, ""}] == []
    assert {number for _, number in readers.errors} <= {errno.EIO, errno.ENOENT, errno.ESTALE}
    assert max(memory) - before < CACHE + MOST_TO_WORK_WITH
    if is_campaign():  # on a busy machine readers are not all at work before a normal run is over
        assert max(memory[len(memory) // 2 :]) - memory[0] < MOST_GROWTH
    for snapshot in kept:
        for file in (mounted.top / "ids" / snapshot / "data").iterdir():
            assert error_of(file) is None
    mounted.unmount()


def some_files(chance: random.Random) -> Sequence[str]:
    """Files of which other trees have some as well."""
    return [f"{seed}-{1 + seed * 997 % 300_000}" for seed in chance.sample(range(300), 40)]
