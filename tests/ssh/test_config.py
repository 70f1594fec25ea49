from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from bfrepo.ssh.config import Jump, SshHost, SshSettings, find_host
from bfrepo.ssh.errors import SshRefused


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a configuration."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def find(home: Path, *lines: str, alias: str = "backup", user: str | None = None, port: int | None = None) -> SshHost:
    """What these lines of ~/.ssh/config say about a host."""
    (home / ".ssh/config").write_text("\n".join(lines) + "\n")
    return find_host(alias, user, port, SshSettings())


def test_host_that_nothing_is_said_about(home: Path) -> None:
    """Without a configuration a host is what it is called, at port 22, and the user is who we are."""
    host = find_host("backup.example.com", None, None, SshSettings())
    assert (host.address, host.port, host.user) == ("backup.example.com", 22, getpass.getuser())
    assert (host.identities, host.only_these, host.use_agent) == (None, False, True)
    assert (host.jumps, host.proxy_command, host.key_name) == ((), None, "backup.example.com")
    assert host.known_hosts[0] == f"{home}/.ssh/known_hosts"


def test_host_with_everything(home: Path) -> None:
    """What the configuration says about a host counts, and the first that is said."""
    host = find(
        home,
        "Host backup",
        "  HostName backup.example.com",
        "  User = bob",
        "  Port 2222",
        "  IdentityFile ~/.ssh/%h-key",
        "  IdentitiesOnly yes",
        "  IdentityAgent none",
        "  UserKnownHostsFile ~/.ssh/ours /etc/ours",
        "  GlobalKnownHostsFile none",
        "Host other",
        "  ProxyCommand false",
        "Host *",
        "  User somebody",
        "  IdentityFile ~/.ssh/for-all",
    )
    assert (host.address, host.port, host.user) == ("backup.example.com", 2222, "bob")
    assert host.identities == (f"{home}/.ssh/backup.example.com-key", f"{home}/.ssh/for-all")
    assert (host.only_these, host.use_agent) == (True, False)
    assert host.known_hosts == (f"{home}/.ssh/ours", "/etc/ours")
    assert (host.key_name, host.proxy_command) == ("[backup.example.com]:2222", None)
    assert host.shown == "backup (backup.example.com) port 2222"


def test_what_was_asked_for_beats_the_configuration(home: Path) -> None:
    """A user, a port, a key and files that were named count, also in what the configuration makes of them."""
    lines = ["Host *", "User bob", "Port 22", "IdentityFile a", "ProxyCommand reach %r@%h:%p"]
    host = find(home, *lines, user="alice", port=2022)
    assert (host.user, host.port, host.proxy_command) == ("alice", 2022, "reach alice@backup:2022")
    (home / "other").write_text("User carol\n")
    settings = SshSettings(identity_file="~/b", known_hosts="~/known", config_file="~/other")
    host = find_host("backup", None, None, settings)
    assert (host.user, host.identities, host.known_hosts) == ("carol", (f"{home}/b",), (f"{home}/known",))


def test_files_that_are_included(home: Path) -> None:
    """Included files count where they are included, by pattern, from ~/.ssh; the block goes on behind them."""
    (home / ".ssh/conf.d").mkdir()
    (home / ".ssh/conf.d/1").write_text("Host backup\n  User bob\n")
    (home / ".ssh/conf.d/2").write_text("Host other\n  Port 1\nInclude deeper\n")
    (home / ".ssh/deeper").write_text("Host backup\n  Port 2222\n")
    host = find(
        home, "Include conf.d/* none # of them", "Host backup", "  Include none", "  HostName there", "User carol"
    )
    assert (host.user, host.port, host.address) == ("bob", 2222, "there")


def test_files_that_include_each_other(home: Path) -> None:
    """A file that includes itself is an error, not the end."""
    with pytest.raises(SshRefused, match="included too deep"):
        find(home, "Include config")


def test_jumps(home: Path) -> None:
    """ProxyJump names hosts on the way, with user and port."""
    host = find(home, "ProxyJump gate,bob@inner.example.com:2222,ssh://[2001:db8::1]:22")
    assert host.jumps == (
        Jump(None, "gate", None),
        Jump("bob", "inner.example.com", 2222),
        Jump(None, "2001:db8::1", 22),
    )
    assert find(home, "ProxyJump none").jumps == ()


def test_other_name_for_the_key(home: Path) -> None:
    """HostKeyAlias is what known_hosts has the host's key for, whatever its port."""
    assert find(home, "HostKeyAlias cluster", "Port 2222").key_name == "cluster"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "Unparsable line nonsense"),
        ("Port many", "'many', which is no port"),
        ("Port 70000", "'70000', which is no port"),
        ("ProxyJump a:b:c", "'a:b:c', which is no"),
        ('Host "x', "Unparsable host"),
        ("CanonicalizeHostname yes", "does not work"),
    ],
)
def test_configuration_that_is_wrong(home: Path, line: str, message: str) -> None:
    """A configuration that does not work is an error that says what is wrong."""
    with pytest.raises(SshRefused, match=message):
        find(home, line)


def test_configuration_that_is_missing() -> None:
    """A file that was named has to be there."""
    with pytest.raises(SshRefused, match=r"there is no ~/nothing"):
        find_host("backup", None, None, SshSettings(config_file="~/nothing"))


def test_no_key_at_all(home: Path) -> None:
    """`IdentityFile none` means no key file, which is not the same as none named: those are the usual ones."""
    assert find(home, "IdentityFile none").identities == ()


def test_password_is_not_shown() -> None:
    """No representation of settings tells the password."""
    assert "secret" not in repr(SshSettings(password="secret"))
