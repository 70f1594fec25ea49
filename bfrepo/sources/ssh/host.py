"""A host that files come from: one connection, made again when it breaks, and commands and SFTP over it.

What broke may be asked for again: after a failure the caller says so by `failed`, which waits a little and gives up
when nothing worked for a while.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from paramiko import Channel
from paramiko.ssh_exception import SSHException

from bfrepo.core.errors import SourceError
from bfrepo.core.protocols import Buffer
from bfrepo.sources.ssh.place import RemoteHost
from bfrepo.ssh.config import SshSettings
from bfrepo.ssh.connect import SshConnection, connect
from bfrepo.ssh.errors import SshError, SshRefused
from bfrepo.ssh.sftp import SftpSession

_PAUSES_S: Final = (0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""How long to wait after each failure in a row; after the last, no more."""

_SILENCE_S: Final = 600.0
"""How long a command may say nothing: `find` may be going through a large directory, `tar` through a hole."""

_SENDING_S: Final = 0.01
"""How often to look whether a command takes more, while it writes nothing."""

_LOOK_UP_S: Final = 0.5
"""How often to ask whoever waits for a command, while it writes nothing."""

_MOST_COMPLAINTS: Final = 1 << 20
_PIECE: Final = 1 << 20
_PACKET: Final = 32 << 10
"""What is handed to paramiko at once: `sendall` copies all that it has not sent yet with each packet."""


