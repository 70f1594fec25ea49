"""What a repository on a server has to stand, whatever the server: everyday life, kill -9, and many clients at once.

A kind of storage joins like this, beside the conformance suite (tests/storage/conformance.py):

    class TestS3(RemoteSuite):
        @pytest.fixture
        def remote(self) -> Iterator[Remote]:
            with serve(...) as server:
                yield Remote(f"s3:{server.url}bucket", {"AWS_ACCESS_KEY_ID": ..., "AWS_SECRET_ACCESS_KEY": ...})
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.backups import incompressible
from tests.support.campaign import campaign_s
from tests.support.clients import quick_folder
from tests.support.command import Command, with_password
from tests.support.crowd import judge, wage
from tests.support.killing import kill_and_go_on, prepare, run_time
from tests.support.program import PASSWORD, ROOT
from tests.support.repositories import use_fast_kdf

_WATCH = """import os, sys
def note(event, told):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system"):
        with open(os.environ["CHILDREN"], "a") as file:
            file.write(f"{told[:2]}\\n")
sys.addaudithook(note)
"""
"""Has a program write down the command lines of its children."""

KILLED = 4
WRITERS = 3
NORMALLY_S = 5.0


@dataclass(frozen=True)
class Remote:
    """A place on a server that is running, for any number of repositories.

    `location` has no slash at its end. `environment` holds what a program needs to get in, such as keys; `secrets` are
    the words in it that nobody may ever read.
    """

    location: str
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()

    def place(self, name: str) -> str:
        """The location of one repository."""
        return f"{self.location}/{name}"


class RemoteSuite:
    """The suite. Subclasses provide `remote`."""

    @pytest.fixture
    def remote(self) -> Remote:
        """A server."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def keys(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        """What it takes to get in, for this process and its children; and key slots that take no time to open."""
        use_fast_kdf(monkeypatch)
        for name, value in remote.environment.items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    def command(self, remote: Remote, tmp_path: Path) -> Command:
        """The program, told of a place where there is no repository yet."""
        (tmp_path / "watch").mkdir()
        (tmp_path / "watch" / "sitecustomize.py").write_text(_WATCH)
        environment = {
            **remote.environment,
            "BACKUPFORGE_REPOSITORY": remote.place("commands"),
            "PYTHONPATH": f"{ROOT}:{tmp_path / 'watch'}",
            "CHILDREN": str(tmp_path / "children"),
        }
        return replace(with_password(tmp_path), environment=environment)

    @pytest.mark.slow
    def test_everyday_life(self, command: Command, remote: Remote, tmp_path: Path) -> None:
        """Backups, restores, forget, prune and check do on a server what they do on a disk, and tell no secret."""
        said = [command("list", status=10), command("init"), command("init", status=1)]
        source, target = tmp_path / "source", tmp_path / "target"
        first = _fill(source, range(30))
        said.append(command("backup", source))
        second = _fill(source, range(20, 50))
        said += [command("backup", source), command("backup", source), command("check", "--read-data")]
        assert len(command.snapshots()) == 3
        for number, (snapshot, content) in enumerate([("latest~2", first), ("latest", second)]):
            said.append(command("restore", f"{snapshot}:{source}", "--target", target / str(number)))
            assert _content(target / str(number)) == content
        packs = _packs(command)
        said += [command("forget", "--keep-last", "1"), command("prune", "--grace", "0", "--max-unused", "0")]
        assert packs - _packs(command), said[-1].out
        said += [command("check", "--read-data"), command("restore", f"latest:{source}", "--target", target / "last")]
        assert _content(target / "last") == second
        (command.home / "given").write_text(PASSWORD)
        said.append(command("--log-file", tmp_path / "log", "--password-command", "cat given", "check"))
        (command.home / "given").unlink()
        assert "'given'" in (tmp_path / "children").read_text()
        for secret in (*remote.secrets, PASSWORD):
            assert not [ran for ran in said if secret in ran.out + ran.err]
            assert not [path for path in tmp_path.rglob("*") if path.is_file() and _holds(path, secret)]

    @pytest.mark.slow
    def test_killed_backups(self, remote: Remote) -> None:
        """INV-1, INV-2: after kill -9 all objects are whole, snapshots restore, the next backup reuses what it can."""
        chance = random.Random(20240517)
        prepare(remote.place("rehearsal"))
        duration = run_time(remote.place("rehearsal"))
        for number in range(KILLED):
            place = remote.place(f"round-{number}")
            prepare(place)
            kill_and_go_on((number + chance.random()) / KILLED * duration, place)

    @pytest.mark.slow
    @pytest.mark.parametrize("kills", [False, True], ids=["", "kill -9"])
    def test_many_at_once(self, remote: Remote, kills: bool) -> None:
        """INV-8, INV-2: no snapshot that a backup finished is hurt by prunes beside it, whoever is killed."""
        with quick_folder() as folder:
            campaign = wage(
                remote.place("crowd"),
                folder,
                campaign_s(NORMALLY_S),
                grace_s=0,
                kills=kills,
                backups=WRITERS,
                least=WRITERS,
            )
            assert campaign.counted["backup"] >= WRITERS
            judge(campaign)


def _fill(folder: Path, numbers: range) -> dict[str, bytes]:
    """Files of which ranges that overlap have some in common; gives what the folder holds then."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    for number in numbers:
        (folder / f"file-{number}").write_bytes(incompressible(number, 200 * number * number))
    return _content(folder)


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _packs(command: Command) -> set[str]:
    return set(command("list", "packs").out.split())


def _holds(path: Path, secret: str) -> bool:
    return secret.encode() in path.read_bytes()
