"""`restore --target ssh://...`: a snapshot goes to another host."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Command, without_encryption
from tests.support.sshd import Sshd, serve_with_sudo


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A host with a `sudo`."""
    with serve_with_sudo(tmp_path_factory.mktemp("sshd")) as sshd:
        yield sshd


@pytest.fixture
def stored(sshd: Sshd, tmp_path: Path) -> Command:
    """The command of a user who has a key for the host, with a snapshot of a file."""
    command = without_encryption(tmp_path)
    shutil.copytree(sshd.ssh, command.home / ".ssh")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "file").write_text("content")
    command("backup", str(tmp_path / "src"))
    return command


def options(sshd: Sshd) -> tuple[str, ...]:
    """How to get in."""
    return (
        "-o", f"sftp.config-file={sshd.ssh}/config",
        "-o", f"sftp.identity-file={sshd.ssh}/id_ed25519",
        "-o", f"sftp.known-hosts={sshd.ssh}/known_hosts",
    )  # fmt: skip


def test_to_a_host(stored: Command, sshd: Sshd, tmp_path: Path) -> None:
    """It is written there, by sudo where that is asked for, and the summary says what a local one says."""
    out, what = tmp_path / "out dir", f"latest:{tmp_path}/src"
    target = f"ssh://backup{out}".replace(" ", "%20")
    done = stored("restore", what, "--target", target, "--json", *options(sshd)).summary
    assert (done["files_restored"], done["errors"]) == (1, 0)
    assert (out / "file").read_text() == "content"
    again = stored("restore", what, "--target", target, "--remote-sudo", "--json", *options(sshd)).summary
    assert (again["files_restored"], again["files_unchanged"]) == (0, 1)
    asked = (sshd.log.parent / "sudone").read_text().split()
    assert set(asked) == {"mkdir", "readlink", "find", "tar"}


def test_what_is_refused(stored: Command, sshd: Sshd, tmp_path: Path) -> None:
    """Wrong usage ends with 2, saying what is right; nothing is written."""
    for wrong, said in (
        (("--target", "ssh://backup"), "names no path"),
        (("--target", f"ssh://backup{tmp_path}/out", "--delete"), "this machine"),
        (("--target", str(tmp_path / "out"), "--remote-sudo"), "other hosts"),
    ):
        run = stored("restore", "latest", *wrong, *options(sshd), status=2)
        assert said in run.err
    assert not (tmp_path / "out").exists()
