"""A container: its files, with its configuration beside them, out of the tar archive that vzdump writes.

    lxc/101/backup.json     what the cluster says of it
    lxc/101/pct.conf        its configuration, as vzdump has it; pct.fw if there is a firewall
    lxc/101/rootfs          its files, with those of mount points that are part of backups

Owners are numbers inside of the container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from bfrepo.sources.base import Member, MemberSource
from bfrepo.sources.proxmox.dump import ABOUT, Dump, about, directory_member, file_member
from bfrepo.sources.proxmox.inventory import Guest
from bfrepo.sources.tar import TarSource

ROOT: Final = b"rootfs"
CONFIGS: Final = (b"pct.conf", b"pct.fw")
PLACE: Final = (b"etc", b"vzdump")
"""Where they are in the archive, in front of everything else."""


class ContainerSource(MemberSource):
    """A container, as it comes. Used by one thread."""

    def __init__(
        self, dump: Dump, guest: Guest, leave_out: Callable[[bytes, str], None], warn: Callable[[bytes, str], None]
    ) -> None:
        """`leave_out` and `warn` are told of what cannot be kept."""
        self._dump = dump
        self._guest = guest
        self._root = (*guest.path, ROOT)
        self._tar = TarSource(dump, self._root, leave_out, warn)

    def members(self) -> Iterator[Member]:
        """See MemberSource.members."""
        time_ns = 0
        beginning = True
        for member in self._tar.members():
            member.node.atime_ns = None  # tar tells it and changes it by reading: every directory would be a new one
            inside = member.path[len(self._root) :]
            beginning = beginning and inside[: len(PLACE)] == PLACE
            if beginning and len(inside) == len(PLACE) + 1 and inside[-1] in CONFIGS:
                time_ns = max(time_ns, member.node.mtime_ns)
                yield member._replace(path=(*self._guest.path, inside[-1]))
            elif not beginning:
                yield member
        self._dump.expect_end()
        yield directory_member(self._guest, time_ns)
        yield file_member(self._guest, ABOUT, about(self._guest), time_ns)
