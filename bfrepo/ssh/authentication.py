"""Proving to a server who we are: keys of the agent, keys in files, and a password where there is one.

The order is that of ssh: key files that the configuration names (by the agent, if it holds the same key), the other
keys of the agent, the usual key files, the password. A key that needs a passphrase is used through the agent only.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from paramiko import Agent, PKey, Transport
from paramiko.pkey import UnknownKeyType
from paramiko.ssh_exception import AuthenticationException, BadAuthenticationType, SSHException

from bfrepo.ssh.config import SshHost
from bfrepo.ssh.errors import SshError, SshRefused

_USUAL_FILES: Final = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")


def authenticate(transport: Transport, host: SshHost, password: str | None) -> None:
    """Log in. Raises SshRefused when the server takes nothing we have, SshError when the connection broke."""
    tried: list[str] = []
    try:
        with closing(Agent()) as agent:
            keys = agent.get_keys() if host.use_agent else ()
            if _with_keys(transport, host, keys, tried):
                return
        if password is not None and transport.is_active():
            tried.append("the password")
            if not transport.auth_password(host.user, password):
                return
    except (BadAuthenticationType, AuthenticationException):
        pass  # what was tried says it better
    except (SSHException, EOFError, OSError) as error:
        raise SshError(f"the connection to {host.shown} was lost while logging in: {error}") from error
    raise _refused(transport, host, tried)


def _with_keys(transport: Transport, host: SshHost, held: Sequence[PKey], tried: list[str]) -> bool:
    """Try keys until one is taken; if the server then wants more, only the password can be that."""
    for label, key in _candidates(host, held, tried):
        tried.append(label)
        try:
            wanted = transport.auth_publickey(host.user, key)
        except BadAuthenticationType:
            tried[-1] = "no key (the server takes none)"
            return False
        except AuthenticationException:
            if transport.is_active():
                continue
            return False
        tried[-1] += " (taken, but the server wants more)"
        return not wanted
    return False


def _candidates(host: SshHost, held: Sequence[PKey], tried: list[str]) -> Iterator[tuple[str, PKey]]:
    """Keys to try, each with a name for messages. Those that cannot be used are noted in `tried`."""
    by_blob = {key.asbytes(): key for key in held}
    for path in host.identities or ():
        of_agent = by_blob.pop(_public_half(path), None)
        if of_agent is not None:
            yield f"{path} (by the agent)", of_agent
        else:
            yield from _from_file(path, tried)
    if not host.only_these:
        for key in by_blob.values():
            yield f"{key.fingerprint} (of the agent)", key
    if host.identities is None:
        for path in map(os.path.expanduser, _USUAL_FILES):
            if os.path.exists(path) and _public_half(path) not in by_blob:
                yield from _from_file(path, tried)


def _from_file(path: str, tried: list[str]) -> Iterator[tuple[str, PKey]]:
    try:
        key = PKey.from_path(path)
    except TypeError:  # so says cryptography of a key that needs a passphrase
        tried.append(f"{path} (needs its passphrase: run ssh-add {path})")
    except OSError as error:
        tried.append(f"{path} ({error.strerror})")
    except (ValueError, UnsupportedAlgorithm, UnknownKeyType, SSHException):
        tried.append(f"{path} (not a private key that can be used)")
    else:
        yield path, key


def _public_half(path: str) -> bytes:
    """The public key beside a private one, as SSH sends it; nothing where there is none."""
    try:
        with open(path if path.endswith(".pub") else f"{path}.pub", "rb") as file:
            return base64.b64decode(file.read(16_384).split()[1])
    except (OSError, IndexError, ValueError):
        return b""


def _refused(transport: Transport, host: SshHost, tried: Sequence[str]) -> SshRefused:
    if tried and not transport.is_active():
        return SshRefused(
            f"{host.shown} hung up on the user {host.user} after trying: {', '.join(tried)}",
            hint=f"if there are too many keys, set IdentityFile and IdentitiesOnly for {host.alias} in ~/.ssh/config",
        )
    return SshRefused(
        f"{host.shown} does not let the user {host.user} in; tried: {', '.join(tried) or 'nothing, there is no key'}",
        hint=f"make `ssh {host.user}@{host.alias}` work without a question: with ssh-copy-id, ssh-add or ~/.ssh/config",
    )
