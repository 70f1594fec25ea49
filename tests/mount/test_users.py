"""Mounting by somebody who is not root, and who gets in.

The kernel's device, fusermount3's configuration and the user are of the test's own:
they are in a mount namespace that ends with it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bfrepo.core.clock import SystemClock
from bfrepo.storage.local import LocalBackend
from tests.support.command import Command, with_password
from tests.support.directories import back_up
from tests.support.mounting import DIES_WITH_US, open_folder
from tests.support.mounts import Mounts, mounts_of_its_own
from tests.support.repositories import make_repository

pytestmark = pytest.mark.root

USER, OTHER = 54321, 54322

MAY_READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""For the command: the interpreter of the tests may be where only root gets to. It is of no use for mounting."""


@dataclass(frozen=True)
class World:
    """A namespace with a mount point of USER's, and what two users can do there."""

    mounts: Mounts
    command: Command
    source: Path
    top: Path

    def mount(self, *arguments: str, status: int = 0) -> str:
        """Mount in the background, as USER; what is said on stderr."""
        return self.command("mount", self.top, "--background", *arguments, status=status).err

    def run(self, user: int, *line: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program as somebody."""
        before = [*self.mounts.before, *as_user(user)]
        return subprocess.run([*before, *line], capture_output=True, text=True, check=False, cwd="/")

    def read(self, user: int, name: str) -> str:
        """What somebody gets when they read a file of the snapshot: its content, or the error."""
        done = self.run(user, "cat", self.top / "latest" / self.source.relative_to("/") / name)
        return done.stdout if done.returncode == 0 else done.stderr.rpartition(": ")[2].strip()


def as_user(user: int, *more: str) -> list[str]:
    """In front of a program: it runs as that user, in no group but one of its own."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *more, "--"]


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A namespace; its /etc/fuse.conf says what the test's parameter says."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        mounts = stack.enter_context(mounts_of_its_own())
        prepare(mounts, folder, getattr(request, "param", ""))
        command = with_password(folder)
        source, top = folder / "src", folder / "mnt"
        make_source(source)
        top.mkdir()
        with make_repository(LocalBackend(command.repository), clock=SystemClock()) as repository:
            back_up(repository, source)
        for path in (top, command.home, command.repository, *command.repository.rglob("*")):
            os.chown(path, USER, USER)
        before = (*mounts.before, *as_user(USER, *MAY_READ_ALL)[:-1], *DIES_WITH_US[1:])
        ours = replace(command, before=before, environment={"BACKUPFORGE_PASSWORD": None})
        end = [*mounts.before, "umount", "-l", str(top)]
        stack.callback(lambda: subprocess.run(end, check=False, capture_output=True))
        yield World(mounts, ours, source, top)


def prepare(mounts: Mounts, folder: Path, configuration: str) -> None:
    """A device that all users may open, as on most systems, a configuration, and a name for the user."""
    (folder / "dev").mkdir()
    mounts.run("mount", "-t", "tmpfs", "-o", "dev,mode=755", "tmpfs", folder / "dev")
    mounts.run("mknod", "-m", "666", folder / "dev" / "fuse", "c", "10", "229")
    mounts.run("mount", "--bind", folder / "dev" / "fuse", "/dev/fuse")
    users = f"{Path('/etc/passwd').read_text()}mounter:x:{USER}:{USER}::/:/bin/sh\n"
    for name, content in (("fuse.conf", configuration), ("passwd", users)):
        (folder / name).write_text(content)
        mounts.run("mount", "--bind", folder / name, f"/etc/{name}")


def make_source(source: Path) -> None:
    """Files of several owners and rights."""
    source.mkdir()
    for name, owner, mode in (
        ("users", USER, 0o600), ("roots", 0, 0o600), ("others", OTHER, 0o600), ("everybodys", 0, 0o644),
    ):  # fmt: skip
        (source / name).write_text(name)
        os.chown(source / name, owner, owner)
        (source / name).chmod(mode)


def test_a_user_mounts_reads_and_unmounts(world: World) -> None:
    """Who is not root mounts, reads everything that the repository's password gives them, and unmounts."""
    world.mount()
    assert [world.read(USER, name) for name in ("users", "roots", "others")] == ["users", "roots", "others"]
    world.command("umount", world.top)
    assert world.run(USER, "ls", world.top).stdout == ""


def test_nobody_else_gets_in(world: World) -> None:
    """Without --allow-other the mount is for who made it, and not even for root."""
    world.mount()
    assert world.read(OTHER, "everybodys") == "Permission denied"
    assert world.read(0, "everybodys") == "Permission denied"
    world.command("umount", world.top)


def test_others_must_be_allowed_by_root(world: World) -> None:
    """--allow-other fails where root has not allowed it, and says where it is allowed."""
    said = world.mount("--allow-other", status=1)
    assert "user_allow_other" in said
    assert "/etc/fuse.conf" in said


@pytest.mark.parametrize("world", ["user_allow_other\n"], indirect=True)
def test_rights_count_for_others(world: World) -> None:
    """With --allow-other everybody gets in, and reads what the rights of the files let them."""
    world.mount("--allow-other")
    assert world.read(OTHER, "everybodys") == "everybodys"
    assert world.read(OTHER, "others") == "others"
    assert world.read(OTHER, "users") == "Permission denied"
    assert world.read(USER, "users") == "users"
    assert world.read(USER, "roots") == "Permission denied"
    world.command("umount", world.top)


def test_a_mount_point_of_somebody_else(world: World) -> None:
    """A user cannot mount on a directory of somebody else, and is told so."""
    os.chown(world.top, 0, 0)
    assert "write access" in world.mount(status=1)
