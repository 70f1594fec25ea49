"""The session with the kernel: mounting, answering, ending.

Beside filesystem.py the only file that uses pyfuse3. That one answers requests, and could do so for any mount; this
one knows of mounting and nothing of files.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from bfrepo.core.units import KIB, MIB
from mount.awake import Awake, Loop
from mount.fuse import pyfuse3
from mount.mountpoint import FSTYPE, MountError, find_mount

READ_AHEAD: Final = MIB
"""Bytes that the kernel asks for in advance, where we may say so. Its own default of 128 KiB is a request each."""

_HINTS: Final = {
    "user_allow_other": "root must put a line user_allow_other into /etc/fuse.conf",
    "/dev/fuse: Permission": "let users at the device, as most systems do: chmod 666 /dev/fuse as root",
    "exec fusermount3": "install the package fuse3, which brings fusermount3",
    "modprobe": "there is no FUSE in this kernel or container: modprobe fuse, or start the container with --device "
    "/dev/fuse --cap-add SYS_ADMIN",
    "no write access": "name a directory that belongs to you",
    "not permitted": "mounting is not allowed here; in a container, start it with --device /dev/fuse --cap-add "
    "SYS_ADMIN",
}
"""What to do about something that libfuse says, by a word of it. The first that fits counts."""


@contextmanager
def mounted(operations: pyfuse3.Operations, place: bytes, *, allow_other: bool) -> Iterator[None]:
    """Mount `operations` on an absolute path; nothing is mounted there any more when the block ends.

    Whoever has a file open then gets an error from it. Raises MountError.
    """
    logging.getLogger("pyfuse3").addHandler(logging.NullHandler())
    logging.getLogger("pyfuse3").propagate = False  # it reports each request whose asker was killed meanwhile
    with tempfile.TemporaryFile() as said:
        try:
            with _errors_into(said.fileno()):
                pyfuse3.init(operations, os.fsdecode(place), _options(allow_other=allow_other))
        except RuntimeError as error:
            said.seek(0)
            raise _mount_error(place, os.fsdecode(said.read()), error) from error
    try:
        yield
    finally:
        pyfuse3.close()


async def serve(awake: Awake) -> None:
    """Answer requests until somebody unmounts it, or the task is cancelled. `awake` waits for them.

    pyfuse3 takes another loop in trio's place: that is how its own `pyfuse3.asyncio` works.
    """
    pyfuse3.trio = Loop(awake)  # type: ignore[attr-defined]
    try:
        await pyfuse3.main()
    finally:
        pyfuse3.trio = trio  # type: ignore[attr-defined]


async def read_further_ahead(place: bytes) -> None:
    """Have the kernel ask for more in advance, where we may: only root, and only where /sys can be written.

    Without it large files are read somewhat slower. What is set before the kernel and we have greeted each other is
    lost, so this waits for an answer.
    """

    def ask_and_set() -> None:
        with suppress(OSError):
            os.statvfs(place)
            found = find_mount(place)
            if found is not None:
                Path(f"/sys/class/bdi/{found.device}/read_ahead_kb").write_text(str(READ_AHEAD // KIB))

    await trio.to_thread.run_sync(ask_and_set, abandon_on_cancel=True)


def _options(*, allow_other: bool) -> set[str]:
    """Mount options. With `ro` the kernel does not ask for attributes anew after each read, as it would for atime.

    Without allow_other nobody gets in but who has mounted it, and can read everything in the repository anyway; the
    rights that files had on another machine then only stand in the way. Let others in, and the kernel checks them.
    """
    options = {"ro", "nosuid", "nodev", "fsname=backupforge", f"subtype={FSTYPE.removeprefix('fuse.')}"}
    return options | {"allow_other", "default_permissions"} if allow_other else options


def _mount_error(place: bytes, said: str, error: RuntimeError) -> MountError:
    """What libfuse and fusermount3 have said on stderr as an error of ours."""
    reason = "; ".join(filter(None, map(str.strip, said.splitlines()))) or str(error)
    hint = next((hint for word, hint in _HINTS.items() if word in reason), None)
    return MountError(f"cannot mount on {os.fsdecode(place)}: {reason}", hint=hint)


@contextmanager
def _errors_into(fd: int) -> Iterator[None]:
    """Let this process and what it starts write errors to a file: libfuse tells what went wrong nowhere else."""
    before = os.dup(2)
    os.dup2(fd, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