class HostLink:
    """A host and how to get there. Any thread may call anything."""

    def __init__(self, host: RemoteHost, settings: SshSettings, *, sudo: bool = False) -> None:
        """Connects to nothing yet. With `sudo` commands run as root there, without a question."""
        self.host = host
        self._settings = settings
        self._before = ("sudo", "-n") if sudo else ()
        self._lock = threading.Lock()
        self._connection: SshConnection | None = None
        self._failures = 0
        self._was_in = False

    def line(self, *words: str | bytes) -> bytes:
        """A command as a line for the shell, by whoever it has to be run."""
        return quoted([*self._before, *words])

    def run(self, command: bytes, while_waiting: Callable[[], None] | None = None) -> RemoteCommand:
        """Start a command; `while_waiting` is called again and again in silence. Raises SshRefused, SshError."""
        channel = self._connected().run(command)
        return RemoteCommand(channel, self.host.shown, while_waiting)

    def open_sftp(self) -> SftpSession:
        """A new session. Raises SshRefused, SshError."""
        return SftpSession(self._connected().open_subsystem("sftp"), self.host.shown)

    def failed(self, error: Exception) -> None:
        """Wait a little after a failure, and have the next call make a new connection, if this one broke.

        Raises SourceError when it is no use: because somebody has to change something first, or after a while.
        """
        with self._lock:
            if self._connection is not None and not self._connection.alive:
                self._connection.close()
                self._connection = None
            number, self._failures = self._failures, self._failures + 1
        hint = error.hint if isinstance(error, SshError) else None
        # A host that let us in and then hangs up while we log in again has refused nothing: it is being cut off.
        final = isinstance(error, SshRefused) and not self._was_in
        if final or number >= len(_PAUSES_S):
            raise SourceError(f"cannot back up {self.host.shown}: {error}", hint=hint) from error
        time.sleep(_PAUSES_S[number])

    def worked(self) -> None:
        """Something came. The next failure is the first again."""
        self._failures = 0

    def close(self) -> None:
        """End the connection. May be called again; what is asked for afterwards makes a new one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connected(self) -> SshConnection:
        with self._lock:
            if self._connection is not None and not self._connection.alive:
                self._connection.close()
                self._connection = None
            if self._connection is None:
                host = self.host
                self._connection = connect(host.name, user=host.user, port=host.port, settings=self._settings)
                self._was_in = True
            return self._connection


class RemoteCommand:
    """A command that runs on the host. Used by one thread."""

    def __init__(self, channel: Channel, host: str, while_waiting: Callable[[], None] | None = None) -> None:
        self._channel = channel
        self._host = host
        self._while_waiting = while_waiting
        self._complaints = bytearray()
        self._rest = memoryview(b"")
        self._unsent = b""
        channel.settimeout(_SILENCE_S)

    def feed(self, data: bytes) -> None:
        """Give it this to read, and then the end. Raises SshError."""
        try:
            self._channel.sendall(data)
            self._channel.shutdown_write()
        except (SSHException, EOFError, OSError) as error:
            raise self._lost(error) from error

    def send(self, data: bytes) -> None:
        """Give it this to read, and more later. What it does not take yet is sent while it is read from; so it never
        waits for us while we wait for it. Raises SshError.
        """
        self._unsent += data
        self._push()

    def write(self, data: Buffer) -> None:
        """Give it all of this to read, at its pace, and more later. What it writes meanwhile to its standard output is
        not kept. Raises SshError.
        """
        view = memoryview(data)
        try:
            while view and not self._channel.closed:
                while self._channel.recv_ready():
                    self._channel.recv(_PIECE)
                view = view[self._channel.send(bytes(view[:_PACKET])) :]
        except (SSHException, EOFError, OSError) as error:
            if not self._ended_well():
                raise self._lost(error) from error
        else:
            if view and not self._ended_well():
                raise self._lost(EOFError())
        self._listen()

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of `buffer` with what it writes; 0 at the end. Raises SshError."""
        if not self._rest:
            self._rest = memoryview(self.read())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def read(self) -> bytes:
        """Some of what it writes; empty at the end, which may have come too early. Raises SshError."""
        self._send_rest()
        try:
            data = self._receive()
        except (SSHException, EOFError, OSError) as error:
            self.close()
            raise self._lost(error) from error
        self._listen()
        return data

    def _receive(self) -> bytes:
        """What comes next, with whoever waits for it asked now and then."""
        if self._while_waiting is None:
            return self._channel.recv(_PIECE)
        self._channel.settimeout(_LOOK_UP_S)
        try:
            for _ in range(int(_SILENCE_S / _LOOK_UP_S)):
                with suppress(TimeoutError):
                    return self._channel.recv(_PIECE)
                self._listen()
                self._while_waiting()
        finally:
            self._channel.settimeout(_SILENCE_S)
        raise TimeoutError

    def complaints(self) -> bytes:
        """What it wrote to its standard error so far, as much as is kept."""
        self._listen()
        return bytes(self._complaints)

    def wait_for_complaints(self, limit_s: float) -> bool:
        """Wait until it writes more to its standard error; whether it has, so that it is worth a look."""
        deadline = time.monotonic() + limit_s
        while not self._channel.recv_stderr_ready():
            if self._channel.closed or self._channel.eof_received or time.monotonic() > deadline:
                return False
            time.sleep(_SENDING_S)
        return True

    def status(self) -> int:
        """With what it ended; negative when a signal or the end of the connection came first. Waits for it."""
        return self._channel.recv_exit_status() if self._channel.status_event.wait(_SILENCE_S) else -1

    def close(self) -> None:
        """Do without the rest. May be called again."""
        with suppress(SSHException, EOFError, OSError):
            self._channel.close()

    def _send_rest(self) -> None:
        """Until something is there to read."""
        deadline = time.monotonic() + _SILENCE_S
        while self._unsent and not self._channel.recv_ready() and not self._channel.eof_received:
            self._push()
            if self._unsent:
                if time.monotonic() > deadline:
                    raise self._lost(TimeoutError())
                time.sleep(_SENDING_S)

    def _push(self) -> None:
        """Send as much as is taken at once."""
        try:
            while self._unsent and self._channel.send_ready():
                sent = self._channel.send(self._unsent)
                if not sent:
                    raise EOFError
                self._unsent = self._unsent[sent:]
        except (SSHException, EOFError, OSError) as error:
            self.close()
            raise self._lost(error) from error

    def _ended_well(self) -> bool:
        """Whether it is over and needed no more, as tar that has read the end of an archive."""
        return self._channel.status_event.is_set() and self._channel.exit_status == 0

    def _listen(self) -> None:
        with suppress(SSHException, EOFError, OSError):
            while self._channel.recv_stderr_ready():
                self._complaints += self._channel.recv_stderr(_PIECE)
        del self._complaints[:-_MOST_COMPLAINTS]

    def _lost(self, error: Exception) -> SshError:
        if isinstance(error, TimeoutError):
            return SshError(f"{self._host} has said nothing for {_SILENCE_S:.0f} seconds")
        return SshError(f"the connection to {self._host} was lost: {error or type(error).__name__}")


def quoted(words: Sequence[str | bytes]) -> bytes:
    """Words as a line for a shell."""
    return b" ".join(
        shlex.quote(word if isinstance(word, str) else word.decode("utf-8", "surrogateescape")).encode(
            "utf-8", "surrogateescape"
        )
        for word in words
    )
