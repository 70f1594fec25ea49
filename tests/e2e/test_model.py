"""Random trees, random edits, backups and restores in any order: every snapshot gives back exactly what was there.

What was there is what the file system itself tells (`census`). A second tree, the target, is edited as well and
restored over, so that whatever stands in the way has to give way.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from bfrepo.core.clock import SystemClock
from bfrepo.core.progress import Quiet
from bfrepo.operations.check import CheckOptions, check
from bfrepo.storage.memory import MemoryBackend
from tests.support.backups import incompressible, never
from tests.support.directories import Seen, above, back_up, census, restore_to
from tests.support.repositories import make_repository, reopen

PACK_SIZE = 96 << 10
LONG_AGO_S = 1_000_000_000

NAMES = (b"a", b"b", b"c", b"A", b"\xff\n")
SIZES = st.one_of(st.integers(0, 3), st.sampled_from([100, 4095, 4096, 4097, 16384, 70_000]), st.integers(0, 100_000))

roots = st.sampled_from(["tree", "tree", "target"])
names = st.sampled_from(NAMES)
contents = st.builds(
    lambda seed, size: bytes(size) if seed == 0 else incompressible(seed, size), st.integers(0, 4), SIZES
)
picks = st.integers(0, 1_000_000)


def seen(top: Path) -> dict[bytes, Seen]:
    """A census that takes zeros and holes for the same."""
    return {path: replace(each, data=()) for path, each in census(top).items()}


class Machine(RuleBasedStateMachine):
    """A tree, a target, a repository, and what was there whenever a snapshot was made."""

    folder: ClassVar[Path]

    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir=self.folder))
        for each in ("work/tree", "out/tree"):
            (self.base / each).mkdir(parents=True)
        self.backend = MemoryBackend()
        self.repository = make_repository(self.backend, pack_size=PACK_SIZE, clock=SystemClock())
        self.states: dict[bytes, dict[bytes, Seen]] = {}
        self.moments = count(LONG_AGO_S)

    # ---- edits

    @rule(root=roots, pick=picks, name=names, content=contents)
    def create(self, root: str, pick: int, name: bytes, content: bytes) -> None:
        """A new file, or another one in place of an old one."""
        with suppress(IsADirectoryError):
            path = self.directory(root, pick) / os.fsdecode(name)
            with suppress(FileNotFoundError):
                path.unlink()
            path.write_bytes(content)
            self.edited(root, path)

    @rule(root=roots, pick=picks, name=names, kind=st.sampled_from(["dir", "dir", "symlink", "fifo"]))
    def make(self, root: str, pick: int, name: bytes, kind: str) -> None:
        """A directory, a symlink or a fifo."""
        path = self.directory(root, pick) / os.fsdecode(name)
        with suppress(FileExistsError):
            if kind == "dir":
                path.mkdir()
            elif kind == "fifo":
                os.mkfifo(path)
            else:
                path.symlink_to(f"target {pick}")
            self.edited(root, path)

    @rule(root=roots, pick=picks, content=contents, where=st.floats(0, 1), keeps_mtime=st.booleans())
    def write(self, root: str, pick: int, content: bytes, where: float, keeps_mtime: bool) -> None:
        """Overwrite a part of a file, perhaps as programs do that set the time back; its size stays if it fits."""
        for path in self.pick(root, pick, files=True):
            before = path.stat()
            with path.open("r+b") as file:
                file.seek(int(where * before.st_size))
                file.write(content)
            self.edited(root, path)
            if keeps_mtime and root == "tree":
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(root=roots, pick=picks, content=contents)
    def append(self, root: str, pick: int, content: bytes) -> None:
        """A file grows."""
        for path in self.pick(root, pick, files=True):
            with path.open("ab") as file:
                file.write(content)
            self.edited(root, path)

    @rule(root=roots, pick=picks, size=SIZES)
    def truncate(self, root: str, pick: int, size: int) -> None:
        """A file shrinks, or grows by a hole."""
        for path in self.pick(root, pick, files=True):
            os.truncate(path, size)
            self.edited(root, path)

    @rule(root=roots, pick=picks, into=picks, name=names)
    def rename(self, root: str, pick: int, into: int, name: bytes) -> None:
        """Something gets another name or place, perhaps that of something else."""
        for path in self.pick(root, pick):
            with suppress(OSError):  # into itself, or onto what is not empty
                path.rename(self.directory(root, into) / os.fsdecode(name))

    @rule(root=roots, pick=picks, into=picks, name=names)
    def link(self, root: str, pick: int, into: int, name: bytes) -> None:
        """A file gets a further name."""
        for path in self.pick(root, pick):
            with suppress(FileExistsError, PermissionError):
                os.link(path, self.directory(root, into) / os.fsdecode(name), follow_symlinks=False)

    @rule(root=roots, pick=picks, mode=st.sampled_from([0o700, 0o755, 0o1777, 0o4755, 0o640]))
    def chmod(self, root: str, pick: int, mode: int) -> None:
        """Other permissions."""
        for path in self.pick(root, pick):
            if not path.is_symlink():
                path.chmod(mode | 0o700)

    @rule(root=roots, pick=picks, name=st.sampled_from(["user.a", "user.b"]), value=st.binary(max_size=8))
    def setxattr(self, root: str, pick: int, name: str, value: bytes) -> None:
        """An extended attribute comes, changes, or goes."""
        for path in self.pick(root, pick):
            with suppress(OSError):  # not on symlinks and fifos, not on every file system
                if value:
                    os.setxattr(path, name, value, follow_symlinks=False)
                else:
                    os.removexattr(path, name, follow_symlinks=False)

    @rule(root=roots, pick=picks)
    def delete(self, root: str, pick: int) -> None:
        """Something goes, with all that is in it."""
        for path in self.pick(root, pick):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    # ---- what is under test

    @rule(force=st.booleans(), readers=st.integers(1, 3))
    def back_up(self, force: bool, readers: int) -> None:
        """A snapshot."""
        state = seen(self.base / "work")
        result = back_up(self.repository, self.base / "work", force=force, readers=readers)
        assert result.snapshot_id is not None
        assert result.snapshot_id not in self.states
        self.states[result.snapshot_id] = state

    @precondition(lambda self: self.states)
    @rule()
    def back_up_unchanged(self) -> None:
        """INV-7: the second snapshot of a tree adds no pack."""
        others = above(self.base / "work")
        self.back_up(force=False, readers=1)
        result = back_up(self.repository, self.base / "work")
        assert result.stored.bytes_stored == 0 or above(self.base / "work") != others
        assert result.snapshot_id is not None
        self.states[result.snapshot_id] = seen(self.base / "work")

    @precondition(lambda self: self.states)
    @rule(pick=picks, overwrite=st.sampled_from(["always", "if-changed"]), verify=st.booleans())
    def restore_over(self, pick: int, overwrite: Any, verify: bool) -> None:
        """Into the target, whatever has become of it; what the snapshot does not have is deleted."""
        snapshot_id = sorted(self.states)[pick % len(self.states)]
        target, options = self.base / "out", {"overwrite": overwrite, "verify": verify}
        restore_to(self.repository, snapshot_id, self.base / "work", target, delete=True, **options)
        self.compare(target, snapshot_id)

    @precondition(lambda self: self.states)
    @rule(pick=picks)
    def restore_fresh(self, pick: int) -> None:
        """Where nothing is."""
        self.check_fresh(sorted(self.states)[pick % len(self.states)])

    @precondition(lambda self: self.states)
    @rule()
    def open_again(self) -> None:
        """Another process goes on."""
        self.repository = reopen(self.backend, pack_size=PACK_SIZE, clock=SystemClock())

    def teardown(self) -> None:
        """INV-1: whatever happened, every snapshot is whole, and the repository is."""
        try:
            self.open_again()
            for snapshot_id in self.states:
                self.check_fresh(snapshot_id)
            assert check(self.repository, CheckOptions(), Quiet(), never).findings == ()
        finally:
            shutil.rmtree(self.base)

    def check_fresh(self, snapshot_id: bytes) -> None:
        target = self.base / "fresh"
        restore_to(self.repository, snapshot_id, self.base / "work", target)
        self.compare(target, snapshot_id)
        shutil.rmtree(target)

    def compare(self, target: Path, snapshot_id: bytes) -> None:
        """The folder around the tree is the target itself, whose own attributes are not restored."""
        found, wanted = seen(target), dict(self.states[snapshot_id])
        del found[b"."], wanted[b"."]
        assert found == wanted

    # ---- choosing

    def directory(self, root: str, pick: int) -> Path:
        """Some directory of the tree."""
        found = [self.root(root), *(path for path in self.entries(root) if path.is_dir() and not path.is_symlink())]
        return found[pick % len(found)]

    def pick(self, root: str, pick: int, *, files: bool = False) -> list[Path]:
        """Some entry of the tree, if there is any."""
        found = [path for path in self.entries(root) if not files or (path.is_file() and not path.is_symlink())]
        return [found[pick % len(found)]] if found else []

    def entries(self, root: str) -> Iterator[Path]:
        top = self.root(root)
        top.mkdir(exist_ok=True)
        return iter(sorted(top.rglob("*")))

    def root(self, root: str) -> Path:
        return self.base / ("work" if root == "tree" else "out") / "tree"

    def edited(self, root: str, path: Path) -> None:
        """What is written to the target gets a time of its own: if-changed tells files by size and time."""
        if root == "target":
            os.utime(path, (0, next(self.moments)), follow_symlinks=False)


def run(folder: Path, *, examples: int, steps: int) -> None:
    """Let the machine run."""
    chosen = settings(settings.get_profile("default"), max_examples=examples, stateful_step_count=steps)
    run_state_machine_as_test(type("MachineInFolder", (Machine,), {"folder": folder}), settings=chosen)


def test_random_edits(tmp_path: Path) -> None:
    """Every snapshot of a tree restores to what the tree was, whatever is done to tree and target in between."""
    run(tmp_path, examples=15, steps=25)


@pytest.mark.slow
def test_many_random_edits(tmp_path: Path) -> None:
    """The same, for longer."""
    run(tmp_path, examples=50, steps=50)
