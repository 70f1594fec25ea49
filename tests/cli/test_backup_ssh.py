from __future__ import annotations

import getpass
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command, without_encryption
from tests.support.program import ROOT
from tests.support.sshd import Sshd, serve, serve_with_sudo


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host with a `sudo`."""
    with serve_with_sudo(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture
def plain(sshd: Sshd, tmp_path: Path) -> Command:
    """The command of a user who has a key for the host, with an empty repository."""
    command = without_encryption(tmp_path)
    shutil.copytree(sshd.ssh, command.home / ".ssh")
    return command


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Something to back up, old enough not to be read twice."""
    (tmp_path / "src" / "below").mkdir(parents=True)
    (tmp_path / "src" / "below" / "file").write_text("content")
    time.sleep(0.3)
    return tmp_path / "src"


def options(sshd: Sshd) -> tuple[str, ...]:
    """How to get in."""
    return (
        "-o", f"sftp.config-file={sshd.ssh}/config",
        "-o", f"sftp.identity-file={sshd.ssh}/id_ed25519",
        "-o", f"sftp.known-hosts={sshd.ssh}/known_hosts",
    )  # fmt: skip


def test_a_host_by_its_name(plain: Command, sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """A host of the SSH configuration is backed up under its own name; again, it is compared with that snapshot."""
    where = f"ssh://backup{source}"
    first = plain("backup", where, "--json", *options(sshd)).summary
    assert (first["files_new"], first["errors"]) == (1, 0)
    [listed] = plain("list", "--json").document
    assert (listed["hostname"], listed["paths"]) == ("backup", [str(source)])
    second = plain("backup", where, "--json", *options(sshd)).summary
    assert (second["files_unmodified"], second["parent"]) == (1, first["snapshot_id"])
    plain("restore", f"latest:{source}", "--target", tmp_path / "out")
    assert (tmp_path / "out" / "below" / "file").read_text() == "content"


def test_sudo(plain: Command, sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """With --remote-sudo, find and tar run by sudo there, without a question."""
    plain("backup", f"ssh://backup{source}", "--remote-sudo", *options(sshd))
    asked = (sshd.host_key.parent / "sudone").read_text().split()
    assert set(asked) == {"find", "tar"}


def test_what_a_command_prints_there(plain: Command, sshd: Sshd, tmp_path: Path) -> None:
    """A command's output on the host becomes a file; when it fails there is no snapshot, and its words are shown."""
    run = ("backup", "ssh://backup", *options(sshd), "--stdin-from-command", "--stdin-filename", "dump.sql", "--")
    plain(*run, "printf", "%s|%s", "it's", "a b")
    assert plain("dump", "latest", "/dump.sql").out == "it's|a b"
    failed = plain(*run, "sh", "-c", "echo half; echo cannot go on >&2; exit 3", status=1)
    assert "sh failed with exit status 3" in failed.err
    assert "cannot go on" in failed.err
    assert len(plain.snapshots()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ssh://backup/a", "/b"), "of this machine or of another"),
        (("ssh://backup/a", "ssh://other/b"), "of one host"),
        (("ssh://backup",), "names no path"),
        (("ssh://backup/a", "--gitignore"), "--gitignore"),
        (("ssh://backup/a", "--stdin-from-command", "--", "true"), "no path"),
        (("/a", "--remote-sudo"), "--remote-sudo"),
    ],
)
def test_what_makes_no_sense(plain: Command, arguments: tuple[str, ...], message: str) -> None:
    """What cannot be meant is refused before anything is connected to."""
    assert message in plain("backup", *arguments, status=2).err


def test_a_host_that_is_not_known(plain: Command, sshd: Sshd, source: Path, tmp_path: Path) -> None:
    """A host whose key is not known is refused, with a hint, and nothing is stored."""
    (tmp_path / "empty").touch()
    how = (*options(sshd)[:4], "-o", f"sftp.known-hosts={tmp_path}/empty")
    failed = plain("backup", f"ssh://{getpass.getuser()}@127.0.0.1:{sshd.port}{source}", *how, status=1)
    assert "not known" in failed.err or "no key" in failed.err, failed.err
    assert plain.snapshots() == []


def test_the_script_of_the_how_to(plain: Command, source: Path, tmp_path: Path) -> None:
    """With the script that the how-to gives for a key that can do nothing else, a backup and a second one work."""
    page = (ROOT / "docs" / "how-to" / "back-up-ssh.md").read_text()
    script = page.partition("```sh\n")[2].partition("```")[0]
    on_the_way = " ".join(str(each) for each in source.parents if each.name)
    script = script.replace("find -H /srv ", f"find -H {on_the_way} ").replace("/srv/data", str(source))
    pull = tmp_path / "pull"
    pull.write_text(script)
    pull.chmod(0o755)
    with serve(tmp_path / "strict", f'ForceCommand {pull} "$SSH_ORIGINAL_COMMAND"') as strict:
        first = plain("backup", f"ssh://backup{source}", "--json", *options(strict)).summary
        assert (first["files_new"], first["errors"]) == (1, 0)
        (source / "more").write_text("more")
        second = plain("backup", f"ssh://backup{source}", "--json", *options(strict)).summary
        assert (second["files_new"], second["files_unmodified"]) == (1, 1)
        refused = ("--stdin-from-command", "--", "cat", "/etc/shadow")
        plain("backup", "ssh://backup", *options(strict), *refused, status=1)
