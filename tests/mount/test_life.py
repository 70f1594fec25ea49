"""How a mount begins and ends: by umount, by signals, by kill -9, in the background, and why it may not begin."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from bfrepo.repository.repository import Repository
from mount.mountpoint import find_mount
from tests.support.command import Command, failure
from tests.support.directories import back_up
from tests.support.mounting import DIES_WITH_US, Mount, Mounted, eventually, take_away, wait_for_mount

LARGE = 64 << 20


@pytest.fixture
def mounted(repository: Repository, source: Path, mount: Mount) -> Mounted:
    """A mount of a snapshot with two files."""
    (source / "file").write_text("content")
    with (source / "large").open("wb") as file:
        file.truncate(LARGE)
    back_up(repository, source)
    return mount()


def is_mounted(top: Path) -> bool:
    """Whether anything is mounted there, alive or dead."""
    return find_mount(bytes(top)) is not None


def test_umount_ends_it(mounted: Mounted, source: Path) -> None:
    """`umount` ends the mount and its process, and what was hidden below is to be seen again."""
    assert (mounted.at(source) / "file").read_text() == "content"
    mounted.unmount()
    assert not is_mounted(mounted.top)
    assert list(mounted.top.iterdir()) == []


def test_umount_of_the_system_ends_it(mounted: Mounted) -> None:
    """So does the system's own umount."""
    subprocess.run(["fusermount3", "-u", mounted.top], check=True)
    assert mounted.ends() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(mounted: Mounted, source: Path, number: signal.Signals) -> None:
    """SIGTERM, Ctrl-C and a terminal that goes away end it well."""
    os.listdir(mounted.at(source))
    assert mounted.signal(number) == 0
    assert not is_mounted(mounted.top)


def test_a_signal_ends_it_while_it_is_in_use(mounted: Mounted, source: Path) -> None:
    """A process that has a file open does not keep the mount; it gets an error where it reads on."""
    fd = os.open(mounted.at(source) / "large", os.O_RDONLY)
    try:
        assert os.read(fd, 3) == bytes(3)
        assert mounted.signal(signal.SIGTERM) == 0
        assert not is_mounted(mounted.top)
        with pytest.raises(OSError, match="not connected"):
            os.pread(fd, 1, LARGE - 1)
    finally:
        with suppress(OSError):  # nobody is there to be told that it is closed
            os.close(fd)


def test_umount_refuses_while_it_is_in_use(mounted: Mounted, source: Path) -> None:
    """`umount` does not pull files away from under a process, and says how to find out which."""
    with (mounted.at(source) / "file").open("rb"):
        ran = mounted.command("umount", mounted.top, status=1)
        assert "busy" in ran.err
        assert "fuser -vm" in ran.err
    assert (mounted.at(source) / "file").read_text() == "content"
    mounted.unmount()


@pytest.mark.parametrize("in_use", [False, True], ids=["", "in use"])
def test_what_kill_9_leaves_can_be_unmounted(mounted: Mounted, source: Path, in_use: bool) -> None:
    """After kill -9 the next mount says what is in the way, and `umount` takes it away, whoever holds on to it."""
    fd = os.open(mounted.at(source) / "file", os.O_RDONLY) if in_use else -1
    try:
        assert mounted.signal(signal.SIGKILL) == -signal.SIGKILL
        assert is_mounted(mounted.top)
        refused = mounted.command("mount", mounted.top, status=1)
        assert "has died" in refused.err
        assert f"backupforge umount {mounted.top}" in refused.err
        mounted.command("umount", mounted.top)
        assert not is_mounted(mounted.top)
    finally:
        with suppress(OSError):  # nobody is there to be told that it is closed
            os.close(fd)


