from __future__ import annotations

import getpass
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from paramiko.server import InteractiveQuery

from bfrepo.ssh.config import SshSettings
from bfrepo.ssh.connect import connect
from bfrepo.ssh.errors import SshError, SshRefused
from tests.support.sshd import Sshd, agent, free_port, known_host, make_key, serve

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture(autouse=True)
def home(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has a key for the server."""
    monkeypatch.setenv("HOME", str(sshd.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return sshd.home


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Where a test writes a configuration of its own."""
    return tmp_path / "config"


def works(alias: str, settings: SshSettings | None = None, port: int | None = None) -> bool:
    """Whether one gets in, as far as an SFTP session."""
    with (
        closing(connect(alias, user=None, port=port, settings=settings or SshSettings())) as connection,
        connection.open_subsystem("sftp"),
    ):
        return connection.alive


def settings_of(sshd: Sshd, config: Path, *lines: str, identity: str | None = "id_ed25519") -> SshSettings:
    """The settings with these lines for a configuration."""
    config.write_text("\n".join(lines) + "\n")
    return SshSettings(
        identity_file=str(sshd.ssh / identity) if identity else None,
        known_hosts=str(sshd.ssh / "known_hosts"),
        config_file=str(config),
    )


# --- getting in


def test_alias_of_the_configuration(sshd: Sshd) -> None:
    """What `ssh alias` reaches is reached: address, port, user and key come from ~/.ssh/config."""
    assert works("backup")


def test_connection_uses_a_fast_cipher(sshd: Sshd) -> None:
    """AES-GCM is agreed on, which takes the least of this program's time."""
    with closing(connect("backup", user=None, port=None, settings=SshSettings())) as connection:
        transport = connection.open_subsystem("sftp").get_transport()
        assert "gcm" in transport.local_cipher


def test_key_of_the_usual_name(sshd: Sshd, config: Path) -> None:
    """Without a word about keys that of the user's home is tried."""
    assert works("127.0.0.1", settings_of(sshd, config, f"Port {sshd.port}", "IdentityAgent none", identity=None))


@pytest.mark.parametrize("line", ["", "IdentitiesOnly yes"])
def test_key_of_an_agent(sshd: Sshd, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """A key with a passphrase is used through the agent, found by its public half."""
    key = tmp_path / "locked"
    key.write_bytes((sshd.ssh / "id_ed25519").read_bytes())
    key.chmod(0o600)
    (tmp_path / "locked.pub").write_bytes((sshd.ssh / "id_ed25519.pub").read_bytes())
    with agent(tmp_path, make_key(tmp_path / "useless"), key) as path:
        key.write_text("not to be read")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        lines = [f"Port {sshd.port}", f"IdentityFile {key}", line]
        assert works("127.0.0.1", settings_of(sshd, config, *lines, identity=None))


def test_any_key_of_an_agent(sshd: Sshd, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the agent are tried unless the configuration keeps to its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with agent(tmp_path, sshd.ssh / "id_ed25519") as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        assert works("127.0.0.1", settings_of(sshd, config, f"Port {sshd.port}", identity=None))
        for line in ("IdentityAgent none", "IdentitiesOnly yes"):
            with pytest.raises(SshRefused, match="there is no key"):
                works("127.0.0.1", settings_of(sshd, config, f"Port {sshd.port}", line, identity=None))


def test_jump(sshd: Sshd, config: Path, tmp_path: Path) -> None:
    """A host is reached through another one; each of them is recognised by its own key."""
    (tmp_path / "second").mkdir()
    with serve(tmp_path / "second") as second:
        (second.ssh / "known_hosts").write_text(second.known_host + sshd.known_host)
        lines = [
            "Host gate",
            f"HostName 127.0.0.1\nPort {sshd.port}\nIdentityFile {sshd.ssh}/id_ed25519",
            "Host inner",
            f"HostName 127.0.0.1\nPort {second.port}\nProxyJump gate",
            "Host inmost",
            f"HostName 127.0.0.1\nPort {second.port}\nProxyJump gate,127.0.0.1:{sshd.port}",
            f"Match host 127.0.0.1\nIdentityFile {sshd.ssh}/id_ed25519",
        ]
        settings = settings_of(second, config, *lines)
        assert works("inner", settings)
        assert works("inmost", settings)
        (second.ssh / "known_hosts").write_text(second.known_host)
        with pytest.raises(SshRefused, match=r"gate .* is not known"):
            works("inner", settings)


def test_jump_to_nowhere(sshd: Sshd, config: Path) -> None:
    """A host that the one on the way cannot reach is named, and so is that one."""
    lines = [f"Host gate\nHostName 127.0.0.1\nPort {sshd.port}", f"Host inner\nHostName 127.0.0.1\nPort {free_port()}"]
    settings = settings_of(sshd, config, *lines, "ProxyJump gate", f"Host *\nIdentityFile {sshd.ssh}/id_ed25519")
    with pytest.raises(SshError, match=r"gate \(127.0.0.1\) port \d+ cannot reach 127.0.0.1 port \d+"):
        works("inner", settings)


def test_jumps_in_circles(sshd: Sshd, config: Path) -> None:
    """A configuration that goes in circles is an error."""
    settings = settings_of(sshd, config, "Host a", "ProxyJump b", "Host b", "ProxyJump a")
    with pytest.raises(SshRefused, match="circles"):
        works("a", settings)


def test_proxy_command(sshd: Sshd, config: Path) -> None:
    """A ProxyCommand is run by the shell, and ends with the connection."""
    relay = "import os,select,socket,sys;s=socket.create_connection(sys.argv[1:]);" + (
        "exec('while True:\\n for r in select.select([0,s],[],[])[0]:\\n  d=os.read(r if r==0 else s.fileno(),65536)\\n"
        "  if not d: sys.exit()\\n  os.write(1,d) if r is s else s.sendall(d)')"
    )
    program = config.with_name("relay.py")
    program.write_text(relay)
    mark = config.with_name("pid")
    command = f"ProxyCommand sh -c 'echo $$ > {mark}; exec python3 {program} %h %p'"
    assert works("127.0.0.1", settings_of(sshd, config, f"Port {sshd.port}", command))
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_proxy_command_that_fails(sshd: Sshd, config: Path) -> None:
    """What a ProxyCommand that fails has to say is said."""
    settings = settings_of(sshd, config, "ProxyCommand echo no such luck >&2; exit 1")
    with pytest.raises(SshError, match="no such luck"):
        works("127.0.0.1", settings)


# --- not getting in


def test_wrong_key(sshd: Sshd, config: Path, tmp_path: Path) -> None:
    """A server that does not take our key is named, with the user, what was tried, and what to do."""
    settings = replace(
        settings_of(sshd, config, f"Port {sshd.port}", "IdentityAgent none"),
        identity_file=str(make_key(tmp_path / "wrong")),
    )
    with pytest.raises(
        SshRefused, match=f"does not let the user {getpass.getuser()} in; tried: {tmp_path}/wrong"
    ) as info:
        works("127.0.0.1", settings)
    assert info.value.hint == (
        f"make `ssh {getpass.getuser()}@127.0.0.1` work without a question: with ssh-copy-id, ssh-add or ~/.ssh/config"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("locked", r"locked \(needs its passphrase: run ssh-add .*locked\)"),
        ("missing", r"missing \(No such file or directory\)"),
        ("known_hosts", r"known_hosts \(not a private key that can be used\)"),
    ],
)
def test_key_that_cannot_be_used(sshd: Sshd, config: Path, tmp_path: Path, name: str, message: str) -> None:
    """A key that cannot be used is named, with the reason."""
    make_key(tmp_path / "locked", "-N", "a passphrase")
    (tmp_path / "known_hosts").write_text(sshd.known_host)
    settings = replace(
        settings_of(sshd, config, f"Port {sshd.port}", "IdentityAgent none"), identity_file=str(tmp_path / name)
    )
    with pytest.raises(SshRefused, match=message):
        works("127.0.0.1", settings)


def test_too_many_keys(sshd: Sshd, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs up after too many keys is told apart, with the way out."""
    with agent(tmp_path, *(make_key(tmp_path / f"useless-{number}") for number in range(8))) as path:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        with pytest.raises(SshRefused, match="hung up on the user") as caught:
            works("127.0.0.1", settings_of(sshd, config, f"Port {sshd.port}", identity=None))
    assert "IdentitiesOnly" in str(caught.value.hint)


def test_unknown_host(sshd: Sshd, config: Path, tmp_path: Path) -> None:
    """A server that is not known is refused before anything is told to it; trusting it as the hint says helps."""
    settings = settings_of(sshd, config, f"Port {sshd.port}")
    known = tmp_path / "known_hosts"
    with pytest.raises(SshRefused, match="is not known") as caught:
        works("127.0.0.1", replace(settings, known_hosts=str(known)))
    command = str(caught.value.hint).partition("for good: ")[2]
    assert command.startswith("ssh-keyscan -p")
    subprocess.run(["sh", "-c", command], stderr=subprocess.DEVNULL, check=True)
    assert works("127.0.0.1", replace(settings, known_hosts=str(known)))


def test_changed_host_key(sshd: Sshd, config: Path, tmp_path: Path) -> None:
    """A server with another key than the known one is refused, loudly."""
    known = tmp_path / "known_hosts"
    known.write_text(known_host(f"[127.0.0.1]:{sshd.port}", make_key(tmp_path / "other")))
    settings = replace(settings_of(sshd, config, f"Port {sshd.port}"), known_hosts=str(known))
    with pytest.raises(SshRefused, match="HAS CHANGED"):
        works("127.0.0.1", settings)


def test_server_with_several_keys(config: Path, tmp_path: Path) -> None:
    """A server is asked for the kind of key that is known, also where it prefers another."""
    make_key(tmp_path / "rsa", "-t", "rsa", "-b", "2048")
    with serve(tmp_path, f"HostKey {tmp_path}/rsa") as second:
        (second.ssh / "known_hosts").write_text(known_host(f"[127.0.0.1]:{second.port}", tmp_path / "rsa"))
        assert works("127.0.0.1", settings_of(second, config, f"Port {second.port}"))


def test_nobody_listens(sshd: Sshd, config: Path) -> None:
    """A port that nobody listens at is a failure that may pass."""
    with pytest.raises(SshError, match=r"cannot connect to 127.0.0.1 port .*: Connection refused") as caught:
        works("127.0.0.1", settings_of(sshd, config), free_port())
    assert not isinstance(caught.value, SshRefused)


def test_name_that_does_not_exist(sshd: Sshd, config: Path) -> None:
    """A host that cannot be found is a failure that may pass."""
    with pytest.raises(SshError, match=r"cannot find the host nothing.invalid"):
        works("nothing.invalid", settings_of(sshd, config))


def test_server_that_speaks_something_else(sshd: Sshd, config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no SSH server is told so; nothing is written to stderr but what we raise."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SshError, match="does not answer as an SSH server"):
            works("127.0.0.1", settings_of(sshd, config), listening.getsockname()[1])
        thread.join()
    assert capfd.readouterr().err == ""


def test_server_without_sftp(sshd: Sshd) -> None:
    """A server that does not offer what we want is told so."""
    with closing(connect("backup", user=None, port=None, settings=SshSettings())) as connection:
        with pytest.raises(SshRefused, match="does not offer NONSENSE"):
            connection.open_subsystem("nonsense")
        assert connection.alive


# --- passwords


class PasswordServer(paramiko.ServerInterface):
    """Lets one in who knows the password; with `interactive` it asks for it like a dialogue."""

    def __init__(self, interactive: bool) -> None:
        self._interactive = interactive

    def get_allowed_auths(self, username: str) -> str:
        return "keyboard-interactive" if self._interactive else "publickey,password"

    def check_auth_password(self, username: str, password: str) -> int:
        accepted = not self._interactive and password == PASSWORD
        return paramiko.common.AUTH_SUCCESSFUL if accepted else paramiko.common.AUTH_FAILED

    def check_auth_interactive(self, username: str, submethods: str) -> InteractiveQuery:
        return InteractiveQuery("", "", ("Password: ", False))

    def check_auth_interactive_response(self, responses: list[str]) -> int:
        return paramiko.common.AUTH_SUCCESSFUL if responses == [PASSWORD] else paramiko.common.AUTH_FAILED


@contextmanager
def password_server(tmp_path: Path, *, interactive: bool) -> Iterator[SshSettings]:
    """A server of that kind; gives the settings with which it is known, at the port in them."""
    key = make_key(tmp_path / "host_key")
    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            transport = paramiko.Transport(listening.accept()[0])
            transports.append(transport)
            transport.add_server_key(paramiko.Ed25519Key.from_private_key_file(str(key)))
            transport.start_server(event=threading.Event(), server=PasswordServer(interactive))

        thread = threading.Thread(target=answer)
        thread.start()
        port = listening.getsockname()[1]
        (tmp_path / "known_hosts").write_text(known_host(f"[127.0.0.1]:{port}", key))
        (tmp_path / "config").write_text(f"Port {port}\nIdentityAgent none\nIdentityFile none\n")
        try:
            yield SshSettings(known_hosts=str(tmp_path / "known_hosts"), config_file=str(tmp_path / "config"))
        finally:
            thread.join()
            for transport in transports:
                transport.close()


@pytest.mark.parametrize("interactive", [False, True])
def test_password(tmp_path: Path, interactive: bool) -> None:
    """A password gets one in, also where the server asks for it in a dialogue."""
    with (
        password_server(tmp_path, interactive=interactive) as settings,
        closing(connect("127.0.0.1", user="bob", port=None, settings=replace(settings, password=PASSWORD))) as found,
    ):
        assert found.alive


@pytest.mark.parametrize("interactive", [False, True])
def test_wrong_password(tmp_path: Path, interactive: bool) -> None:
    """A wrong password is told apart, and never told."""
    with (
        password_server(tmp_path, interactive=interactive) as settings,
        pytest.raises(SshRefused, match=r"does not let the user bob in; tried: .*the password") as caught,
    ):
        connect("127.0.0.1", user="bob", port=None, settings=replace(settings, password="open sesame"))
    assert "open sesame" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r} {settings!r}"
