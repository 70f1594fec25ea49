"""A shell on the host that runs `tar` for one list of names after the other, and what that sends.

The shell is asked by a line with a number, and that many bytes of names, each with a NUL behind it. It answers with an
archive. One that tar did not end as it should is the last: so the end of what is sent can be nowhere but at the end of
an archive or in the middle of one, and never does the next begin where content of a file is expected.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from bfrepo.core.units import KIB, MIB
from bfrepo.formats.tar_header import BLOCK
from bfrepo.formats.tar_reader import TarMember, TarReader
from bfrepo.sources.ssh.host import HostLink, quoted
from bfrepo.ssh.errors import SshError

_RECORD: Final = 64 * KIB
"""tar writes in records of this size. With the usual 10 KiB an SSH server makes as small packets of it."""

_TAR: Final = (
    "tar", "--create", "--file=-", f"--blocking-factor={_RECORD // BLOCK}", "--format=posix",
    "--pax-option=delete=?time", "--hard-dereference", "--sparse", "--xattrs", "--xattrs-include=*",
    "--quoting-style=literal", "--absolute-names", "--no-recursion", "--null", "--verbatim-files-from",
    "--files-from=-",
)  # fmt: skip
"""Times are left to the listing, which has them already: so most files need one header instead of three."""

_LOOP: Final = b'export LC_ALL=C; while read -r size; do head -c "$size" | %b || test $? -eq 1 || exit 2; done'
"""tar ends with 1 when a file changed meanwhile. With 2 it ends when some could not be read, and when it gave up."""

_STOPPED_READING: Final = MIB
"""Of what is not wanted any more, this much is passed over rather than to begin anew."""

_COMPLAINT_S: Final = 1.0
"""How long what tar says of a name may be under way, while its next output is here."""


class SessionEnded(SshError):
    """The shell answers no more lists, having answered some: begin another."""


class TarSession:
    """The shell. Used by one thread."""

    def __init__(self, link: HostLink) -> None:
        """Raises SshRefused, SshError."""
        self._link = link
        self._answered = 0
        self.command = link.run(quoted(["exec", "sh", "-c", _LOOP % link.line(*_TAR)]))
        self.reader = TarReader(self.command, record=_RECORD)

    def check_goes_on(self) -> None:
        """Raises SessionEnded, SshError when no further archive comes."""
        if not self.reader.at_end():
            self._answered += 1
            return
        if self.command.status() < 0:
            raise SshError(f"the connection to {self._link.host.shown} was lost while files were read")
        if self._answered:
            raise SessionEnded("tar ended")
        lines = self.command.complaints().decode(errors="replace").strip().splitlines()
        said = "".join(each for each in lines[-1] if each.isprintable()) if lines else "it says nothing"
        raise SshError(f"the tar of {self._link.host.shown} does not start: {said}")

    def close(self) -> None:
        """Do without the rest. May be called again."""
        self.command.close()


class TarRound:
    """One list of names, and the archive that answers it. Used by one thread, when those before it are finished."""

    def __init__(self, session: TarSession, paths: Sequence[bytes]) -> None:
        """Raises SshError."""
        self.waiting = deque(paths)
        self._left = set(paths)
        self._session = session
        names = b"".join(path + b"\0" for path in paths)
        session.command.send(b"%d\n%b" % (len(names), names))
        self._members = session.reader.members()
        self._begun = False
        self._found = False
        self._member: TarMember | None = None
        self._ended = False

    def find(self, path: bytes) -> TarMember:
        """The member of this name, of which nothing was read yet; those before it are passed over.

        Raises OSError where tar could not read it, SshError and MalformedTar where something broke.
        """
        while self.waiting and self.waiting[0] != path:
            self._left.discard(self.waiting.popleft())
        while (member := self._peek()) is not None and _name(member) != path:
            if _name(member) in self._left:
                break
            self._member = None
        if member is None or _name(member) != path:
            self._drop(path)
            raise self._failure(path)
        return member

    def take(self, path: bytes) -> None:
        """The member's data are read now."""
        self._found = True
        self._drop(path)
        self._member = None

    def read_into(self, buffer: memoryview) -> int:
        """See TarReader.read_into."""
        return self._session.reader.read_into(buffer)

    def says_changed(self, path: bytes) -> bool:
        """Whether tar has noticed that the file changed while it was sent."""
        said = self._session.command.complaints()
        return b"tar: " + path + b": file changed" in said or b"tar: " + path + b": File shrank" in said

    def finish(self) -> bool:
        """Pass over the rest; whether that was little enough to do so, so that the session is of further use.

        Raises SshError, MalformedTar.
        """
        passed = 0
        while passed < _STOPPED_READING:
            passed += self._session.reader.left
            self._member = None
            if passed < _STOPPED_READING and self._peek() is None:
                return True
        return False

    def _drop(self, path: bytes) -> None:
        if self.waiting and self.waiting[0] == path:
            self.waiting.popleft()
        self._left.discard(path)

    def _peek(self) -> TarMember | None:
        if self._member is None and not self._ended:
            if not self._begun:
                self._session.check_goes_on()
                self._begun = True
            self._member = next(self._members, None)
            self._ended = self._member is None
        return self._member

    def _failure(self, path: bytes) -> OSError:
        """What is wrong with a file that did not come. Raises SshError when nobody knows, unless it was the first that
        was asked for: so it is asked for once more, first.
        """
        deadline = time.monotonic() + _COMPLAINT_S
        while (why := self._complaint(path)) is None:
            if time.monotonic() > deadline or not self._session.command.wait_for_complaints(_COMPLAINT_S):
                if self._found:
                    raise SshError("tar left out a file, and did not say why")
                return OSError(errno.EIO, "the host's tar did not send it")
        if why.endswith(b"No such file or directory") or why.startswith(b"File removed"):
            return FileNotFoundError(errno.ENOENT, "it is gone")
        code = errno.EACCES if why.endswith(b"Permission denied") else errno.EIO
        return OSError(code, f"the host's tar says: {why.decode(errors='replace')}")

    def _complaint(self, path: bytes) -> bytes | None:
        said = b"\n" + self._session.command.complaints()
        at = said.rfind(b"\ntar: " + path + b": ")
        return None if at < 0 else said[at + len(path) + 8 :].partition(b"\ntar: ")[0].strip()


def _name(member: TarMember) -> bytes:
    """The name it was asked for by: tar puts a slash behind those of directories."""
    return member.path.rstrip(b"/") or b"/"
