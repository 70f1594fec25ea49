"""What is written to a command on another host that ends before it has read everything."""

from __future__ import annotations

import getpass
from collections.abc import Iterator

import pytest

from bfrepo.sources.ssh.host import HostLink
from bfrepo.sources.ssh.place import RemoteHost
from bfrepo.ssh.config import SshSettings
from bfrepo.ssh.errors import SshError
from tests.support.sshd import serve

MUCH = bytes(16 << 20)
"""More than can be on its way to a command that reads nothing."""


@pytest.fixture
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostLink]:
    """A connection to a host."""
    with serve(tmp_path_factory.mktemp("sshd")) as sshd:
        how = sshd.options
        settings = SshSettings(
            identity_file=how.identity_file, known_hosts=how.known_hosts, config_file=how.config_file
        )
        link = HostLink(RemoteHost("127.0.0.1", getpass.getuser(), sshd.port), settings)
        yield link
        link.close()


def test_a_command_that_has_enough(link: HostLink) -> None:
    """A command that ends well needed no more, as tar when an archive is over: the rest is not missed."""
    command = link.run(b"head -c 5 >/dev/null")
    command.write(MUCH)
    command.feed(b"")
    assert command.read() == b""
    assert command.status() == 0


def test_a_command_that_fails(link: HostLink) -> None:
    """A command that ends with a failure before it has everything is an error."""
    command = link.run(b"exit 3")
    with pytest.raises(SshError, match="was lost"):
        command.write(MUCH)
