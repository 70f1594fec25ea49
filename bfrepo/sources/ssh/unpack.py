"""A tar of another host that unpacks what we send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bfrepo.core.errors import TargetError
from bfrepo.core.protocols import Buffer
from bfrepo.sources.ssh.host import HostLink, quoted
from bfrepo.ssh.errors import SshError

_TAR: Final = (
    "tar", "--extract", "--file=-", "--preserve-permissions", "--delay-directory-restore", "--quoting-style=literal",
    "--warning=no-timestamp",
)  # fmt: skip
_XATTRS: Final = ("--xattrs", "--xattrs-include=*", "--acls")
_CLOSING: Final = (b"Exiting with failure status", b"Error is not recoverable")


def prepare_target(link: HostLink, path: bytes, *, make: bool) -> bytes | None:
    """The directory that a path leads to, made if it is not there; None if it is not, and shall not be made.

    Raises TargetError, SshError.
    """
    find = link.line("readlink", "-f", "--", path)
    look = b"test -d %b || exit 3; %b" % (quoted([path]), find)
    line = b"%b && %b" % (link.line("mkdir", "-p", "--", path), find) if make else look
    command = link.run(quoted(["exec", "sh", "-c", b"export LC_ALL=C; " + line]))
    try:
        command.feed(b"")
        said = b"".join(iter(command.read, b""))
        status = command.status()
        if status < 0:
            raise SshError(f"the connection to {link.host.shown} was lost")
        if not make and status == 3:
            return None
        if status or not said.startswith(b"/"):
            why = _last(command.complaints())
            raise TargetError(f"{link.host.shown}: {why}") if why else no_tools(link)
    finally:
        command.close()
    return said.removesuffix(b"\n")


def no_tools(link: HostLink) -> TargetError:
    """What to say of a host that cannot unpack."""
    return TargetError(
        f"{link.host.shown} has no GNU tar and find, or runs no commands: nothing can be restored to it",
        hint="install tar and findutils there, or restore here and copy it",
    )


class Unpacking:
    """The tar that runs. Used by one thread."""

    def __init__(self, link: HostLink, directory: bytes, *, xattrs: bool, numeric_ids: bool) -> None:
        """Raises SshError."""
        words = [*_TAR, *(_XATTRS if xattrs else ()), *(("--numeric-owner",) if numeric_ids else ())]
        self._command = link.run(b"LC_ALL=C exec " + link.line(*words, b"--directory=" + directory))

    def write(self, data: Buffer) -> None:
        """The next bytes of the archive. Raises SshError."""
        try:
            self._command.write(data)
        except SshError as error:
            said = _last(self._command.complaints())
            if not said:
                raise
            raise SshError(f"the host's tar ended early: {said}") from error

    def end(self) -> Iterator[tuple[bytes, str]]:
        """Wait for the end: the paths that could not be written as they should, and why. Raises SshError."""
        self._command.feed(b"")
        while self._command.read():
            continue
        status = self._command.status()
        if status < 0:
            raise SshError("the connection was lost before everything was written")
        if not status:
            return
        for line in self._command.complaints().splitlines():
            path, separator, why = line.removeprefix(b"tar: ").rpartition(b": Cannot ")
            if separator:
                yield path, f"the host's tar says: cannot {why.decode(errors='replace')}"
            elif not any(each in line for each in _CLOSING):
                yield b"", f"the host says: {line.decode(errors='replace')}"

    def close(self) -> None:
        """Do without the rest. Idempotent."""
        self._command.close()


def _last(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return "".join(each for each in lines[-1] if each.isprintable()) if lines else ""
