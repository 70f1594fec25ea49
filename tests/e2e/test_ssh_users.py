"""A host with several users: each gets what that user may read, by the way in that the user has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bcrypt
import pytest

from tests.support.command import Command, without_encryption
from tests.support.sshd import Sshd, serve

pytestmark = pytest.mark.root

ALICE, BOB = 4001, 4002
BOBS_PASSWORD = "correct horse"

AS_ON_THE_HOST = """
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/shadow" /etc/shadow
mount --bind "$1/srv" /srv
shift
exec "$@"
"""
"""Runs what follows in a mount namespace: users and files of a host that this machine does not have."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host with two more users: alice has a key, bob has a password. Each has a folder of their own in /srv."""
    if (
        shutil.which("unshare") is None
        or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode
    ):
        pytest.skip("there are no mount namespaces here")
    folder = tmp_path_factory.mktemp("host")
    hashed = bcrypt.hashpw(BOBS_PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    accounts = (("alice", ALICE, "*"), ("bob", BOB, hashed))
    users = "".join(f"{name}:x:{uid}:{uid}::/srv:/bin/sh\n" for name, uid, _ in accounts)
    (folder / "passwd").write_text(Path("/etc/passwd").read_text() + users)
    passwords = "".join(f"{name}:{password}:20000:0:99999:7:::\n" for name, _, password in accounts)
    (folder / "shadow").write_text(Path("/etc/shadow").read_text() + passwords)
    make_files(folder / "srv")
    (folder / "srv" / "keys").mkdir()
    lines = ("AuthorizedKeysFile /srv/keys/%u", "PasswordAuthentication yes")
    before = ("unshare", "--mount", "sh", "-c", AS_ON_THE_HOST, "sh", folder)
    with serve(folder, *lines, before=before) as running:
        shutil.copy(f"{running.ssh}/id_ed25519.pub", folder / "srv" / "keys" / "alice")
        yield running


def make_files(srv: Path) -> None:
    """A folder for everybody, and one for each that nobody else gets into."""
    for name, uid, mode in (("all", 0, 0o755), ("alice", ALICE, 0o700), ("bob", BOB, 0o700)):
        (srv / name).mkdir(parents=True)
        (srv / name / "file").write_text(f"of {name}")
        os.chown(srv / name / "file", uid, uid)
        os.chown(srv / name, uid, uid)
        (srv / name).chmod(mode)


@pytest.fixture
def plain(tmp_path: Path) -> Command:
    """A command with an empty repository, of somebody who has no key."""
    return without_encryption(tmp_path)


def how(host: Sshd, *, key: bool) -> tuple[str, ...]:
    """How to get in."""
    options = ["-o", f"sftp.known-hosts={host.ssh}/known_hosts"]
    return (*options, "-o", f"sftp.identity-file={host.ssh}/id_ed25519") if key else tuple(options)


@pytest.mark.parametrize(("user", "other"), [("alice", "bob"), ("bob", "alice")])
def test_each_user_gets_what_they_may_read(plain: Command, host: Sshd, user: str, other: str) -> None:
    """By key or by password; what belongs to another is reported, all else is there with its owners' names."""
    command = replace(plain, environment={**plain.environment, "BACKUPFORGE_SFTP_PASSWORD": BOBS_PASSWORD})
    where = f"ssh://{user}@127.0.0.1:{host.port}/srv"
    ran = command("backup", where, "--exclude", "/srv/keys", *how(host, key=user == "alice"), status=3)
    assert f"/srv/{other}" in ran.err
    assert BOBS_PASSWORD not in ran.err + ran.out
    listed = {each["path"]: each for each in command("ls", "latest", "--json", "--recursive").lines}
    assert listed[f"/srv/{user}/file"]["user"] == user
    assert "/srv/all/file" in listed
    assert f"/srv/{other}/file" not in listed


def test_a_wrong_password(plain: Command, host: Sshd) -> None:
    """Nobody gets in with it; the error names the user and the host, and tells no password."""
    command = replace(plain, environment={**plain.environment, "BACKUPFORGE_SFTP_PASSWORD": "a wrong guess"})
    ran = command("backup", f"ssh://bob@127.0.0.1:{host.port}/srv", *how(host, key=False), status=1)
    assert f"bob@127.0.0.1:{host.port}" in ran.err
    assert "a wrong guess" not in ran.err
    assert command.snapshots() == []
