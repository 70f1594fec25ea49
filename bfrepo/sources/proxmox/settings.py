"""The configuration of a container, as vzdump writes it: what a restore has to know of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bfrepo.core.errors import SourceError

_LINE: Final = re.compile(r"([a-z0-9]+):\s*(.*)")
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)")
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_GIB: Final = 1 << 30
_USUAL_GIB: Final = 8


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk of a container: "rootfs" or "mp0", its storage, its size in whole GiB, and where it is mounted."""

    key: str
    storage: str
    gib: int
    mounted_at: str = ""


def parse_config(text: str) -> dict[str, str]:
    """The keys and values of a configuration, without those of its snapshots."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("["):
            break
        match = _LINE.fullmatch(line.strip())
        if match is not None:
            found[match[1]] = match[2]
    return found


def container_volumes(config: dict[str, str]) -> Iterator[Volume]:
    """The volumes that a backup has: the root, and mount points with `backup=1`. Raises SourceError."""
    if "rootfs" not in config:
        raise SourceError("the configuration of the container has no rootfs")
    for key, value in config.items():
        if key != "rootfs" and not re.fullmatch(r"mp\d+", key):
            continue
        place, _, rest = value.partition(",")
        storage, colon, _ = place.partition(":")
        options = dict(each.partition("=")[::2] for each in rest.split(",") if each)
        if key == "rootfs" or (colon and options.get("backup") == "1"):
            yield Volume(key, storage if colon else "", _gib(options.get("size", "")), options.get("mp", ""))


def restore_options(config: dict[str, str], storage: str | None, *, force: bool) -> list[str]:
    """What `pct restore` has to be told, as it takes neither volumes nor `unprivileged` from the archive of a pipe.

    Every volume is made on `storage`, by default on the one where it was. Raises SourceError.
    """
    options: list[str] = []
    for volume in container_volumes(config):
        where = storage or volume.storage
        if not where:
            raise SourceError(f"nobody says which storage {volume.key} goes to", hint="name it with --storage")
        mount = f",mp={volume.mounted_at},backup=1" if volume.key != "rootfs" else ""
        options += [f"--{volume.key}", f"{where}:{volume.gib}{mount}"]
    if config.get("unprivileged") == "1":
        options += ["--unprivileged", "1"]
    return [*options, "--force", "1"] if force else options


def _gib(size: str) -> int:
    match = _SIZE.fullmatch(size)
    if match is None:
        return _USUAL_GIB
    return max(-int(-float(match[1]) * _UNITS[match[2]] // _GIB), 1)