def test_in_the_background(repository: Repository, command: Command, source: Path, tmp_path: Path) -> None:
    """With --background the command returns when files can be read, and its process lets go of the terminal."""
    (source / "file").write_text("content")
    back_up(repository, source)
    top = tmp_path / "mnt"
    top.mkdir()
    try:
        ran = command("mount", top, "--background", "--json")
        (pid,) = mounting_processes(top)
        assert [line["message_type"] for line in ran.lines] == ["mounted"]
        assert (top / "latest" / source.relative_to("/") / "file").read_text() == "content"
        assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
        assert os.getsid(pid) == pid
    finally:
        command("umount", top)
    eventually(lambda: not mounting_processes(top))


def mounting_processes(top: Path) -> list[int]:
    """The processes of a mount that this test has not started itself."""
    wanted = b"\0mount\0" + bytes(top) + b"\0"
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue  # ended meanwhile
            found += [int(folder.name)] if wanted in line else []
    return found


@pytest.mark.parametrize(
    ("arguments", "status", "error"),
    [
        (["mount", "mnt", "--repository", "nowhere"], 10, "no-repository"),
        (["mount", "mnt", "--repository", "nowhere", "--background"], 10, "no-repository"),
        (["mount", "nowhere"], 1, "mount-failed"),
        (["mount", "home"], 1, "mount-failed"),
        (["mount", "home", "--background"], 1, "mount-failed"),
        (["mount", "file"], 1, "mount-failed"),
        (["mount", "mnt", "--cache-size", "much"], 2, "invalid-value"),
        (["mount", "mnt", "--path-template", "%z"], 2, "invalid-value"),
        (["umount", "mnt"], 1, "mount-failed"),
        (["umount", "/proc"], 1, "mount-failed"),
    ],
)
def test_refuses(command: Command, arguments: list[str], status: int, error: str) -> None:
    """What cannot be mounted or ended is refused with an error and a hint, in the foreground and in the background."""
    for name in ("mnt", "home"):
        (command.home / name).mkdir()
    (command.home / "home" / "something").touch()
    (command.home / "file").touch()
    ran = command(*arguments, "--json", status=status)
    said = failure(ran)
    assert said["error"] == error
    assert said["hint"]
    assert not is_mounted(command.home / "mnt")


def test_refuses_a_second_mount(mounted: Mounted, source: Path) -> None:
    """Nothing is mounted over a mount of snapshots."""
    said = failure(mounted.command("mount", mounted.top, "--json", status=1))
    assert "already" in said["message"]
    assert (mounted.at(source) / "file").read_text() == "content"


def test_a_wrong_password_is_said_by_who_was_called(command: Command, tmp_path: Path) -> None:
    """A background mount that fails ends with the status and the words of one in the foreground."""
    other = Command(command.home, tmp_path / "encrypted")
    other("init")
    (command.home / "mnt").mkdir()
    (command.home / "wrong").write_text("not this one")
    options = ("--password-file", "wrong", "--background", "--json")
    wrong = Command(other.home, other.repository, environment={"BACKUPFORGE_PASSWORD": None})
    assert failure(wrong("mount", "mnt", *options, status=12))["error"] == "wrong-password"


def test_names_with_spaces(command: Command, source: Path) -> None:
    """A mount point may have any name, in the table of mounts and in what is said about it."""
    top = command.home / "my mounts \\ \t\xe9"
    top.mkdir()
    with command.start("mount", top, stderr=subprocess.STDOUT) as process:
        try:
            wait_for_mount(top, lambda: process.poll() is None)
            assert "shlex" not in command("umount", top).out
            assert process.wait(60) == 0
        finally:
            take_away(top, process)


def test_a_killed_test_leaves_no_mount(command: Command, tmp_path: Path) -> None:
    """The mounts of these tests end with the process that has started them."""
    top = tmp_path / "mnt"
    top.mkdir()
    line = " ".join(map(str, (*DIES_WITH_US, *command.line("mount", top))))
    with subprocess.Popen(
        ["sh", "-c", f"{line} & exec sleep 1000"], env=command.variables(), stdout=subprocess.DEVNULL
    ) as shell:
        wait_for_mount(top, lambda: shell.poll() is None)
        shell.kill()
    eventually(lambda: not is_mounted(top))
