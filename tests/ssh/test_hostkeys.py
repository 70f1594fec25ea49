from __future__ import annotations

import base64
import hmac
from dataclasses import replace
from pathlib import Path

import pytest

from bfrepo.ssh.config import Jump, SshHost
from bfrepo.ssh.errors import SshRefused
from bfrepo.ssh.hostkeys import HostKey, algorithms_for, check_host_key, known_keys

KEY = HostKey("ssh-ed25519", b"the key")
OTHER = HostKey("ssh-ed25519", b"another key")
RSA = HostKey("ssh-rsa", b"a key of another kind")


@pytest.fixture
def host(tmp_path: Path) -> SshHost:
    """A host with a file of known hosts that is not there yet."""
    return SshHost(
        alias="backup",
        address="backup.example.com",
        port=22,
        user="bob",
        identities=(),
        only_these=False,
        use_agent=False,
        known_hosts=(str(tmp_path / "known hosts"),),
        key_name="backup.example.com",
        jumps=(),
        proxy_command=None,
    )


def at_port(host: SshHost, port: int) -> SshHost:
    """The host, with a server at another port."""
    return replace(host, port=port, key_name=f"[{host.address}]:{port}")


def line(names: str, key: HostKey = KEY) -> str:
    """A line of the file."""
    return f"{names} {key.kind} {base64.b64encode(key.blob).decode()}"


def hashed(name: str) -> str:
    """A name as `ssh-keygen -H` writes it."""
    salt = b"01234567890123456789"
    parts = (base64.b64encode(part).decode() for part in (salt, hmac.digest(salt, name.encode(), "sha1")))
    return "|1|" + "|".join(parts)


def check(host: SshHost, key: HostKey, *lines: str) -> None:
    """Check a key against these lines."""
    Path(host.known_hosts[0]).write_text("\n".join(lines) + "\n")
    check_host_key(host, key, known_keys(host))


@pytest.mark.parametrize(
    "names",
    [
        "backup.example.com",
        "other,Backup.Example.com",
        "*.example.com",
        "backup.exampl?.com",
        "*.example.com,!mail.example.com",
        hashed("backup.example.com"),
    ],
)
def test_known_key_is_accepted(host: SshHost, names: str) -> None:
    """A key that a line has for the host is its key, however the line names the host."""
    check(host, KEY, "# a comment", "", line("unrelated", OTHER), line(names), line("|1|broken|"), "nonsense")


@pytest.mark.parametrize(
    "names",
    ["backup.example.org", "backupXexample.com", "*,!backup.example.com", "[backup.example.com]:2222", hashed("other")],
)
def test_unknown_host_is_refused(host: SshHost, names: str) -> None:
    """A line that does not mean the host says nothing about it."""
    with pytest.raises(SshRefused, match="is not known: it has the key ED25519 SHA256:"):
        check(host, KEY, line(names))


def test_unknown_host_can_be_trusted(host: SshHost) -> None:
    """Who meets a new host is told to compare its fingerprint, and the command that trusts it."""
    with pytest.raises(SshRefused) as caught:
        check_host_key(host, KEY, known_keys(host))
    assert str(caught.value.hint).endswith(
        f"ssh-keyscan -t ed25519 backup.example.com >> '{host.known_hosts[0]}'"  # the path has a space
    )
    assert str(caught.value.hint).startswith("compare this")


@pytest.mark.parametrize(
    "change", [{"jumps": (Jump(None, "gate", None),)}, {"proxy_command": "nc"}, {"key_name": "an-alias"}]
)
def test_host_that_only_ssh_reaches(host: SshHost, change: dict[str, object]) -> None:
    """Where ssh-keyscan does not get to the host, or would write a wrong name, ssh itself is to be run."""
    with pytest.raises(SshRefused) as caught:
        check_host_key(replace(at_port(host, 2222), **change), KEY, [])  # type: ignore[arg-type]
    assert str(caught.value.hint).endswith("ssh -p 2222 bob@backup")


def test_changed_key_is_loud(host: SshHost) -> None:
    """A host with another key than the known one is refused, loudly; where the known one stands is said."""
    with pytest.raises(SshRefused, match="HAS CHANGED") as caught:
        check(host, OTHER, "# first line", line("backup.example.com"))
    assert KEY.shown in str(caught.value)
    assert OTHER.shown in str(caught.value)
    assert "in line 2" in str(caught.value)
    assert "ssh-keygen -R 'backup.example.com'" in str(caught.value.hint)


def test_key_of_another_kind_is_a_changed_key(host: SshHost) -> None:
    """A host that no longer shows the known kind of key is not who it was: else an attacker would show another kind."""
    with pytest.raises(SshRefused, match="HAS CHANGED"):
        check(host, RSA, line("backup.example.com"))


def test_several_keys_of_a_host(host: SshHost) -> None:
    """A host may have several keys, of one kind or of several, in several lines."""
    lines = [line("backup.example.com", key) for key in (OTHER, RSA, KEY)]
    for key in (KEY, OTHER, RSA):
        check(host, key, *lines)


def test_revoked_key_is_refused(host: SshHost) -> None:
    """A key that is marked as revoked is refused, also where another line has it."""
    with pytest.raises(SshRefused, match="revoked"):
        check(host, KEY, line("backup.example.com"), "@revoked " + line("*"))


def test_authority_is_no_key(host: SshHost) -> None:
    """A line for an authority over hosts is none for a host."""
    with pytest.raises(SshRefused, match="not known"):
        check(host, KEY, "@cert-authority " + line("*"))


def test_key_of_a_port(host: SshHost) -> None:
    """A port of its own has a line of its own; the host's line is good enough for it, but never speaks against it."""
    beside = at_port(host, 2222)
    check(beside, KEY, line("[backup.example.com]:2222"), line("backup.example.com", OTHER))
    check(beside, KEY, line("backup.example.com"))
    with pytest.raises(SshRefused, match="port 2222 is not known"):
        check(beside, KEY, line("backup.example.com", OTHER))
    with pytest.raises(SshRefused, match="HAS CHANGED"):
        check(beside, KEY, line("[backup.example.com]:2222", OTHER), line("backup.example.com"))


def test_unreadable_file_is_no_empty_one(host: SshHost, tmp_path: Path) -> None:
    """A file of known hosts that cannot be read stops the connection, and is named."""
    with pytest.raises(SshRefused, match=f"cannot read {tmp_path}: Is a directory"):
        known_keys(replace(host, known_hosts=(str(tmp_path),)))


def test_known_kinds_are_asked_for_first(host: SshHost) -> None:
    """A server with several keys is asked for one that is known, so that it is not taken for another."""
    Path(host.known_hosts[0]).write_text(line("backup.example.com", RSA))
    offered = ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"]
    assert algorithms_for(known_keys(host), offered) == [*offered[2:], *offered[:2]]


def test_fingerprint_is_that_of_ssh() -> None:
    """Fingerprints are those that ssh-keygen -l shows."""
    blob = base64.b64decode("AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl")
    assert HostKey("ssh-ed25519", blob).shown == "ED25519 SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
