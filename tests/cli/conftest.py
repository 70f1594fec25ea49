"""Running the program: in this process where that is enough, as a process of its own where it matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import run
from tests.support.program import PASSWORD, Bf, Ran, process_environment
from tests.support.repositories import use_fast_kdf


@pytest.fixture
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment without settings, a home that is empty, and a terminal of 100 columns; the home."""
    for name in [name for name in os.environ if name.startswith("BACKUPFORGE_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    settings = {"HOME": home, "XDG_CONFIG_HOME": home / "config", "XDG_CACHE_HOME": home / "cache", "COLUMNS": 100}
    for name, value in {**settings, "BACKUPFORGE_PASSWORD": PASSWORD, "TZ": "UTC"}.items():
        monkeypatch.setenv(name, str(value))
    return home


@pytest.fixture
def repository(tmp_path: Path, clean_environment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment says that the repository is; there is none yet."""
    path = tmp_path / "repository"
    monkeypatch.setenv("BACKUPFORGE_REPOSITORY", str(path))
    return path


@pytest.fixture
def bf(repository: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Bf:
    """Runs a command line in this process, with a KDF that takes no time."""
    use_fast_kdf(monkeypatch)

    def call(*arguments: str | os.PathLike[str]) -> Ran:
        capfd.readouterr()
        status = run([os.fspath(each) for each in arguments], "backupforge")
        out, err = capfd.readouterr()
        return Ran(status, out, err)

    return call


@pytest.fixture
def process(repository: Path) -> Bf:
    """Runs a command line in a process of its own, without a terminal."""

    def call(*arguments: str | os.PathLike[str], stdin: bytes = b"", **variables: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            input=stdin,
            capture_output=True,
            env=process_environment(variables),
            start_new_session=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Something to back up: three files in two directories, old enough to be told from later changes."""
    folder = tmp_path / "files"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("first\n")
    (folder / "b.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "sub" / "c.txt").write_text("third\n")
    long_ago = 1_600_000_000
    for path in (folder / "a.txt", folder / "b.bin", folder / "sub" / "c.txt", folder / "sub", folder):
        os.utime(path, (long_ago, long_ago))
    return folder


@pytest.fixture
def backed_up(bf: Bf, files: Path) -> str:
    """A repository that holds one snapshot of `files`; the snapshot's ID."""
    assert bf("init").status == 0
    snapshot: str = bf("backup", "--json", files).summary["snapshot_id"]
    return snapshot
