"""Attributes of what is no regular file: of directories, symlinks, devices and fifos, by the host's tar.

Only what is new or changed is asked for, one name at a time; so a question takes those with it that are likely to come
next, more and more as long as that turns out right.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Final

from bfrepo.data.node import Node
from bfrepo.formats.tar_header import MalformedTar
from bfrepo.formats.tar_reader import TarMember
from bfrepo.sources.ssh.host import HostLink
from bfrepo.sources.ssh.listing import Listing, RemoteStat
from bfrepo.sources.ssh.tarfeed import node_of
from bfrepo.sources.ssh.tarsession import SessionEnded, TarRound, TarSession
from bfrepo.ssh.errors import SshError

_FIRST: Final = 16
_MOST: Final = 4096


class TarredAttributes:
    """What tar says of names. Used by one thread."""

    def __init__(self, link: HostLink, listing: Listing) -> None:
        self._link = link
        self._listing = listing
        self._order: Iterator[bytes] = listing.walk(b"/")
        self._held: dict[bytes, TarMember | OSError] = {}
        self._ahead = _FIRST
        self._session: TarSession | None = None

    def node(self, path: bytes, stat: RemoteStat) -> Node:
        """The whole node. Raises OSError, SourceError."""
        if path not in self._held:
            self._ask(path)
        found = self._held.pop(path)
        if isinstance(found, OSError):
            raise found
        node = node_of(found, stat, self._listing)
        if stat.type == "symlink":
            node.target = found.link
        elif stat.type in ("chardev", "blockdev"):
            node.rdev = _device(found.header.major, found.header.minor)
        return node

    def _ask(self, path: bytes) -> None:
        self._ahead = min(2 * self._ahead, _MOST) if not self._held else _FIRST
        self._held.clear()
        if any(each == path for each in self._order):  # what is passed over was not asked for: it is unchanged
            paths = [path, *islice(self._order, self._ahead)]
        else:
            paths, self._order = [path], iter(())
        while path not in self._held:
            try:
                self._fetch(paths)
            except (SshError, MalformedTar) as error:
                self.close()
                if not isinstance(error, SessionEnded):
                    self._link.failed(error)
        self._link.worked()

    def _fetch(self, paths: list[bytes]) -> None:
        self._session = self._session or TarSession(self._link)
        found = TarRound(self._session, paths)
        for path in paths:
            try:
                self._held[path] = found.find(path)
                found.take(path)
            except OSError as error:
                self._held[path] = error
        if not found.finish():
            self.close()

    def close(self) -> None:
        """Nothing more is wanted. Idempotent."""
        if self._session is not None:
            self._session.close()
            self._session = None


def _device(major: int, minor: int) -> int:
    try:
        return max(os.makedev(major, minor), 0)
    except (OverflowError, ValueError):
        return 0
