"""Backups of guests that are cut off, by kill -9 of either side: nothing stays behind for good, and no snapshot."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bfrepo.core.errors import Interrupted, SourceError
from tests.support.command import Command, wait_until
from tests.support.guests import back_up
from tests.support.proxmox import Cluster
from tests.support.proxmox_command import node_options, told_of
from tests.support.repositories import make_repository

PATIENCE_S = 30.0
MACHINE = ["before-lock", "locked", "header", "middle", "end"]
CONTAINER = ["before-lock", "locked", "snapshot", "header", "middle", "end"]
STEPS = [*((100, step) for step in MACHINE), *((101, step) for step in CONTAINER)]


def is_tidy(cluster: Cluster, vmid: int) -> bool:
    """Whether nothing of a backup is left on the node."""
    guest, folders = cluster.guest(vmid), [path for path in cluster.work.iterdir() if path.is_dir()]
    return (guest["lock"], guest["snapshots"], folders) == ("", [], [])


def wait(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def parent_of(pid: int) -> int:
    """The process that started another."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def command(cluster: Cluster, tmp_path: Path) -> Command:
    """The program, told of the cluster."""
    return told_of(cluster, tmp_path)


def arguments(cluster: Cluster, vmid: int) -> list[str | Path]:
    """The command line of a backup."""
    return ["proxmox", "backup", str(vmid), *node_options(cluster)]


@pytest.mark.slow
@pytest.mark.parametrize("vmid, step", STEPS)
def test_client_killed(command: Command, cluster: Cluster, vmid: int, step: str) -> None:
    """The program is killed at any step: vzdump ends by itself, the guest is as before, the next backup goes well."""
    cluster.set_fault(step, "wait")
    with command.start(*arguments(cluster, vmid)) as process:
        wait_until(lambda: cluster.reached(step), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    cluster.clear_fault(step)
    wait(lambda: is_tidy(cluster, vmid))
    assert command.snapshots() == []
    assert command(*arguments(cluster, vmid)).status == 0
    assert len(command.snapshots()) == 1


@contextmanager
def cut_off_node(cluster: Cluster, vmid: int, step: str) -> Iterator[None]:
    """A backup in which everything on the node dies at a step, as when its power fails."""
    cluster.set_fault(step, "wait")
    errors: list[Exception] = []

    def run() -> None:
        try:
            back_up(make_repository(), cluster, str(vmid))
        except SourceError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        wait(lambda: cluster.reached(step))
        vzdump = cluster.reached(step)
        assert vzdump is not None
        os.kill(parent_of(vzdump), signal.SIGKILL)
        os.kill(vzdump, signal.SIGKILL)
    finally:
        cluster.clear_fault(step)
        thread.join()
    assert len(errors) == 1
    yield


@pytest.mark.slow
@pytest.mark.parametrize("vmid, step", STEPS)
def test_node_killed(cluster: Cluster, vmid: int, step: str) -> None:
    """Everything on the node is killed at any step: the next backup of that guest removes what it left."""
    with cut_off_node(cluster, vmid, step):
        assert not is_tidy(cluster, vmid)
    repository = make_repository()
    assert back_up(repository, cluster, str(vmid)).snapshot_id is not None
    assert is_tidy(cluster, vmid)


@pytest.mark.parametrize("vmid, step", [(100, "middle"), (101, "snapshot"), (101, "middle")])
def test_vzdump_killed(cluster: Cluster, vmid: int, step: str) -> None:
    """Only vzdump is killed: what it left is removed at once."""
    cluster.set_fault(step, "die")
    with pytest.raises(SourceError):
        back_up(make_repository(), cluster, str(vmid))
    cluster.clear_fault(step)
    wait(lambda: is_tidy(cluster, vmid))


def test_lock_of_others(cluster: Cluster) -> None:
    """A lock is not removed while another vzdump works on the node, whatever is left of ours: it may be its."""
    with cut_off_node(cluster, 100, "middle"), open(cluster.state / "vzdump.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=_fail, args=(cluster,))
        thread.start()
        wait(lambda: len([line for line in cluster.said() if line.startswith("vzdump ")]) == 2)
        assert cluster.guest(100)["lock"] == "backup"
        fcntl.flock(lock, fcntl.LOCK_UN)
        thread.join()
    back_up(make_repository(), cluster, "100")
    assert is_tidy(cluster, 100)


def _fail(cluster: Cluster) -> None:
    with pytest.raises(SourceError):
        back_up(make_repository(), cluster, "100")


def test_two_at_once(command: Command, cluster: Cluster) -> None:
    """A second backup of a guest does not begin while one is under way, and touches nothing of it."""
    cluster.set_fault("middle", "wait")
    with command.start(*arguments(cluster, 100)) as process:
        wait_until(lambda: cluster.reached("middle"), process)
        with pytest.raises(SourceError, match="another backup of guest 100 is under way"):
            back_up(make_repository(), cluster, "100")
        cluster.clear_fault("middle")
        assert process.wait(PATIENCE_S) == 0, process.communicate()
    assert is_tidy(cluster, 100)


def test_interrupted(cluster: Cluster) -> None:
    """Who asks to stop while the node says nothing is heard, and gets no snapshot; the node is tidy in the end."""
    cluster.set_fault("middle", "wait")
    with pytest.raises(Interrupted):
        back_up(make_repository(), cluster, "100", cancelled=lambda: cluster.reached("middle") is not None)
    cluster.clear_fault("middle")
    wait(lambda: is_tidy(cluster, 100))
