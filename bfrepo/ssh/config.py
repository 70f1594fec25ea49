"""What `~/.ssh/config` and `/etc/ssh/ssh_config` say about a host, so that whatever `ssh host` reaches is reached.

Understood: Host, Match, Include, HostName, Port, User, IdentityFile, IdentitiesOnly, IdentityAgent none, ProxyJump,
ProxyCommand, HostKeyAlias, UserKnownHostsFile, GlobalKnownHostsFile. What ssh would do beyond that (certificates of
hosts, canonical names by DNS, shared connections) is left out. StrictHostKeyChecking is always as with `yes`.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from paramiko import SSHConfig
from paramiko.ssh_exception import ConfigParseError, CouldNotCanonicalize

from bfrepo.ssh.errors import SshRefused

_USER_FILE: Final = "~/.ssh/config"
_SYSTEM_FILE: Final = "/etc/ssh/ssh_config"
_USER_KNOWN_HOSTS: Final = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
_SYSTEM_KNOWN_HOSTS: Final = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"

_MOST_INCLUDES: Final = 16
"""How deep files may include each other, as in OpenSSH."""

_INCLUDE = re.compile(r"\s*include(?:\s*=\s*|\s+)(.+)", re.IGNORECASE)
_HEADING = re.compile(r"\s*(?:host|match)\b", re.IGNORECASE)
_JUMP = re.compile(r"(?:ssh://)?(?:(?P<user>[^@]+)@)?(?P<host>\[[^\]]+\]|[^:@\[\]]+)(?::(?P<port>\d+))?/?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SshSettings:
    """What beats the configuration. None leaves a matter to it; `password` is for servers that take no key."""

    identity_file: str | None = None
    known_hosts: str | None = None
    config_file: str | None = None
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Jump:
    """A host on the way to another, as ProxyJump names it."""

    user: str | None
    host: str
    port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SshHost:
    """A host, and how to get there and in. `alias` is what people call it, `address` a name or number to connect to.

    `identities` are the key files to try, None for the usual ones; `only_these` is whether the agent's other keys are
    left alone. `known_hosts` are the files that say which key the host has, `key_name` is its name in them.
    """

    alias: str
    address: str
    port: int
    user: str
    identities: tuple[str, ...] | None
    only_these: bool
    use_agent: bool
    known_hosts: tuple[str, ...]
    key_name: str
    jumps: tuple[Jump, ...]
    proxy_command: str | None

    @property
    def shown(self) -> str:
        """The host for messages: with its alias, if it has one, and a port that is not the usual."""
        port = f" port {self.port}" if self.port != 22 else ""
        known_as = f" ({self.address})" if self.address != self.alias else ""
        return f"{self.alias}{known_as}{port}"


def find_host(alias: str, user: str | None, port: int | None, settings: SshSettings) -> SshHost:
    """The host that `alias` means. `user` and `port` beat the configuration. Raises SshRefused if that is wrong."""
    found = _look_up(alias, user, port, settings)
    address = str(found["hostname"])
    number = _port(found)
    identities = [settings.identity_file] if settings.identity_file else found.get("identityfile")
    agent = found.get("identityagent", "").lower()
    jumps = found.get("proxyjump", "none")
    command = found.get("proxycommand")
    return SshHost(
        alias=alias,
        address=address,
        port=number,
        user=found.get("user") or getpass.getuser(),
        identities=None if identities is None else tuple(map(os.path.expanduser, _without_none(identities))),
        only_these=found.get("identitiesonly", "no").lower() == "yes",
        use_agent=agent != "none",
        known_hosts=_known_hosts(found, settings),
        key_name=found.get("hostkeyalias") or (address if number == 22 else f"[{address}]:{number}"),
        jumps=() if jumps.lower() == "none" else tuple(_parse_jump(each) for each in jumps.split(",")),
        proxy_command=command if command and command.lower() != "none" else None,
    )


def _look_up(alias: str, user: str | None, port: int | None, settings: SshSettings) -> dict[str, Any]:
    """The options for a host. What is said first counts, so what beats the files stands in front of them."""
    beating = [f'User "{user}"'] if user is not None else []
    beating += [f"Port {port}"] if port is not None else []
    try:
        return SSHConfig.from_file([*beating, *_lines(settings)]).lookup(alias)
    except (ConfigParseError, CouldNotCanonicalize, KeyError, OSError, ValueError) as error:
        raise SshRefused(f"the SSH configuration for {alias} does not work: {error}") from error
    except ImportError as error:  # paramiko runs commands by means of a package that nothing else needs
        raise SshRefused(
            f"the SSH configuration for {alias} has a `Match exec`", hint="pip install invoke, or do without"
        ) from error


def _lines(settings: SshSettings) -> Iterator[str]:
    """The lines of all files. As with `ssh -F`, a file that was named is the only one."""
    if settings.config_file is not None:
        if not os.path.exists(os.path.expanduser(settings.config_file)):
            raise FileNotFoundError(f"there is no {settings.config_file}")
        yield from _lines_of(settings.config_file, "~/.ssh", 0)
        return
    for path, folder in ((_USER_FILE, "~/.ssh"), (_SYSTEM_FILE, "/etc/ssh")):
        yield "Host *"
        if os.path.exists(os.path.expanduser(path)):
            yield from _lines_of(path, folder, 0)


def _lines_of(path: str, folder: str, depth: int) -> Iterator[str]:
    """The lines of a file, with those of files it includes. What follows an Include belongs where it did before."""
    if depth > _MOST_INCLUDES:
        raise ValueError(f"{path} is included too deep")
    heading = "Host *"
    with open(os.path.expanduser(path), encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            included = _INCLUDE.match(line)
            if included is None:
                heading = line if _HEADING.match(line) else heading
                yield line
                continue
            for pattern in shlex.split(included[1], comments=True):
                for each in sorted(glob.glob(os.path.join(os.path.expanduser(folder), os.path.expanduser(pattern)))):
                    yield from _lines_of(each, folder, depth + 1)
            yield heading


def _port(found: dict[str, Any]) -> int:
    text = str(found.get("port", 22))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SshRefused(f"the SSH configuration says {text!r}, which is no port")
    return int(text)


def _known_hosts(found: dict[str, Any], settings: SshSettings) -> tuple[str, ...]:
    if settings.known_hosts:
        return (os.path.expanduser(settings.known_hosts),)
    of_user = found.get("userknownhostsfile", _USER_KNOWN_HOSTS)
    of_system = found.get("globalknownhostsfile", _SYSTEM_KNOWN_HOSTS)
    files = _without_none([*shlex.split(of_user), *shlex.split(of_system)])
    return tuple(os.path.expanduser(path.replace("%d", "~")) for path in files)


def _without_none(paths: list[str]) -> list[str]:
    """Paths, of which `none` means that there are no others."""
    return [path for path in paths if path.lower() != "none"]


def _parse_jump(text: str) -> Jump:
    match = _JUMP.fullmatch(text.strip())
    if match is None:
        raise SshRefused(f"the SSH configuration says ProxyJump {text!r}, which is no [user@]host[:port]")
    return Jump(match["user"], match["host"].strip("[]"), int(match["port"]) if match["port"] else None)
