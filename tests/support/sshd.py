"""OpenSSH's sshd on 127.0.0.1 and a free port, with SFTP, for whoever runs the tests: `with serve(folder) as sshd`.

Beside it lies a home as a user of it would have: a key, known_hosts, and a config with the host `backup` in it.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from bfrepo.storage.location import SftpLocation
from bfrepo.storage.options import SftpOptions
from bfrepo.storage.sftp import SftpBackend

_TIME_LIMIT_S: Final = 30.0
_PRIVILEGES: Final = Path("/run/sshd")


@dataclass(frozen=True)
class Sshd:
    """A running server. `home` is what belongs into a user's home, `log` is what the server said so far."""

    port: int
    pid: int
    home: Path
    host_key: Path
    log: Path

    @property
    def ssh(self) -> Path:
        """The folder with the user's key, known_hosts and config."""
        return self.home / ".ssh"

    @property
    def known_host(self) -> str:
        """The line that says which key the server has."""
        return known_host(f"[127.0.0.1]:{self.port}", self.host_key)

    @property
    def options(self) -> SftpOptions:
        """What gets one in."""
        return SftpOptions(
            identity_file=str(self.ssh / "id_ed25519"),
            known_hosts=str(self.ssh / "known_hosts"),
            config_file=str(self.ssh / "config"),
        )

    def location(self, path: Path | str) -> SftpLocation:
        """A place on the server."""
        return SftpLocation(getpass.getuser(), "127.0.0.1", self.port, str(path))

    def backend(self, path: Path | str, options: SftpOptions | None = None) -> SftpBackend:
        """A backend for a place on the server."""
        return SftpBackend(self.location(path), options or self.options)

    def sessions(self) -> list[int]:
        """The processes that serve a connection, the children first."""
        return [pid for child in _children(self.pid) for pid in (*_children(child), child)]


@contextmanager
def serve(folder: Path, *lines: str, sftp: str = "internal-sftp", before: Sequence[str | Path] = ()) -> Iterator[Sshd]:
    """Run a server with files in `folder`, these lines in front of its configuration, and this program for SFTP.

    `before` stands in front of the command, which it must replace itself by.
    """
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        pytest.skip("sshd is not installed")
    if os.geteuid() == 0:
        _PRIVILEGES.mkdir(exist_ok=True)  # as the system does when it starts the service
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    user_key, host_key = make_key(home / ".ssh" / "id_ed25519"), make_key(folder / "host_key")
    shutil.copy(f"{user_key}.pub", folder / "authorized_keys")
    port = free_port()
    (folder / "sshd_config").write_text(
        "\n".join([*lines, *_configuration(folder, port), f"Subsystem sftp {sftp}"]) + "\n"
    )
    (home / ".ssh" / "known_hosts").write_text(known_host(f"[127.0.0.1]:{port}", host_key))
    (home / ".ssh" / "config").write_text(
        f"IdentityAgent none\nHost backup\n  HostName 127.0.0.1\n  Port {port}\n  User {getpass.getuser()}\n"
        f"Host *\n  IdentityFile {user_key}\n  UserKnownHostsFile {home}/.ssh/known_hosts\n"
    )
    log = folder / "sshd.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*before, program, "-D", "-e", "-f", folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
    sshd = Sshd(port, process.pid, home, host_key, log)
    try:
        _wait_for(process, port, log)
        yield sshd
    finally:
        sessions = sshd.sessions()
        process.kill()
        process.wait()
        for pid in sessions:
            end_session(pid)


def make_key(path: Path, *arguments: str) -> Path:
    """Make a pair of keys at `path`, without a passphrase unless the arguments say otherwise."""
    passphrase = [] if "-N" in arguments else ["-N", ""]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", *passphrase, *arguments, "-f", path], check=True)
    return path


def known_host(name: str, key: Path) -> str:
    """A line of known_hosts."""
    return " ".join([name, *Path(f"{key}.pub").read_text().split()[:2]]) + "\n"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def end_session(pid: int) -> None:
    """Kill a process of the server, which may have ended by now."""
    try:
        os.kill(pid, 9)
    except ProcessLookupError:
        return


@contextmanager
def agent(folder: Path, *keys: Path) -> Iterator[Path]:
    """Run an ssh-agent that holds these keys; gives its socket."""
    path = folder / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _TIME_LIMIT_S
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for key in keys:
            subprocess.run(["ssh-add", "-q", key], env={**os.environ, "SSH_AUTH_SOCK": str(path)}, check=True)
        yield path
    finally:
        process.kill()
        process.wait()


def _configuration(folder: Path, port: int) -> list[str]:
    return [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "PermitRootLogin yes",
        "PidFile none",
        "MaxStartups 100",
    ]


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _TIME_LIMIT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@contextmanager
def serve_with_sudo(folder: Path) -> Iterator[Sshd]:
    """A server whose `sudo` needs no password and writes each program that it runs to `folder`/sudone."""
    programs = folder / "bin"
    programs.mkdir()
    sudo = programs / "sudo"
    sudo.write_text(f'#!/bin/sh\n[ "$1" = -n ] || exit 9\nshift\necho "$1" >>{folder}/sudone\nexec "$@"\n')
    sudo.chmod(0o755)
    with serve(folder, f"SetEnv PATH={programs}:/usr/bin:/bin") as sshd:
        yield sshd
