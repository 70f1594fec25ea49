from __future__ import annotations

import os

import pytest

from bfrepo.core.errors import InvalidValue, UsageError
from bfrepo.sources.ssh.place import RemoteHost, is_remote, parse_remote, parse_remotes


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("ssh://shop/srv/data", RemoteHost("shop"), b"/srv/data"),
        ("ssh://me@shop:2222/srv//data/", RemoteHost("shop", "me", 2222), b"/srv/data"),
        ("ssh://[::1]:22/", RemoteHost("::1", None, 22), b"/"),
        ("ssh://shop/a%20b%3F%FF", RemoteHost("shop"), b"/a b?\xff"),
        ("ssh://shop/" + os.fsdecode(b"\xff\xc3\xbc"), RemoteHost("shop"), b"/\xff\xc3\xbc"),
        ("ssh://shop/a/../../etc", RemoteHost("shop"), b"/etc"),
        ("ssh://shop", RemoteHost("shop"), b""),
    ],
)
def test_places(text: str, host: RemoteHost, path: bytes) -> None:
    """A place is a host, perhaps with a user and a port, and an absolute path, tidy."""
    assert is_remote(text)
    assert parse_remote(text) == (host, path)


@pytest.mark.parametrize(
    "text", ["ssh:///path", "ssh://shop:x/", "ssh://shop:99999/", "ssh://shop/a?b", "ssh://me:pw@shop/"]
)
def test_what_is_no_place(text: str) -> None:
    """What is not a place is refused, a password in it too, which is not repeated."""
    with pytest.raises(InvalidValue) as caught:
        parse_remote(text)
    assert "pw" not in str(caught.value)


def test_one_host_at_a_time() -> None:
    """A snapshot is of one host, and of paths there."""
    assert parse_remotes(["ssh://shop/b", "ssh://shop/a", "ssh://shop/b/"]) == (RemoteHost("shop"), (b"/a", b"/b"))
    for wrong in (["ssh://shop/a", "/b"], ["ssh://shop/a", "ssh://shed/a"], ["ssh://shop"]):
        with pytest.raises(UsageError):
            parse_remotes(wrong)
