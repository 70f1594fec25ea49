"""A connection to a host by SSH: found in the configuration, reached, recognised by its key, and logged in to.

Beside the keys it is about, a connection is what `ssh` would make it: through ProxyJump each host on the way is looked
up, recognised and logged in to in its own right, and sees nothing of what goes through; a ProxyCommand is run by the
shell. AES-GCM is asked for first, because with it the cheap half of the work is in C, and no separate MAC is needed.

A dead network is noticed after a minute: keep-alive messages are sent on an idle connection, and the kernel gives up a
connection whose bytes stay unacknowledged. Nothing is retried here.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import IO, Final

from paramiko import Channel, Transport
from paramiko.ssh_exception import ChannelException, IncompatiblePeer, SSHException

from bfrepo.ssh.authentication import authenticate
from bfrepo.ssh.config import SshHost, SshSettings, find_host
from bfrepo.ssh.errors import SshError, SshRefused
from bfrepo.ssh.hostkeys import HostKey, KnownKey, algorithms_for, check_host_key, known_keys

_CONNECT_S: Final = 30
"""How long each step of making a connection may take, in seconds."""

_LOGIN_S: Final = 120
"""How long logging in may take: a key in hardware waits for its owner's finger."""

_KEEP_ALIVE_S: Final = 20
_UNACKNOWLEDGED_MS: Final = 60_000
_REKEYING_S: Final = 120

_WINDOW: Final = 8 << 20
_LARGEST_PACKET: Final = 128 << 10
"""What a host may send ahead, and at once: more than the 2 MiB and 32 KiB of paramiko, for lines fast or long."""

_MOST_JUMPS: Final = 8
"""How long a chain of ProxyJumps may be; a longer one goes in a circle."""

_FAST_CIPHERS: Final = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


