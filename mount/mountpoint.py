"""The directory that snapshots are mounted on: whether it is fit for it, what is mounted there, and how that ends."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bfrepo.core.errors import BackupForgeError

FSTYPE: Final = "fuse.backupforge"
"""What our mounts are called in /proc/self/mountinfo and by `mount`."""

_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


class MountError(BackupForgeError):
    """Snapshots cannot be mounted there, or what is mounted there cannot be ended."""

    code = "mount-failed"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo. `device` is "major:minor"."""

    place: bytes
    fstype: str
    device: str


def find_mount(place: bytes) -> Mount | None:
    """What is mounted on top of an absolute path. Does not touch the path itself, which may not answer."""
    found = None
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")  # see proc_pid_mountinfo(5)
        fields = before.split(b" ")
        if _unescaped(fields[4]) == place:
            found = Mount(place, after.split(b" ", 1)[0].decode(), fields[2].decode())  # the last one lies on top
    return found


def absolute_place(text: str) -> bytes:
    """The absolute path of a mount point. Symlinks on the way are followed, and the mount itself is not touched."""
    path = Path(os.path.abspath(text))
    if os.path.islink(path):  # false as well for one that does not answer
        return os.fsencode(os.path.realpath(path))
    return os.fsencode(os.path.join(os.path.realpath(path.parent), path.name))


def check_mountpoint(place: bytes) -> None:
    """Raises MountError, with a hint what to do, for a place that nothing should be mounted on."""
    shown, quoted = _shown(place), _quoted(place)
    mounted = find_mount(place)
    if mounted is not None and mounted.fstype == FSTYPE:
        what = "the process has died that mounted" if _is_dead(place) else "there is already a mount of"
        raise MountError(f"{what} snapshots on {shown}", hint=f"end it first: backupforge umount {quoted}")
    try:
        empty = not os.listdir(place)
    except FileNotFoundError:
        raise MountError(f"there is no directory {shown}", hint=f"make it first: mkdir -p {quoted}") from None
    except OSError as error:
        raise MountError(f"cannot use {shown}: {error.strerror}", hint="name an empty directory") from error
    if not empty:
        raise MountError(f"{shown} is not empty, and a mount would hide what is in it", hint="name an empty directory")


def unmount(place: bytes) -> None:
    """End a mount of snapshots. Raises MountError when there is none, and when it is in use.

    One whose process has died is taken away even while somebody holds a file of it open: nothing can be read from it.
    """
    shown, quoted = _shown(place), _quoted(place)
    mounted = find_mount(place)
    if mounted is None:
        raise MountError(f"nothing is mounted on {shown}", hint=f"see all mounts of snapshots: mount -t {FSTYPE}")
    if mounted.fstype != FSTYPE:
        raise MountError(f"on {shown} no snapshots are mounted, but {mounted.fstype}", hint=f"umount {quoted}")
    done = subprocess.run(_command(place, dead=_is_dead(place)), capture_output=True, check=False)
    if done.returncode and find_mount(place) == mounted:
        said = os.fsdecode(done.stderr).strip() or f"exit status {done.returncode}"
        raise MountError(f"cannot end the mount on {shown}: {said}", hint=f"see who uses it: fuser -vm {quoted}")


def _command(place: bytes, *, dead: bool) -> list[str | bytes]:
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is not None:
        return [program, "-u", *(["-z"] if dead else []), "--", place]
    return ["umount", *(["-l"] if dead else []), "--", place]


def _is_dead(place: bytes) -> bool:
    """Whether nobody answers. The kernel asks for this at any rate, while it may have attributes of an earlier day."""
    try:
        os.statvfs(place)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _unescaped(field: bytes) -> bytes:
    """Spaces, tabs, line breaks and backslashes stand as three octal digits."""
    return _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field)


def _shown(place: bytes) -> str:
    return os.fsdecode(place)


def _quoted(place: bytes) -> str:
    return shlex.quote(os.fsdecode(place))
