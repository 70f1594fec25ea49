"""Whether a host has the key that `known_hosts` says it has. Without that anybody on the way could be the server.

A line is `[@marker] names type key [comment]`. Names are separated by commas and may have `*`, `?` and a `!` in front;
a hashed name is `|1|salt|HMAC-SHA1(salt, name)`. A port other than 22 makes a name `[host]:port`. Keys marked @revoked
are refused. Certificates of hosts (@cert-authority) are not supported; such lines are skipped. See sshd(8).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bfrepo.ssh.config import SshHost
from bfrepo.ssh.errors import SshRefused


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public key of a host; `blob` is the key as SSH sends it."""

    kind: str
    blob: bytes

    @property
    def shown(self) -> str:
        """Its kind and fingerprint, as ssh shows them: "ED25519 SHA256:..."."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")
        return f"{short_kind(self.kind).upper()} SHA256:{digest}"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that a file says a host has, or must never have. `name` is what the host was looked up as."""

    name: str
    key: HostKey
    revoked: bool
    file: str
    line: int


def short_kind(kind: str) -> str:
    """What ssh-keyscan and people call a kind of key."""
    return "ecdsa" if kind.startswith("ecdsa-") else kind.removeprefix("ssh-")


def known_keys(host: SshHost) -> list[KnownKey]:
    """The keys that the files have for the host. Raises SshRefused for a file that cannot be read.

    As with ssh, a key known for the host as such is good for a port of its own that no key is known for.
    """
    named = _keys_for(host.key_name, host.known_hosts)
    if host.key_name == f"[{host.address}]:{host.port}" and not any(not each.revoked for each in named):
        return named + _keys_for(host.address, host.known_hosts)
    return named


def algorithms_for(known: Iterable[KnownKey], offered: Sequence[str]) -> list[str]:
    """The algorithms to ask a server for: those first with which it shows a key that is known."""
    kinds = {each.key.kind for each in known if not each.revoked}
    return sorted(offered, key=lambda name: ("ssh-rsa" if name.startswith("rsa-sha2-") else name) not in kinds)


def check_host_key(host: SshHost, key: HostKey, known: Sequence[KnownKey]) -> None:
    """Raises SshRefused, and says what to do, unless the host is known to have this key."""
    if any(each.revoked and each.key == key for each in known):
        raise SshRefused(
            f"the key of {host.shown} has been revoked: {key.shown}", hint="ask whoever runs the server what happened"
        )
    if any(not each.revoked and each.key == key for each in known):
        return
    named = [each for each in known if not each.revoked and each.name == host.key_name]
    if named:
        raise _changed(host, key, named[0])
    raise SshRefused(
        f"the server {host.shown} is not known: it has the key {key.shown}",
        hint="compare this with what whoever runs the server says, then trust it for good: " + _how_to_trust(host, key),
    )


def _changed(host: SshHost, key: HostKey, known: KnownKey) -> SshRefused:
    return SshRefused(
        f"THE KEY OF THE SERVER {host.shown} HAS CHANGED: somebody may be listening in on the connection. "
        f"It has the key {key.shown}, but {known.file} says in line {known.line} that it has {known.key.shown}",
        hint="ask whoever runs the server. Only if the server really has a new key: "
        f"ssh-keygen -R '{host.key_name}' -f {shlex.quote(known.file)}, then {_how_to_trust(host, key)}",
    )


def _how_to_trust(host: SshHost, key: HostKey) -> str:
    """A command that adds the host's key to the file. Only ssh itself finds the way by other hosts."""
    port = f"-p {host.port} " if host.port != 22 else ""
    if host.jumps or host.proxy_command or host.address not in host.key_name:  # the last: it has a HostKeyAlias
        return f"ssh {port}{host.user}@{host.alias}"
    file = host.known_hosts[0] if host.known_hosts else "~/.ssh/known_hosts"
    return f"ssh-keyscan {port}-t {short_kind(key.kind)} {host.address} >> {shlex.quote(file)}"


def _keys_for(name: str, files: Iterable[str]) -> list[KnownKey]:
    return [each for file in files for each in _keys_in(file, name)]


def _keys_in(path: str, name: str) -> list[KnownKey]:
    """What one file says. One that is not there says nothing, nor does a line that is not understood."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SshRefused(f"cannot read {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", "@revoked"):
            continue
        if _matches(fields[0], name.lower()):
            try:
                key = HostKey(fields[1], base64.b64decode(fields[2], validate=True))
            except binascii.Error:
                continue
            found.append(KnownKey(name, key, marker == "@revoked", path, number))
    return found


def _matches(patterns: str, name: str) -> bool:
    """Whether the first field of a line means `name`. A pattern with `!` that fits excludes it."""
    matched = False
    for pattern in patterns.split(","):
        if pattern.startswith("|"):
            matched = matched or _is_hash_of(pattern, name)
        elif pattern.startswith("!"):
            if _fits(pattern[1:], name):
                return False
        else:
            matched = matched or _fits(pattern, name)
    return matched


def _fits(pattern: str, name: str) -> bool:
    expression = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name) is not None


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        _, version, salt, digest = hashed.split("|")
        expected = hmac.digest(base64.b64decode(salt), name.encode(), "sha1")
        return version == "1" and hmac.compare_digest(base64.b64decode(digest), expected)
    except ValueError:  # not as many fields, or no base64
        return False
