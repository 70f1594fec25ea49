"""One file out of what a command on a host writes."""

from __future__ import annotations

from collections.abc import Sequence

from bfrepo.core.clock import Clock
from bfrepo.core.errors import InvalidValue, SourceError
from bfrepo.data.node import Node
from bfrepo.localfs.metadata import Owners
from bfrepo.sources.ssh.host import HostLink, RemoteCommand
from bfrepo.sources.ssh.place import RemoteHost
from bfrepo.sources.stdin import StreamDirectory, StreamFile, StreamTree
from bfrepo.ssh.config import SshSettings
from bfrepo.ssh.errors import SshError


class RemoteCommandSource:
    """What a command writes on a host, as a file. Each time the file is opened, the command runs.

    Its standard input is empty. Messages name the program but never its arguments, which may hold a password. It is
    not resumed: what a broken connection leaves is no snapshot.
    """

    def __init__(
        self,
        host: RemoteHost,
        argv: Sequence[str],
        filename: bytes,
        settings: SshSettings,
        *,
        sudo: bool,
        clock: Clock,
        owners: Owners,
    ) -> None:
        """Raises InvalidValue when there is no command, or `filename` is no path."""
        if not argv:
            raise InvalidValue("there is no command to run", hint="write it after --")
        self._argv = list(argv)
        self._link = HostLink(host, settings, sudo=sudo)
        self._tree = StreamTree(filename, clock, owners)

    @property
    def paths(self) -> tuple[bytes, ...]:
        """The file's path in the tree."""
        return (self._tree.path,)

    def open_root(self) -> StreamDirectory:
        """See Source.open_root. Opening the file raises SourceError when the command cannot be run."""
        return self._tree.root(self._run)

    def _run(self, node: Node) -> RemoteOutput:
        try:
            command = self._link.run(self._link.line(*self._argv))
            command.feed(b"")
        except SshError as error:
            self._link.close()
            message = f"cannot run {self._argv[0]} on {self._link.host.shown}: {error}"
            raise SourceError(message, hint=error.hint) from error
        return RemoteOutput(self._link, command, self._argv[0], node)


class RemoteOutput(StreamFile):
    """The output of a command that runs on a host. Its end is only good when the command's is."""

    def __init__(self, link: HostLink, command: RemoteCommand, program: str, node: Node) -> None:
        super().__init__(command, node)
        self._link = link
        self._command = command
        self._program = program

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """See OpenFile.read_into."""
        try:
            return super().read_into(buffer, offset)
        except SshError as error:
            raise SourceError(str(error), hint="what the command wrote was not kept as a snapshot") from error

    def close(self) -> None:
        """See OpenFile.close. A command that has not ended loses its output."""
        super().close()
        self._link.close()

    def _at_end(self) -> None:
        status = self._command.status()
        if status == 0:
            return
        lines = self._command.complaints().decode(errors="replace").strip().splitlines()
        said = f": {''.join(each for each in lines[-1] if each.isprintable())}" if lines else ""
        how = f"failed with exit status {status}" if status > 0 else "did not end by itself"
        raise SourceError(
            f"{self._program} {how} on {self._link.host.shown}{said}", hint="what it wrote was not kept as a snapshot"
        )