class SshConnection:
    """A host that we are logged in to. Any thread may open channels on it."""

    def __init__(self, host: SshHost, transport: Transport, rest: ExitStack) -> None:
        """`rest` is what ends with the connection."""
        self.host = host
        self._transport = transport
        self._rest = rest
        self._lock = threading.Lock()
        self._seen_broken = False

    @property
    def alive(self) -> bool:
        """Whether it is not known to be broken."""
        return self._transport.is_active() and not self._seen_broken

    @property
    def is_openssh(self) -> bool:
        """Whether the host says that its server is OpenSSH."""
        return self._transport.remote_version.startswith("SSH-2.0-OpenSSH")

    def open_subsystem(self, name: str) -> Channel:
        """A channel to a service of the host, such as "sftp". Raises SshRefused when it has none, SshError."""
        refusal = f"{self.host.shown} does not offer {name.upper()} to {self.host.user}"
        return self._open_session(lambda channel: channel.invoke_subsystem(name), refusal)

    def run(self, command: bytes) -> Channel:
        """A channel to a command, which the user's shell runs. Raises SshRefused when the host runs none, SshError."""
        refusal = f"{self.host.shown} runs no commands for {self.host.user}"
        return self._open_session(lambda channel: channel.exec_command(command), refusal)

    def _open_session(self, begin: Callable[[Channel], None], refusal: str) -> Channel:
        try:
            channel = self._transport.open_session(_WINDOW, _LARGEST_PACKET, timeout=_CONNECT_S)
        except ChannelException as error:
            raise SshRefused(f"{self.host.shown} allows no more sessions on one connection: {error.text}") from error
        except (SSHException, EOFError, OSError) as error:
            raise self._lost(error) from error
        try:
            begin(channel)
        except (SSHException, EOFError, OSError) as error:
            with suppress(SSHException, EOFError, OSError):
                channel.close()
            if self.alive:
                raise SshRefused(refusal) from error
            raise self._lost(error) from error
        return channel

    def open_way(self, address: str, port: int) -> Channel:
        """A way through the host to another one. Raises SshRefused, SshError."""
        try:
            return self._transport.open_channel("direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=_CONNECT_S)
        except ChannelException as error:
            raise SshError(f"{self.host.shown} cannot reach {address} port {port}: {error.text}") from error
        except (SSHException, EOFError, OSError) as error:
            raise self._lost(error) from error

    def close(self) -> None:
        """End the connection and all channels. May be called again."""
        with self._lock:
            self._rest.close()

    def _lost(self, error: Exception) -> SshError:
        if not isinstance(error, SSHException):
            self._seen_broken = True  # the thread that reads from it may find out a moment later
        return SshError(f"the connection to {self.host.shown} was lost: {error or type(error).__name__}")


def connect(alias: str, *, user: str | None, port: int | None, settings: SshSettings) -> SshConnection:
    """Connect and log in to a host.

    `user` and `port` beat the configuration, if given. Raises SshRefused for what somebody has to change first, and
    SshError for what may be different next time.
    """
    logger = logging.getLogger("paramiko")
    if not logger.hasHandlers():
        logger.addHandler(logging.NullHandler())  # else Python writes to stderr what we raise
    return _connect(find_host(alias, user, port, settings), settings, None, 0)


def _connect(host: SshHost, settings: SshSettings, way: SshConnection | None, depth: int) -> SshConnection:
    """Connect to a host: by `way`, or else as the configuration says. `way` is closed with the connection."""
    with ExitStack() as stack:
        if way is not None:
            stack.callback(way.close)
        known = known_keys(host)
        stream, said = _open_stream(host, settings, way, depth, stack)
        transport = _handshake(host, stream, known, said, stack)
        key = transport.get_remote_server_key()
        check_host_key(host, HostKey(key.get_name(), key.asbytes()), known)
        authenticate(transport, host, settings.password)
        transport.set_keepalive(_KEEP_ALIVE_S)
        return SshConnection(host, transport, stack.pop_all())


def _open_stream(
    host: SshHost, settings: SshSettings, way: SshConnection | None, depth: int, stack: ExitStack
) -> tuple[socket.socket | Channel, IO[bytes] | None]:
    """Something to speak SSH through; and where the command on the way complains, if there is one."""
    if way is None and host.jumps:
        way = _jump(host, settings, depth)
        stack.callback(way.close)
    if way is not None:
        return way.open_way(host.address, host.port), None
    if host.proxy_command is not None:
        return _run_proxy(host.proxy_command, stack)
    stream = _dial(host)
    stack.callback(stream.close)
    return stream, None


def _jump(host: SshHost, settings: SshSettings, depth: int) -> SshConnection:
    """A connection to the last host on the way."""
    if depth >= _MOST_JUMPS:
        raise SshRefused(f"the SSH configuration sends us in circles on the way to {host.alias}")
    way = None
    settings = _for_jump(settings)
    for jump in host.jumps:
        way = _connect(find_host(jump.host, jump.user, jump.port, settings), settings, way, depth + 1)
    if way is None:
        raise SshRefused(f"the SSH configuration has an empty ProxyJump for {host.alias}")
    return way


def _for_jump(settings: SshSettings) -> SshSettings:
    """What was said about the host itself is not meant for those on the way: a key, a password."""
    return SshSettings(known_hosts=settings.known_hosts, config_file=settings.config_file)


def _dial(host: SshHost) -> socket.socket:
    try:
        stream = socket.create_connection((host.address, host.port), timeout=_CONNECT_S)
    except socket.gaierror as error:
        raise SshError(f"cannot find the host {host.shown}: {error.strerror}") from error
    except OSError as error:
        raise SshError(f"cannot connect to {host.shown}: {error.strerror or error}") from error
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    return stream


def _run_proxy(command: str, stack: ExitStack) -> tuple[socket.socket, IO[bytes]]:
    """Run a ProxyCommand. It gets a real socket, so that its end is seen (that of paramiko spins when it ends)."""
    said = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    with theirs:
        end = theirs.fileno()
        process = subprocess.Popen(["/bin/sh", "-c", f"exec {command}"], stdin=end, stdout=end, stderr=said)
    stack.callback(_end, process)
    return ours, said


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _handshake(
    host: SshHost, stream: socket.socket | Channel, known: list[KnownKey], said: IO[bytes] | None, stack: ExitStack
) -> Transport:
    """Agree on keys. The server is not yet known to be the right one."""
    transport = Transport(stream)
    stack.callback(transport.close)
    options = transport.get_security_options()
    options.ciphers = (*_FAST_CIPHERS, *(name for name in options.ciphers if name not in _FAST_CIPHERS))
    options.key_types = algorithms_for(known, options.key_types)
    transport.banner_timeout = transport.handshake_timeout = transport.channel_timeout = _CONNECT_S
    transport.auth_timeout = _LOGIN_S
    transport.clear_to_send_timeout = _REKEYING_S
    try:
        transport.start_client(timeout=_CONNECT_S)
        transport.get_remote_server_key()  # fails if the time was up
    except IncompatiblePeer as error:
        raise SshRefused(f"{host.shown} and this program have no way to encrypt in common: {error}") from error
    except (SSHException, EOFError, OSError) as error:
        raise SshError(f"{host.shown} does not answer as an SSH server: {_complaint(said) or error}") from error
    return transport


def _complaint(said: IO[bytes] | None) -> str:
    """The last line that the command on the way wrote to stderr."""
    if said is None:
        return ""
    said.seek(0)
    lines = said.read(4096).decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
