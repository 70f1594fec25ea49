"""The way to the nodes: by SSH, where the API has no bytes to give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bfrepo.core.errors import Interrupted, InvalidValue, SourceError
from bfrepo.core.protocols import Buffer
from bfrepo.sources.proxmox.inventory import is_node_name
from bfrepo.sources.proxmox.script import NAME, SCRIPT, WORK
from bfrepo.sources.ssh.host import HostLink, RemoteCommand
from bfrepo.sources.ssh.place import parse_remote
from bfrepo.ssh.config import SshSettings
from bfrepo.ssh.errors import SshError

USUAL_WAY: Final = "root@{node}"
_NODE: Final = "{node}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeAccess:
    """How nodes are reached: `way` is [user@]host[:port], in which "{node}" stands for the name of the node. With
    `sudo` commands run as root by way of sudo. `work` is a directory on nodes for what backups need meanwhile.
    """

    way: str = USUAL_WAY
    ssh: SshSettings
    sudo: bool = False
    work: str = WORK

    def link(self, node: str) -> HostLink:
        """A link to a node, not connected yet. Raises InvalidValue."""
        if not is_node_name(node):
            raise InvalidValue(f"{node!r} cannot be the name of a node")
        host, path = parse_remote(f"ssh://{self.way.replace(_NODE, node)}")
        if path:
            raise InvalidValue(f"{self.way!r} is no host", hint="write root@{node}, or root@pve.example.com:22")
        return HostLink(host, self.ssh, sudo=self.sudo)


class NodeCommand:
    """The script at work on a node. Used by one thread; raises SourceError when the connection breaks."""

    def __init__(self, link: HostLink, words: list[str], cancelled: Callable[[], bool]) -> None:
        """Starts it. While it is waited for and `cancelled` says so, reading raises Interrupted. Raises SourceError."""

        def look_up() -> None:
            if cancelled():
                raise Interrupted("stopped while waiting for a node")

        self._link = link
        self.shown: Final = link.host.shown
        try:
            self._command: RemoteCommand = link.run(link.line("sh", "-c", SCRIPT, NAME, *words), look_up)
        except SshError as error:
            link.close()
            raise SourceError(f"cannot run anything on {self.shown}: {error}", hint=error.hint) from error

    def readinto(self, buffer: memoryview, /) -> int:
        """What it writes; 0 at the end, which is only good when `status` is 0."""
        try:
            return self._command.readinto(buffer)
        except SshError as error:
            raise SourceError(str(error), hint="run it again: nothing of this was kept as a snapshot") from error

    def write(self, data: Buffer) -> None:
        """Give it more to read."""
        try:
            self._command.write(data)
        except SshError as error:
            raise SourceError(self.complaint() or str(error)) from error

    def end_input(self) -> None:
        """There is no more to read."""
        try:
            self._command.feed(b"")
        except SshError as error:
            raise SourceError(self.complaint() or str(error)) from error

    def drain(self) -> None:
        """Read what it writes, to its end."""
        buffer = memoryview(bytearray(65536))
        while self.readinto(buffer):
            pass

    def status(self) -> int:
        """With what it ended, negative if it was cut off. Waits for it."""
        return self._command.status()

    def complaint(self) -> str:
        """The last it said was wrong, empty if nothing was; printable."""
        lines = self._command.complaints().decode(errors="replace").splitlines()
        wrong = [line for line in lines if line.startswith(("ERROR: ", "sudo: ", "sh: "))] or lines
        said = next((line.strip() for line in reversed(wrong) if line.strip()), "")
        return "".join(each for each in said.removeprefix("ERROR: ") if each.isprintable())[:300]

    def close(self) -> None:
        """End it and the connection. May be called again."""
        self._command.close()
        self._link.close()
